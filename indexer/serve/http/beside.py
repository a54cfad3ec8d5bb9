"""Folders and files beside a database that other commands wrote. They are data: read, checked, never run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from indexer.store.table import EmbeddingStore

MOST_FILES = 200  # of one kind
MOST_BYTES = 16 << 20  # of a record that is read


def files_beside(store: EmbeddingStore, pattern: str, most_bytes: int = MOST_BYTES) -> list[Path]:
    """Plain files of acceptable size by name, the pattern relative to the database's folder; links are left out."""
    if store.path is None:
        return []
    folder = Path(store.uri).resolve().parent
    return list(islice(_sound(folder, sorted(folder.glob(pattern)), most_bytes), MOST_FILES))


def _sound(folder: Path, found: list[Path], most_bytes: int) -> Iterator[Path]:
    for path in found:
        way = [path, *(p for p in path.parents if p != folder and folder in p.parents)]
        if not any(p.is_symlink() for p in way) and path.is_file() and path.stat().st_size <= most_bytes:
            yield path


def stamp_of(path: Path) -> tuple[str, int, int, int]:
    """What differs once the file was written again. Raises OSError."""
    facts = path.stat()
    return str(path), facts.st_ino, facts.st_size, facts.st_mtime_ns

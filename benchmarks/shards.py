"""WebDataset shards of files, whose keys are their numbers."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path


def key(number: int) -> str:
    return f"{number:08d}"


def write_shards(folder: Path, files: Sequence[bytes], suffix: str, *, each: int) -> None:
    """Shards of `each` files in a new folder."""
    folder.mkdir()
    for start in range(0, len(files), each):
        with tarfile.open(folder / f"{key(start)}.tar", "w") as archive:
            for number, data in enumerate(files[start : start + each], start):
                header = tarfile.TarInfo(f"{key(number)}.{suffix}")
                header.size = len(data)
                archive.addfile(header, io.BytesIO(data))

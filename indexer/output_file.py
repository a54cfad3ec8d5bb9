"""Output files of commands: checked before the work, and written completely or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from indexer.disk import fsync
from indexer.errors import InputError, sentence


def require_writable(path: Path, option: str = "") -> None:
    """Raise InputError where this file cannot be written. To be called before the work."""
    named = f"{option} {path}".strip()
    if path.is_dir():
        raise InputError(f"{named} is a folder. Name a file in it.")
    if not path.parent.is_dir():
        raise InputError(f"{named}: there is no folder {path.parent} to write into. Make it, or name another.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{named}: the folder {path.parent} may not be written to. Name another.")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields the path to write to; an existing file at `path` is replaced only once writing has succeeded.

    Raises InputError for an OSError while writing. A device or pipe is written to directly.
    """
    special = path.exists() and not path.is_file() and not path.is_dir()
    partial = path if special else path.parent / f".{secrets.token_hex(6)}.partial"
    try:
        yield partial
        if not special:
            fsync(partial)
            partial.replace(path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror or sentence(error)}. Fix the cause, or name another file."
        ) from error
    finally:
        if not special:
            partial.unlink(missing_ok=True)

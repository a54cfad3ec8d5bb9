"""Hashes of weights files."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from indexer.errors import WeightsMismatch

HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.pth$")


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verified(path: Path) -> Path:
    """`path`, once its SHA-256 agrees with the hash in a name of the form name-<hex>.pth; other names pass.

    Raises WeightsMismatch for an altered or truncated file.
    """
    found = HASH_IN_NAME.search(path.name)
    if found and not sha256(path).startswith(found[1]):
        raise WeightsMismatch(
            f"{path} was altered or truncated: its SHA-256 does not begin with {found[1]}. Download it again."
        )
    return path

"""Folders of loose images as shards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote_to_bytes

from indexer.archive.samples import Group, image_suffix, plain_name
from indexer.types import Failure, Sample, Shard


def read_files(shard: Shard) -> Iterator[Sample | Failure]:
    """The images of one bucket of a folder. The key is the path with its suffix, since a.png may lie beside a.jpg."""
    root = Path(shard.url)
    for name in shard.files:
        path, name = root / name, plain_name(name)
        group = Group(shard.name, name)
        try:
            data = path.read_bytes()
            sidecar = path.with_suffix(".json")
            if sidecar.is_file():
                group.add(sidecar.name, "json", 0, sidecar.read_bytes())
        except OSError as error:
            group.fail("unreadable file", str(error), 0, 0, image_suffix(name) or "", name)
            yield from group.failures
            continue
        parent = PurePosixPath(name).parent.as_posix()
        if parent != ".":
            group.metadata.setdefault("folder", parent)  # a folder-per-class tree keeps its classes
        group.add(name, image_suffix(name) or "", 0, data)
        yield from group.close()


def named_file(root: Path, member: str) -> Path:
    """A folder's file by the name in the table, which may stand for bytes that are no UTF-8."""
    path = root / member
    return path if path.exists() else root / os.fsdecode(unquote_to_bytes(member))

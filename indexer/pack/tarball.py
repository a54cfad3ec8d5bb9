"""Writes reproducible tar shards: no times, no owners, a fixed order."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_shard(path: Path, samples: Iterable[tuple[str, str, bytes, dict[str, Any]]]) -> int:
    """Write samples (key, suffix, image, metadata), `key.suffix` before `key.json`; returns the shard's size in bytes.

    The file appears under its name only once it is complete and synced to the disk.
    """
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        # PAX: names of any length and script
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for key, suffix, image, metadata in samples:
                _add(archive, f"{key}.{suffix}", image)
                _add(archive, f"{key}.json", json_bytes(metadata))
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has written
        file.flush()
        os.fsync(file.fileno())
        nbytes = file.tell()
    partial.replace(path)
    return nbytes


def json_bytes(metadata: dict[str, Any]) -> bytes:
    """One line of JSON with sorted keys. Raises ValueError for NaN and infinity, which JSON lacks."""
    return json.dumps(metadata, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)  # TarInfo's defaults: mtime 0, owner 0
    header.size, header.mode = len(data), 0o644
    archive.addfile(header, io.BytesIO(data))

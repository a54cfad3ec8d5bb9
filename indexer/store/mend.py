"""Finds versions of a table whose files are not whole, and rolls them back.

Lance calls no fsync: after a power failure its newest manifest, or a data file that it names, may be empty. So the
writer syncs a table after each commit and before the next step; at most the newest commit of a table is then in
doubt, and `mend`, under the writer's lock, drops that version where its files are not whole. The ledger row of a
shard is written after its rows were synced, so nothing that a ledger row promises can be lost this way.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import lance

from indexer.disk import fsync
from indexer.errors import StoreError
from indexer.store.lance_errors import first_line, is_panic, stop_if_interrupted
from indexer.store.schema import UNREADABLE

MANIFEST_DIGITS = 20  # Lance names a manifest 2^64 - 1 - version, so that the newest sorts first
IN_DOUBT = 16  # versions; we make fewer before they are synced
FOOTER = b"LANC"  # the last bytes of a whole data file


def mend(path: Path) -> int:
    """Roll back the newest versions of a table whose files are not whole; returns how many.

    A recent version below a whole one goes too where its manifest cannot be read: clean-up would fail on it. Only
    the holder of the writer's lock may call it. Raises StoreError where no older version is whole either, and where
    the files cannot be looked at.
    """
    read_tags(path, drop_broken=True)
    manifests = _manifests(path)
    broken: list[Path] = []
    cause: str | None = None
    for manifest in manifests[: IN_DOUBT + 1]:
        cause = damage(path, _version_of(manifest))
        if cause is None:
            break
        broken.append(manifest)
    if cause is not None and len(broken) > IN_DOUBT:
        raise StoreError(f"{path} is damaged in its last {len(broken)} versions ({cause}). Restore it from a backup.")
    older = [m for m in manifests[len(broken) + 1 : IN_DOUBT + 1] if not _readable(path, _version_of(m))]
    for manifest in (*broken, *older):  # also the only one: then the table was never finished
        manifest.replace(manifest.with_suffix(".damaged"))
    if broken or older:
        fsync(path / "_versions")
    return len(broken)


def taken_back(path: Path) -> list[Path]:
    """The manifests that `mend` set aside: rows may be lost until the ledger was compared with what is stored."""
    return list((path / "_versions").glob("*.damaged"))


def _readable(path: Path, version: int) -> bool:
    try:
        return bool(lance.dataset(str(path), version=version).version == version)
    except (ValueError, OSError) as error:
        stop_if_interrupted(error)
        return _passing(error)  # where it cannot be decided, the version stays
    except BaseException as error:
        if is_panic(error):
            return False
        raise


def _passing(error: Exception) -> bool:
    """An error that says nothing about the file itself: no permission, too many open files, a failing disk."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno != errno.ENOENT
    return "os error" in str(error) and "os error 2)" not in str(error)  # Lance's own carry no number


def newest_damage(path: Path, whole: set[str] | None = None) -> str | None:
    """Why the newest version cannot be read; None where it is whole or there is none. `whole` as in `damage`."""
    manifests = _manifests(path)
    return damage(path, _version_of(manifests[0]), whole) if manifests else None


def damage(path: Path, version: int, whole: set[str] | None = None) -> str | None:
    """Why this version cannot be read, or None where all its files are there and whole.

    `whole` holds the names of files found whole before, which are not looked at again; those found now are added.
    Raises StoreError where it cannot be decided, as without permission: such a version must not be rolled back.
    """
    whole = set() if whole is None else whole
    try:
        dataset = lance.dataset(str(path), version=version)
        if dataset.version != version:  # a manifest of zeros reads as version 0
            return f"the manifest of version {version} is empty"
        scannable = not any(name in UNREADABLE for name in dataset.schema.names)  # if not, its files may still be whole
        for fragment in dataset.get_fragments():
            cause = _fragment_damage(path, fragment, whole, scannable=scannable)
            if cause is not None:
                return cause
    except (ValueError, OSError) as error:
        stop_if_interrupted(error)
        if _passing(error):
            raise StoreError(f"{path} cannot be read ({first_line(error)}).") from error
        return first_line(error)
    except BaseException as error:
        if is_panic(error):
            return "Lance cannot read it"
        raise
    return None


def _fragment_damage(path: Path, fragment: Any, whole: set[str], *, scannable: bool) -> str | None:
    for file in fragment.data_files():
        if file.path not in whole:
            cause = _file_damage(path / "data" / file.path, file.file_size_bytes)
            if cause is not None:
                return cause
            whole.add(file.path)
    deletions = fragment.metadata.deletion_file
    if scannable and deletions is not None and (name := deletions.path(fragment.fragment_id)) not in whole:
        fragment.to_table(columns=[], with_row_id=True)  # raises where the deletion file cannot be read
        whole.add(name)
    return None


def _file_damage(file: Path, nbytes: int | None) -> str | None:
    with file.open("rb") as stream:
        found = stream.seek(0, os.SEEK_END)
        if nbytes and found != nbytes:
            return f"{file.name} has {found} bytes, not {nbytes}"
        stream.seek(max(found - len(FOOTER), 0))
        return None if stream.read() == FOOTER else f"{file.name} has no footer"


def read_tags(path: Path, *, drop_broken: bool = False) -> dict[str, int]:
    """Tag → version. Lance can neither list nor update tags while one file among them is broken."""
    tags: dict[str, int] = {}
    for file in sorted((path / "_refs" / "tags").glob("*.json")):
        try:
            tags[file.stem] = int(json.loads(file.read_bytes())["version"])
        except (ValueError, KeyError, TypeError):
            if drop_broken:
                file.unlink(missing_ok=True)
        except FileNotFoundError:
            continue
    return tags


def exists(path: Path) -> bool:
    """Is there a table with at least one version. A crash while it was made leaves a folder without one."""
    return bool(_manifests(path))


def _manifests(path: Path) -> list[Path]:
    """Newest first. A detached version's ("d" and its number), which a killed import of labels leaves, is none."""
    found = (path / "_versions").glob("*.manifest")
    return sorted(m for m in found if len(m.stem) == MANIFEST_DIGITS and m.stem.isdecimal())


def manifest_path(path: Path, version: int) -> Path:
    """Where Lance keeps the manifest of a table's version."""
    return path / "_versions" / f"{2**64 - 1 - version:0{MANIFEST_DIGITS}d}.manifest"


def _version_of(manifest: Path) -> int:
    return 2**64 - 1 - int(manifest.stem)

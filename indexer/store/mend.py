"""Finds versions of a table with damaged files, and rolls them back.

Lance calls no fsync: after a power failure its newest manifest, or a data file named in it, may be empty. The writer
therefore syncs a table after each commit and before the next step, so that at most the newest commit can be damaged.
`mend`, under the writer's lock, drops that version if it is. A shard's ledger row is written after its rows were
synced, so a rollback cannot lose rows that the ledger counts.
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

MANIFEST_DIGITS = 20  # Lance names a manifest 2^64 - 1 - version, zero-padded, so that the newest sorts first
IN_DOUBT = 16  # newest versions that may be damaged; the writer makes fewer before a sync
CHECK_CACHE_BYTES = 1 << 20  # of file metadata that Lance keeps while files are checked; its default is 1 GiB
LOST = ".lost.damaged"  # beside a damaged manifest: what went with it
FOOTER = b"LANC"  # the last bytes of a complete data file


def mend(path: Path) -> int:
    """Roll back the newest versions of a table that have damaged files; returns how many.

    A recent older version is removed too where its manifest cannot be read: clean-up would fail on it. The caller must
    hold the writer's lock. Raises StoreError where no older version is whole, and where files cannot be read for
    another reason than damage.
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
    before = newest_columns(path) if broken else (0, [])
    for manifest in (*broken, *older):  # also the only version: the table was then never complete
        manifest.replace(manifest.with_suffix(".damaged"))
    if broken and exists(path):
        now = newest_columns(path)
        lost = {"from": before[0], "to": now[0], "columns": [name for name in before[1] if name not in now[1]]}
        broken[0].with_suffix(LOST).write_text(json.dumps(lost), encoding="utf-8")
    if broken or older:
        fsync(path / "_versions")
    return len(broken)


def newest_columns(path: Path) -> tuple[int, list[str]]:
    """Version and columns by the newest manifest that can be read, though files may be damaged; (0, []) without one."""
    for manifest in _manifests(path)[: IN_DOUBT + 1]:
        version = _version_of(manifest)
        try:
            dataset = lance.dataset(str(path), version=version, metadata_cache_size_bytes=CHECK_CACHE_BYTES)
            if dataset.version == version:
                return version, dataset.schema.names
        except (ValueError, OSError) as error:
            stop_if_interrupted(error)
        except BaseException as error:
            if not is_panic(error):
                raise
    return 0, []


def lost_by(damaged: Path) -> str:
    """What a rollback took with it, from the file that `mend` wrote; "" for the other files of `rolled_back`."""
    if not damaged.name.endswith(LOST):
        return ""
    try:
        facts = json.loads(damaged.read_bytes())
        words = f"its newest files were damaged: rolled back from version {facts['from']} to {facts['to']}"
        gone = ", ".join(facts["columns"])
    except (ValueError, KeyError, TypeError):
        return "its newest files were damaged: rolled back"
    return f"{words}, which has no columns {gone}: join them again (`indexer labels`)" if gone else words


def rolled_back(path: Path) -> list[Path]:
    """What `mend` left of versions that it rolled back: rows may be missing until the ledger was checked."""
    return list((path / "_versions").glob("*.damaged"))


def _readable(path: Path, version: int) -> bool:
    try:
        return bool(lance.dataset(str(path), version=version).version == version)
    except (ValueError, OSError) as error:
        stop_if_interrupted(error)
        return _passing(error)  # undecided: keep the version
    except BaseException as error:
        if is_panic(error):
            return False
        raise


def _passing(error: Exception) -> bool:
    """Whether an error says nothing about the file's content: no permission, too many open files, a failing disk."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno != errno.ENOENT
    return "os error" in str(error) and "os error 2)" not in str(error)  # Lance's own errors have no number


def newest_damage(path: Path, whole: set[str] | None = None) -> str | None:
    """The damage of the newest version; None where it is whole or there is none. `whole` as in `damage`."""
    manifests = _manifests(path)
    return damage(path, _version_of(manifests[0]), whole) if manifests else None


def damage(path: Path, version: int, whole: set[str] | None = None) -> str | None:
    """The damage of this version, or None where all of its files are complete.

    `whole` holds the names of files that are not checked again; files found complete are added to it. Raises
    StoreError where damage cannot be decided, e.g. without permission: such a version must not be rolled back.
    """
    whole = set() if whole is None else whole
    try:
        dataset = lance.dataset(str(path), version=version, metadata_cache_size_bytes=CHECK_CACHE_BYTES)
        if dataset.version != version:  # a manifest of zeros reads as version 0
            return f"the manifest of version {version} is empty"
        # If not, its files may still be complete
        scannable = not any(name in UNREADABLE for name in dataset.schema.names)
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
            if cause is None and scannable:
                cause = unreadable(fragment)
            if cause is not None:
                return cause
            whole.add(file.path)
    deletions = fragment.metadata.deletion_file
    if scannable and deletions is not None and (name := deletions.path(fragment.fragment_id)) not in whole:
        fragment.to_table(columns=[], with_row_id=True)  # raises where the deletion file cannot be read
        whole.add(name)
    return None


def unreadable(fragment: Any) -> str | None:
    """The damage that Lance finds in a fragment's first row, with the name of its file; None where it reads it.

    A scan reads ahead in threads of its own, and ends the whole process where the encodings that a data file describes
    are damaged. A row that is taken by its number raises an error there.
    """
    try:
        fragment.take([0])
    except (ValueError, OSError) as error:
        stop_if_interrupted(error)
        if _passing(error):
            raise
        return f"{', '.join(file.path for file in fragment.data_files())} is damaged: {first_line(error)[:120]}"
    except BaseException as error:
        if is_panic(error):
            return f"{', '.join(file.path for file in fragment.data_files())} is damaged"
        raise
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
    """Whether there is a table with at least one version. A crash during creation leaves a folder without one."""
    return bool(_manifests(path))


def _manifests(path: Path) -> list[Path]:
    """Manifests, newest first, without those of detached versions ("d" and a number), which a killed import of labels
    leaves.
    """
    found = (path / "_versions").glob("*.manifest")
    return sorted(m for m in found if len(m.stem) == MANIFEST_DIGITS and m.stem.isdecimal())


def manifest_path(path: Path, version: int) -> Path:
    """The path of the manifest of a table's version."""
    return path / "_versions" / f"{2**64 - 1 - version:0{MANIFEST_DIGITS}d}.manifest"


def _version_of(manifest: Path) -> int:
    return 2**64 - 1 - int(manifest.stem)

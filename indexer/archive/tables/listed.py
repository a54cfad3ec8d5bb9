"""Image files that a table lists: read only below the table's folder, or the folder that the user named."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from indexer.addresses import identity, is_remote
from indexer.archive.roots import is_below, named
from indexer.archive.samples import plain_name
from indexer.archive.tables.named import TableOptions, image_folder
from indexer.errors import ReadError
from indexer.types import Failure, Sample, Shard
from indexer.user_tables.joining import image_suffix

MAX_FILE = 2 << 30  # bytes


class ListedFiles:
    """The files that one table lists."""

    def __init__(self, url: str, options: TableOptions) -> None:
        self._base, self._folder = Path(url).parent, image_folder(url, options)

    def sample(self, shard: Shard, key: str, path: str, row: int, fields: dict[str, object]) -> Sample | Failure:
        """The sample of a row; the place is the file's path relative to the table's folder, and the row's number."""
        suffix = image_suffix(path) or ""
        member, reason, detail = self._member(path)
        if (member, row) in shard.stored:
            return Sample(shard.name, key, suffix, b"", row, 0, {}, member)
        data = b""
        if not reason:
            try:
                data = _read(self._base / member)
            except OSError as error:
                reason, detail = "unreadable file", str(error)
            else:
                reason, detail = ("", "") if data else ("empty file", path)
        if reason:
            return Failure(shard.name, key, "read", reason, detail[:500], row, 0, suffix, member)
        return Sample(shard.name, key, suffix, data, row, len(data), dict(fields), member)

    def identity(self, table: str, paths: Iterable[str], *, hash_content: bool) -> str:
        """Changes when the table or one of the files may have changed. Begins with the table's, up to its first "-"."""
        facts = hashlib.sha256(table.encode())
        for path in paths:
            member, reason, _ = self._member(path)
            try:
                known = "" if reason else identity(str(self._base / member), member, hash_content=hash_content)
            except OSError:
                known = "gone"  # reading the row reports it
            facts.update(os.fsencode(f"{path}\0{known}\0"))
        return f"{table.partition('-')[0]}-{facts.hexdigest()[:32]}"

    def _member(self, path: str) -> tuple[str, str, str]:
        """The file's path relative to the table's folder; or why it is not read, and the detail."""
        if not path:
            return "", "no path in the row", ""
        if is_remote(path):
            return (
                "",
                "an address, not a file",
                f"{path}: addresses in tables are not fetched. Download the images first",
            )
        if "\0" in path:
            return "", "unreadable file", plain_name(path)
        file = Path(os.path.normpath(self._folder / path.replace("\\", "/")))
        if not file.resolve().is_relative_to(self._folder):
            return (
                "",
                "file outside the folder",
                f"{path} is not below {self._folder}: name its folder with --image-root",
            )
        return os.path.relpath(file, self._base), "", ""


def read_listed(url: str, member: str, roots: Sequence[str] | None) -> bytes:
    """A listed file's bytes. Raises OSError, ReadError."""
    path = (Path(url).parent / member).resolve()
    if roots is not None and not is_below(str(path), named(roots)):
        raise ReadError(f"{member} lies below no folder that you indexed this table from: name it with --pictures-from")
    return _read(path)


def _read(path: Path) -> bytes:
    if not path.is_file():  # reading a pipe would block
        raise OSError(f"no such file: {path}")
    if path.stat().st_size > MAX_FILE:
        raise OSError(f"over {MAX_FILE} bytes")
    return path.read_bytes()

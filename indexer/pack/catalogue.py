"""The state of each file of a source, in a temporary SQLite database, so that memory does not grow with the archive.

Rows are in the order of their paths. A path is stored as its code points in UTF-8, surrogates included, so that SQLite
sorts as Python does. The file is unlinked and ends with the process.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any

from indexer.archive.walk import ListedFile
from indexer.pack.source import Scanned

PAGE = 1000  # rows read at once
CACHE_KIB = 4096  # SQLite's cache; small, since the kernel caches the file too
_SCHEMA = """
CREATE TABLE files (
    path BLOB PRIMARY KEY, nbytes INTEGER, modified INTEGER, left_out TEXT,
    kind TEXT, suffix TEXT, instance TEXT, burned_in INTEGER, stem TEXT,
    key TEXT, same_instance TEXT, series TEXT, leader BLOB,
    read_bytes INTEGER, sha256 TEXT, dropped TEXT, note TEXT
) WITHOUT ROWID
"""
IS_DICOM = "kind = 'dicom' OR suffix IN ('dcm', 'dicom')"  # equals `plan.is_dicom`
_KEPT = "path, nbytes, modified, kind, suffix, instance, burned_in, key, same_instance, leader IS NOT NULL, series"
_IMAGES = "left_out = '' AND (leader IS NULL OR leader = path)"


class Catalogue:
    """The files of one run. A context manager for use by one thread."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # "": a temporary file
        for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{CACHE_KIB}", "temp_store=FILE"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute(_SCHEMA)

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._db.close()

    def add(self, files: Iterable[ListedFile]) -> int:
        """Add files; a path that a source lists twice is stored once. Returns the number of files."""
        insert = "INSERT OR IGNORE INTO files (path, nbytes, modified, left_out) VALUES (?, ?, ?, ?)"
        self._db.execute("BEGIN")
        self._db.executemany(insert, ((_bytes(f.path), f.nbytes, f.modified, f.left_out) for f in files))
        self._db.execute("COMMIT")
        return self.count("1")

    def found(self) -> Iterator[ListedFile]:
        """All files in path order, as they were added."""
        for path, *facts in self._pages("path, nbytes, modified, left_out", "1"):
            yield ListedFile(_text(path), *facts)

    def record(
        self,
        scanned: Iterable[Scanned],
        stem_of: Callable[[Scanned], str | None],
        why_left_out: Callable[[Scanned], str],
    ) -> None:
        """Store the facts from the files' headers."""
        update = (
            "UPDATE files SET left_out = ?, kind = ?, suffix = ?, instance = ?, burned_in = ?, stem = ?, "
            "series = ? WHERE path = ?"
        )
        rows = []
        for item in scanned:
            left_out = why_left_out(item)
            stem = None if left_out else stem_of(item)
            facts = (left_out, item.kind, item.suffix, item.instance or None, item.burned_in, stem, item.series or None)
            rows.append((*facts, _bytes(item.found.path)))
        self._many(update, rows)

    def index_headers(self) -> None:
        """Prepare `stem_is_shared`, `key_is_taken` and `first_of_instance`."""
        self._db.execute("CREATE INDEX stems ON files (stem) WHERE stem IS NOT NULL")
        self._db.execute("CREATE INDEX instances ON files (instance) WHERE instance IS NOT NULL")
        self._db.execute("CREATE UNIQUE INDEX keys ON files (key) WHERE key IS NOT NULL")

    def group_series(self) -> None:
        """Make one image of the files of each series: `kept` then yields the first of them alone, with its series."""
        self._db.execute("CREATE INDEX series ON files (series, path) WHERE series IS NOT NULL")
        first = "SELECT path FROM files AS f WHERE f.series = files.series AND f.left_out = '' ORDER BY path LIMIT 1"
        self._db.execute(f"UPDATE files SET leader = ({first}) WHERE series IS NOT NULL AND left_out = ''")  # nosec B608 - our own words
        self._db.execute("CREATE INDEX leaders ON files (leader) WHERE leader IS NOT NULL")

    def series(self) -> int:
        """The number of series that `group_series` made images of."""
        return self.count("leader = path")

    def kept(self, first: str | None = None, last: str | None = None) -> Iterator[tuple[Scanned, str, str]]:
        """(file, key, key of the first file with its SOPInstanceUID) of files to pack, from path `first` to `last`
        inclusive; keys are "" until they are set.
        """
        for row in self._pages(_KEPT, _IMAGES, first, last):
            path, nbytes, modified, kind, suffix, instance, burned_in, key, same, grouped, series = row
            found = ListedFile(_text(path), nbytes, modified)
            scanned = Scanned(found, kind, suffix, "", instance or "", bool(burned_in), series if grouped else "")
            yield scanned, key or "", same or ""

    def slices(self, path: str) -> list[ListedFile]:
        """The files of the series whose first file this is, in path order."""
        query = "SELECT path, nbytes, modified FROM files WHERE leader = ? ORDER BY path"
        rows = self._db.execute(query, (_bytes(path),)).fetchall()
        return [ListedFile(_text(path), nbytes, modified) for path, nbytes, modified in rows]

    def stem_is_shared(self, stem: str) -> bool:
        return len(self._db.execute("SELECT 1 FROM files WHERE stem = ? LIMIT 2", (stem,)).fetchall()) > 1

    def key_is_taken(self, key: str) -> bool:
        return self._db.execute("SELECT 1 FROM files WHERE key = ?", (key,)).fetchone() is not None

    def first_of_instance(self, instance: str) -> str:
        """The key of the first file with this SOPInstanceUID that has a key."""
        where = "instance = ? AND key IS NOT NULL AND left_out = '' ORDER BY path LIMIT 1"
        found = self._db.execute(f"SELECT key FROM files WHERE {where}", (instance,)).fetchone()  # nosec B608 - our own words
        return found[0] if found else ""

    def set_key(self, path: str, key: str, same_instance: str) -> None:
        self._db.execute(
            "UPDATE files SET key = ?, same_instance = ? WHERE path = ?", (key, same_instance, _bytes(path))
        )

    def transaction(self) -> sqlite3.Connection:
        """A context manager that commits all changes made inside it in one transaction."""
        self._db.execute("BEGIN")
        return self._db

    def set_outcomes(self, outcomes: Iterable[Any]) -> None:
        """Store the outcomes (`write.FileOutcome`) of a shard's files."""
        update = "UPDATE files SET read_bytes = ?, sha256 = ?, dropped = ?, note = ? WHERE path = ?"
        self._many(update, [(o.nbytes, o.sha256 or None, o.left_out, o.note, _bytes(o.path)) for o in outcomes])

    def listing(self) -> Iterator[tuple[str, str, str, int | None, str, str, str, str]]:
        """Of each file (path, path of the first file of its image, key, bytes read, why left out, key of the same
        instance, key of the same bytes, note).
        """
        self._db.execute("CREATE INDEX IF NOT EXISTS hashes ON files (sha256) WHERE sha256 IS NOT NULL")
        same = "SELECT first.key FROM files AS first WHERE first.sha256 = files.sha256 ORDER BY first.path LIMIT 1"
        image = "SELECT image.key FROM files AS image WHERE image.path = files.leader"
        own = f"COALESCE(leader, path), COALESCE(key, ({image}))"
        columns = f"path, {own}, read_bytes, left_out, dropped, same_instance, ({same}), note"
        for path, first, key, nbytes, left_out, dropped, instance, copy, note in self._pages(columns, "1"):
            reason, other = left_out or dropped or "", "" if copy == key else copy or ""
            yield _text(path), _text(first), key or "", nbytes, reason, instance or "", other, note or ""

    def reasons(self) -> dict[str, int]:
        """Numbers of files left out, by reason."""
        chosen = "CASE WHEN left_out != '' THEN left_out ELSE dropped END"
        return self._counts(chosen, f"{chosen} != ''")

    def kinds(self) -> dict[str, int]:
        """Numbers of files to pack, by kind of image."""
        return self._counts("CASE WHEN kind != '' THEN kind ELSE suffix || ' by name only' END", "left_out = ''")

    def count(self, where: str) -> int:
        """The number of files that match an SQL condition."""
        return int(self._db.execute(f"SELECT COUNT(*) FROM files WHERE {where}").fetchone()[0])  # nosec B608 - our own words

    def total(self, what: str) -> int:
        """An SQL aggregate over the files to pack, 0 where there are none."""
        return int(self._db.execute(f"SELECT {what} FROM files WHERE left_out = ''").fetchone()[0] or 0)  # nosec B608 - our own words

    def _counts(self, what: str, where: str) -> dict[str, int]:
        query = f"SELECT {what} AS what, COUNT(*) FROM files WHERE {where} GROUP BY what ORDER BY what"  # nosec B608 - our own words
        return dict(self._db.execute(query).fetchall())

    def _many(self, update: str, rows: list[tuple[Any, ...]]) -> None:
        self._db.execute("BEGIN")
        self._db.executemany(update, rows)
        self._db.execute("COMMIT")

    def _pages(
        self, columns: str, where: str, first: str | None = None, last: str | None = None
    ) -> Iterator[tuple[Any, ...]]:
        """Rows in path order, read in pages, so that rows may be changed while iterating."""
        bounds, values = "path >= ?", [_bytes(first) if first is not None else b""]
        end = " AND path <= ?" if last is not None else ""
        while True:
            query = f"SELECT {columns} FROM files WHERE {where} AND {bounds}{end} ORDER BY path LIMIT {PAGE}"  # nosec B608 - our own words
            page = self._db.execute(query, [*values, *([_bytes(last)] if last is not None else [])]).fetchall()
            yield from page
            if len(page) < PAGE:
                return
            bounds, values = "path > ?", [page[-1][0]]


def paged(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of at most `size` items."""
    iterator = iter(items)
    while page := list(islice(iterator, size)):
        yield page


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogatepass")


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogatepass")

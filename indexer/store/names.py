"""Names and addresses of a database's tables."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from indexer.addresses import is_remote, join, plain
from indexer.errors import InputError, StoreNotFound
from indexer.remote.objects import is_object, is_prefix
from indexer.store.lance_errors import first_line
from indexer.store.mend import exists

SIDE_TABLES = ("shards", "failures", "text")
MOST_LETTERS = 200  # of a table's name: a file name of 255 bytes has it with a suffix


def table_names(uri: str) -> list[str]:
    """Embedding tables in a database, without their side tables. Creates nothing. Raises StoreNotFound."""
    uri = checked_uri(uri)
    if is_remote(uri):
        import lancedb

        try:
            names = list(lancedb.connect(uri).list_tables().tables)
        except (ValueError, RuntimeError, OSError) as error:  # an unknown scheme, no bucket, no answer
            cause = first_line(error)
            raise StoreNotFound(f"no database {uri} ({cause}). Name a folder, or s3://bucket/path.") from error
    else:
        root = Path(uri)
        if not root.is_dir():  # lancedb.connect would create it
            raise StoreNotFound(f"no database directory {uri}. Name an existing one, or make it with `indexer index`.")
        names = sorted(p.name.removesuffix(".lance") for p in root.glob("*.lance") if exists(p))
    return [n for n in names if not any(n.endswith(f".{side}") for side in SIDE_TABLES)]


def has_table(uri: str, table: str) -> bool:
    """Whether a database has a table of this name. Raises StoreNotFound where the database cannot be read.

    In an object store a table is there once it has a version: a process that is killed while it makes one leaves other
    objects. Nor do all stores list prefixes that hold prefixes alone (s3rver), by which Lance finds tables.
    """
    if not is_object(uri):
        return table in table_names(uri)
    try:
        return is_prefix(join(join(uri, f"{table}.lance"), "_versions"))
    except OSError as error:
        raise StoreNotFound(f"no database {uri} ({first_line(error)}). Name a folder, or s3://bucket/path.") from error


def named_table(uri: str, table: str | None) -> str:
    """`table`, or the database's only one. Raises StoreNotFound where it is not there, or there are several."""
    if table is None:
        names = table_names(uri)
        if len(names) != 1:
            if not names:
                raise StoreNotFound(f"{uri} holds no table. `indexer index` makes one.")
            listed = ", ".join(names)
            raise StoreNotFound(f"{uri} holds {len(names)} tables ({listed}): name one with --table.")
        return names[0]
    if not has_table(uri, table):
        raise StoreNotFound(
            f"no table {table} in {uri}; it holds: {', '.join(table_names(uri)) or 'none'}. Name one with --table."
        )
    return table


def checked_uri(uri: str) -> str:
    """The address, or the path of a `file://` URL.

    Raises StoreNotFound for "", which `Path` takes for the current folder and a shell makes of an unset name.
    """
    if not uri:
        raise StoreNotFound("the name of the database is empty. Name its folder.")
    return plain(uri)


def check_table_name(name: str) -> None:
    """Raise InputError unless the name, which becomes a directory, has only letters, digits, '-', '_', inner dots."""
    plain = all(map(_is_plain, name)) and len(name) <= MOST_LETTERS
    taken = any(name.endswith(f".{side}") for side in SIDE_TABLES)
    if not name or not plain or name.startswith(".") or taken:
        raise InputError(
            f"{name!r} cannot name a table: use up to {MOST_LETTERS} letters (a to z), digits, '-', '_', inner dots."
        )


def default_table(encoder: str) -> str:
    """The default table of an encoder: its registry name, with other characters than a table may have replaced."""
    plain = "".join(c if _is_plain(c) else "-" for c in encoder).strip("-.")
    return plain[:MOST_LETTERS].strip("-.")


def _is_plain(letter: str) -> bool:
    return (letter.isascii() and letter.isalnum()) or letter in "-_."


def index_folder(uri: str, table: str) -> Path:
    """Where the FAISS index of a table lies; of a database in an object store, its copy on this machine."""
    if is_remote(uri):
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        name = hashlib.sha256(join(uri, f"{table}.lance").encode()).hexdigest()[:16]
        return root / "embedding-indexer" / "indexes" / name
    return Path(uri) / f"{table}.faiss"


def network_folder(table: str) -> str:
    """Where the quantised network of an int8 table lies, from the address of the table (`<name>.lance`)."""
    return f"{table.removesuffix('.lance')}.int8"

"""Names and addresses of a database's tables."""

from __future__ import annotations

from pathlib import Path

from indexer.addresses import is_remote, plain
from indexer.errors import InputError, StoreNotFound
from indexer.store.lance_errors import first_line
from indexer.store.mend import exists

SIDE_TABLES = ("shards", "failures", "text")


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


def checked_uri(uri: str) -> str:
    """The address, or the path of a `file://` URL.

    Raises StoreNotFound for "", which `Path` takes for the current folder and a shell makes of an unset name.
    """
    if not uri:
        raise StoreNotFound("the name of the database is empty. Name its folder.")
    return plain(uri)


def check_table_name(name: str) -> None:
    """Raise InputError unless the name, which becomes a directory, has only letters, digits, '-', '_', inner dots."""
    plain = all(c.isalnum() or c in "-_." for c in name)
    taken = any(name.endswith(f".{side}") for side in SIDE_TABLES)
    if not name or not plain or name.startswith(".") or taken:
        raise InputError(f"{name!r} cannot name a table: use letters, digits, '-', '_' and inner dots.")


def network_folder(table: str) -> str:
    """Where the quantised network of an int8 table lies, from the address of the table (`<name>.lance`)."""
    return f"{table.removesuffix('.lance')}.int8"

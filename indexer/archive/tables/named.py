"""The names of shards that are tables: they hold how the table is read, so that it is read so again later."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from indexer.addresses import is_remote
from indexer.errors import InputError
from indexer.redact import stored_address


@dataclass(frozen=True)
class TableOptions:
    """How the images of a table are found; empty: by the table itself."""

    image: str = ""  # the column that holds the images, or their paths
    key: str = ""  # the column that names each row
    root: str = ""  # to which paths are relative: a folder, absolute or relative to the table's own, or an address


DEFAULT = TableOptions()
FLAGS = {"image": "--image-column", "key": "--key-column", "root": "--image-root"}


def settled(options: TableOptions, path: str) -> TableOptions:
    """With `root` relative to the folder of the table at `path`, so that both may move together.

    Raises InputError for an address with a login or signature, which is not stored.
    """
    if is_remote(options.root) and stored_address(options.root) != options.root:
        raise InputError(f"--image-root {stored_address(options.root)}: leave the login or signature out.")
    if not options.root or is_remote(options.root):
        return options
    root = os.path.relpath((Path(path).parent / options.root).resolve(), Path(path).parent)
    return replace(options, root="" if root == "." else root)


def shard_name(path: str, options: TableOptions) -> str:
    """`/a/b.parquet#image=scan&key=id`."""
    given = {f.name: value for f in fields(options) if (value := getattr(options, f.name))}
    return f"{path}#{urlencode(given)}"


def options_in(name: str, url: str) -> TableOptions:
    """The options in a shard's name; none for a shard that is no table."""
    query = name.removeprefix(f"{url}#")
    if query == name:
        return DEFAULT
    known = {f.name for f in fields(TableOptions)}
    return TableOptions(**{key: value for key, value in parse_qsl(query) if key in known})


def image_folder(url: str, options: TableOptions) -> Path:
    """The folder to which a table's paths are relative, links resolved."""
    return (Path(url).parent / options.root).resolve()

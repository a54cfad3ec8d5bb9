"""The names of shards that are tables: they hold how the table is read, so that it is read so again later."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from indexer.types import Shard


@dataclass(frozen=True)
class TableOptions:
    """How the images of a table are found; empty: by the table itself."""

    image: str = ""  # the column that holds the images, or their paths
    key: str = ""  # the column that names each row
    root: str = ""  # the folder to which paths are relative: absolute, or relative to the table's own folder


DEFAULT = TableOptions()
FLAGS = {"image": "--image-column", "key": "--key-column", "root": "--image-root"}


def settled(options: TableOptions, path: str) -> TableOptions:
    """With `root` relative to the folder of the table at `path`, so that both may move together."""
    if not options.root:
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


def addresses(shard: Shard) -> Iterator[str]:
    """The shard's address, and the folder of the images that it lists."""
    yield shard.url
    options = options_in(shard.name, shard.url)
    if options.root:
        yield str(image_folder(shard.url, options))

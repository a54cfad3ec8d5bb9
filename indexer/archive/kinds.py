"""The supported kinds of archive. To add one, write a module with a `kind.ShardKind` class and list it in KINDS."""

from __future__ import annotations

from indexer.archive.files import Files
from indexer.archive.kind import ShardKind
from indexer.archive.remote.folder import ObjectFolder
from indexer.archive.slides.kind import Slides
from indexer.archive.tables.listing import Listing
from indexer.archive.tables.lmdb import Lmdb
from indexer.archive.tables.mds import Mds
from indexer.archive.tables.npz import Npz
from indexer.archive.tables.parquet import Parquet
from indexer.archive.tar import Tar
from indexer.archive.zip import Zip

INSIDE: tuple[ShardKind, ...] = (Tar(), Zip(), Parquet(), Npz(), Lmdb(), Mds())  # what may lie in a folder
TABLES = (Parquet.name, Listing.name, Mds.name)  # whose columns may be chosen
# The first that claims an address handles it; Tar claims all others
SLIDES = Slides()
KINDS: tuple[ShardKind, ...] = (SLIDES, Files(inside=INSIDE), ObjectFolder(inside=INSIDE), Listing(), *reversed(INSIDE))
ARCHIVES = tuple(suffix for kind in (*INSIDE, Listing()) for suffix in kind.suffixes)


def kind_of(address: str) -> ShardKind:
    """The kind that claims an address."""
    return next(kind for kind in KINDS if kind.claims(address))

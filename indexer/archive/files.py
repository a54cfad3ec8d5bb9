"""Folders of loose images as shards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote_to_bytes

from indexer.addresses import identity, is_remote, stat_identity
from indexer.archive.buckets import Buckets
from indexer.archive.kind import ShardKind
from indexer.archive.left_out import UNKNOWN, LeftOut
from indexer.archive.roots import is_below, named
from indexer.archive.samples import (
    BAD,
    DICOM_HEAD,
    IMAGE_ENDINGS,
    METADATA_SUFFIXES,
    is_dicom,
    lasting_name,
    loose_sample,
    plain_name,
    sidecar_of,
    split_name,
)
from indexer.archive.slides.named import FORMATS, NOT_CUT
from indexer.archive.tables.named import TableOptions
from indexer.archive.walk import ListedFile, walk
from indexer.errors import InputError, ReadError, ShardNotFound
from indexer.memory.budget import MAX_SIDECAR
from indexer.types import SERIES, Failure, Place, Sample, Shard
from indexer.user_tables.joining import image_suffix


class Files:
    """Implements `kind.ShardKind`: a folder of images, divided into buckets."""

    name = "files"
    suffixes: tuple[str, ...] = ()

    def __init__(self, inside: tuple[ShardKind, ...]) -> None:
        """`inside`: the kinds of archive that may lie in a folder."""
        self._inside = inside

    def claims(self, address: str) -> bool:
        return not is_remote(address) and Path(address).is_dir()

    def left_out(self, path: Path, tables: TableOptions) -> str:  # noqa: ARG002 - a folder is walked, not one file
        return ""

    def shards(self, address: str, *, hash_content: bool, tables: TableOptions, notes: list[str]) -> Iterator[Shard]:
        """Buckets of the folder's images, or the shards inside it; `notes` gets a line for each reason of omission."""
        root = Path(address)
        archives: list[tuple[Path, ShardKind]] = []
        left_out = LeftOut()
        buckets = Buckets()
        last = ""  # path without suffix of the previous image
        for found in walk(root):
            inside = () if image_suffix(found.path) == SERIES else self._inside
            kind = next((kind for kind in inside if found.path.lower().endswith(kind.suffixes)), None)
            why = found.left_out or (kind.left_out(root / found.path, tables) if kind else "")
            if why:
                left_out.add(why, found.path)
            elif kind is not None:
                archives.append((root / found.path, kind))
            elif is_image(root, found):
                buckets.add(found.path, _identity(root, found, hash_content=hash_content), found.nbytes)
                last = split_name(found.path)[0]
            elif not _is_sidecar(root, found, last):
                slide = found.path.lower().endswith(FORMATS)
                left_out.add(NOT_CUT if slide else UNKNOWN, found.path)
        if archives and buckets.files:
            named = f"'{root}/*{archives[0][0].suffix}'"
            raise InputError(f"{root} holds both shards and loose images. Name the shards: {named}.")
        if not archives and not buckets.files:
            others = f" Passed over: {'; '.join(left_out.words())}." if left_out else ""
            kinds = ", ".join(f"*{kind.suffixes[0]}" for kind in self._inside)
            raise ShardNotFound(f"{root} holds no shard ({kinds}) and no image.{others} Name another folder.")
        notes.extend(f"not read under {root}: {words}" for words in left_out.words())
        for path, kind in archives:
            yield from kind.shards(str(path), hash_content=hash_content, tables=tables, notes=notes)
        if buckets.files:
            yield from buckets.shards(lasting_name(root), self.name, listed)

    def samples(self, shard: Shard) -> Iterator[Sample | Failure]:
        """The images of one bucket. The key is the path with its suffix, since a.png may lie beside a.jpg."""
        root = Path(shard.url)
        for name in shard.files:
            path, name = root / name, plain_name(name)
            try:
                if (name, 0) in shard.stored:
                    yield Sample(shard.name, name, image_suffix(name) or "", b"", 0, path.stat().st_size, {}, name)
                    continue
                shard.room(path.stat().st_size)
                data = path.read_bytes()
                beside = _beside(root, path.with_name(sidecar_of(path.name)))
            except (OSError, ValueError) as error:
                suffix, reason = image_suffix(name) or "", "unreadable file" if isinstance(error, OSError) else BAD
                yield Failure(shard.name, name, "read", reason, str(error)[:500], 0, 0, suffix, name)
                continue
            yield from loose_sample(shard.name, name, data, beside)
            del data  # before the next one is read

    def read_back(self, url: str, place: Place, roots: Sequence[str] | None) -> bytes:
        path = named_file(Path(url), place.member).resolve()
        if not is_below(str(path), named([url] if roots is None else roots)):
            raise ReadError(f"{place.member} leads out of the folder: it is not read")
        if not path.is_file():  # reading a pipe would block
            raise ReadError(f"{place.member} in {url} is no file")
        return path.read_bytes()


def _beside(root: Path, sidecar: Path) -> bytes | None:
    """The JSON beside an image; None where there is none. Raises ValueError for a link that leads out of the folder:
    whoever made the folder could copy any JSON file of this machine into the table with it.
    """
    if not sidecar.is_file():
        return None
    if sidecar.is_symlink() and not is_below(str(sidecar), named([str(root)])):
        raise ValueError(f"{plain_name(sidecar.name)}: a link that leads out of the folder, which is not followed")
    with sidecar.open("rb") as file:
        return file.read(MAX_SIDECAR + 1)  # one byte more is refused by its length


def _identity(root: Path, found: ListedFile, *, hash_content: bool) -> str | None:
    if not hash_content:
        return stat_identity(found.nbytes, found.modified)
    try:
        return identity(str(root / found.path), found.path, hash_content=True)
    except OSError:
        return None  # reading the shard reports the failure


def listed(root: str) -> Iterator[str]:
    """The paths of a folder's images, in order."""
    return (f.path for f in walk(Path(root)) if not f.left_out and is_image(Path(root), f))


def is_image(root: Path, found: ListedFile) -> bool:
    """Whether a file is an image: by its suffix, or, for DICOM of any name (.IMA, .MR), by its first bytes."""
    if image_suffix(found.path) is not None:
        return True
    if found.path.rpartition(".")[2].lower() in METADATA_SUFFIXES or found.nbytes < DICOM_HEAD:
        return False
    try:
        with (root / found.path).open("rb") as file:
            return is_dicom(file.read(DICOM_HEAD))
    except OSError:
        return False


def _is_sidecar(root: Path, found: ListedFile, last: str) -> bool:
    """Whether a file is the JSON beside an image: usually of the previous image, `last`, in the order of names."""
    stem, dot, suffix = found.path.rpartition(".")
    if not dot or suffix != "json":
        return False
    return stem == last or any((root / f"{stem}{ending}").exists() for ending in IMAGE_ENDINGS)


def named_file(root: Path, member: str) -> Path:
    """A folder's file by its name in the table, in which bytes that are not UTF-8 are escaped (`plain_name`)."""
    path = root / member
    return path if path.exists() else root / os.fsdecode(unquote_to_bytes(member))

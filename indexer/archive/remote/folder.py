"""Loose images below a prefix of an object store, as shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path

from indexer.archive.buckets import Bucket, Buckets
from indexer.archive.kind import ShardKind
from indexer.archive.left_out import UNKNOWN, LeftOut
from indexer.archive.roots import is_below
from indexer.archive.samples import DICOM_HEAD, METADATA_SUFFIXES, is_dicom, loose_sample, plain_name, sidecar_of
from indexer.archive.tables.named import TableOptions
from indexer.archive.tar import Tar, remote_shard
from indexer.archive.walk import PACK_STATE
from indexer.errors import InputError, ReadError, ShardNotFound
from indexer.memory.budget import MAX_IMAGE
from indexer.redact import stored_address
from indexer.remote import objects
from indexer.remote.objects import Listed, is_object
from indexer.remote.stream import ResumedStream, is_web
from indexer.remote.whole import SMALL_BYTES, begun, drained, read_whole
from indexer.types import Failure, Place, Sample, Shard
from indexer.user_tables.joining import image_suffix

READERS = 8  # objects of one shard asked for at once: each answer takes some hundredths of a second


class ObjectFolder:
    """Implements `kind.ShardKind`: a prefix of an object store, whose address ends with "/"."""

    name = "objects"
    suffixes: tuple[str, ...] = ()

    def __init__(self, inside: tuple[ShardKind, ...]) -> None:
        """`inside`: the kinds of archive that may lie below a prefix."""
        self._inside = inside

    def claims(self, address: str) -> bool:
        return (is_object(address) or is_web(address)) and address.endswith("/")

    def left_out(self, path: Path, tables: TableOptions) -> str:  # noqa: ARG002 - a prefix is listed, not one file
        return ""

    def shards(self, address: str, *, hash_content: bool, tables: TableOptions, notes: list[str]) -> Iterator[Shard]:  # noqa: ARG002 - the store's tag tells
        """Buckets of the images below the prefix, or the archives there."""
        name = stored_address(address)
        if is_web(address):
            raise InputError(f"{name}: a web server cannot be listed. Name its files, or a manifest (`indexer list`).")
        try:
            archives, buckets, left_out, sidecars = self._sorted(address)
        except OSError as error:
            raise ShardNotFound(f"{name} cannot be listed: {error}.") from error
        if archives and buckets.files:
            raise InputError(f"{name} holds both shards and loose images. Name the shards: '{name}**.tar'.")
        if not archives and not buckets.files:
            others = f" Passed over: {'; '.join(left_out.words())}." if left_out else ""
            raise ShardNotFound(f"{name} holds no shard and no image.{others} Name another prefix.")
        notes.extend(f"not read under {name}: {words}" for words in left_out.words())
        for found in archives:
            yield remote_shard(address + found.path, found.facts, notes)
        yield from buckets.shards(address, self.name, listed_objects, sidecars=sidecars > 0)

    def _sorted(self, address: str) -> tuple[list[Listed], Buckets, LeftOut, int]:
        """Archives, images, what is neither, and the number of JSON files."""
        archives: list[Listed] = []
        left_out, buckets, sidecars = LeftOut(), Buckets(), 0
        for found in objects.listed(address):
            kind = next((kind for kind in self._inside if found.path.lower().endswith(kind.suffixes)), None)
            if f"/{PACK_STATE}/" in f"/{found.path}":
                continue
            if any(part.startswith(".") for part in found.path.split("/")):
                left_out.add("hidden file", found.path)
            elif kind is not None and kind.name == Tar.name:
                archives.append(found)
            elif kind is not None:
                left_out.add(f"{kind.name}, which is read from a local disk only", found.path)
            elif is_image_object(address, found):
                buckets.add(found.path, found.facts.tag, found.facts.nbytes or 0)
            elif found.path.lower().endswith(".json"):
                sidecars += 1
            else:
                left_out.add(UNKNOWN, found.path)
        return archives, buckets, left_out, sidecars

    def samples(self, shard: Shard) -> Iterator[Sample | Failure]:
        """The images of one bucket, under keys as in a folder."""
        sidecars = not isinstance(shard.files, Bucket) or shard.files.sidecars
        names = iter(shard.files)
        with ThreadPoolExecutor(READERS) as readers:
            coming = [readers.submit(_read, shard, name, sidecars) for name in islice(names, READERS)]
            while coming:
                path, data, beside = coming.pop(0).result()
                coming += [readers.submit(_read, shard, name, sidecars) for name in islice(names, 1)]
                name = plain_name(path)
                if isinstance(data, ResumedStream):
                    data = _large(data, shard)
                if data is None:
                    yield Sample(shard.name, name, image_suffix(name) or "", b"", 0, 0, {}, name)
                    continue
                if isinstance(data, OSError):
                    suffix = image_suffix(name) or ""
                    yield Failure(shard.name, name, "read", "unreadable file", str(data)[:500], 0, 0, suffix, name)
                else:
                    shard.room(len(data))
                    yield from loose_sample(shard.name, name, data, beside)
                del data  # before the next one is read

    def read_back(self, url: str, place: Place, roots: Sequence[str] | None) -> bytes:
        address = url + place.member
        if roots is not None and not is_below(address, roots):
            raise ReadError(f"{place.member} leads out of the folder: it is not read")
        return read_whole(address, MAX_IMAGE)


def _read(shard: Shard, path: str, sidecars: bool) -> tuple[str, bytes | ResumedStream | OSError | None, bytes | None]:
    """(path, image or why it cannot be read, the JSON beside it); no image where the table has it, and the begun stream
    of a large one.
    """
    root, beside = shard.url, None
    if (plain_name(path), 0) in shard.stored:
        return path, None, None
    try:
        data = begun(root + path, MAX_IMAGE)
        if sidecars:
            with suppress(FileNotFoundError):
                folder, slash, name = path.rpartition("/")
                beside = read_whole(f"{root}{folder}{slash}{sidecar_of(name)}", MAX_IMAGE)
    except OSError as error:
        return path, error, None
    return path, data, beside


def _large(stream: ResumedStream, shard: Shard) -> bytes | OSError:
    """The bytes of a stream, once there is room for them."""
    try:
        shard.room(min(stream.nbytes or SMALL_BYTES, MAX_IMAGE))
        return drained(stream, MAX_IMAGE)
    except OSError as error:
        return error


def listed_objects(root: str) -> Iterator[str]:
    return (
        found.path for found in objects.listed(root) if "/." not in f"/{found.path}" and is_image_object(root, found)
    )


def is_image_object(root: str, found: Listed) -> bool:
    """Whether an object is an image: by its suffix, or, for DICOM of any name (.IMA, .MR), by its first bytes."""
    if image_suffix(found.path) is not None:
        return True
    if found.path.rpartition(".")[2].lower() in METADATA_SUFFIXES or (found.facts.nbytes or 0) < DICOM_HEAD:
        return False
    return is_dicom(objects.read_range(root + found.path, 0, DICOM_HEAD))

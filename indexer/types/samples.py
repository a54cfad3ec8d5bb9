"""Shards, their samples and parts, and inputs that failed."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from indexer.types.arrays import UInt8
from indexer.types.rules import KeyRule, TileRule

Stage = Literal["read", "decode", "encode", "store"]
Fact = int | float | str

SERIES = "dcm.zip"  # suffix of a DICOM series packed as one image
# Members with other suffixes are metadata, or images without a suffix (common in DICOM trees).
IMAGE_SUFFIXES = (
    "jpg", "jpeg", "jpe", "jfif", "png", "tif", "tiff", "webp", "bmp", "gif", "ppm", "pgm",
    "dcm", "dicom", SERIES, "nii", "nii.gz", "nrrd", "nhdr", "mha", "mhd",
)  # fmt: skip

UNREAD = "unread"  # the identity of a shard that is to be read again: unlike any other

DELETED = "deleted by request"  # the reason of the failure that stands for a deleted image

FIRST_PART = ("", "0")  # names of an image's first part: the only one, or the first of several


def _room_for_all(nbytes: int) -> None:
    """For readers that hold one image at a time."""


@dataclass(frozen=True)
class Shard:
    """One unit of work and of commit."""

    url: str  # address to open: a local path, or one that webdataset's gopen supports (pipe:, http:, s3:, gs:)
    name: str  # its permanent name in the tables: the url under which it was first indexed
    identity: str  # changes when the content may have changed: bytes + mtime, etag, or a content hash
    kind: str = "tar"  # the name of one of indexer.archive.kinds
    files: Iterable[str] = field(default=(), compare=False, repr=False)  # kind "files": paths below url, in order
    nbytes: int | None = field(default=None, compare=False, repr=False)  # uncompressed; None where that is not known
    roots: tuple[str, ...] = field(
        default=(), compare=False, repr=False
    )  # other places of its images: folders, servers
    keys: KeyRule = field(default=KeyRule(), compare=False, repr=False)  # the table's
    tiles: TileRule | None = field(default=None, compare=False, repr=False)  # the table's
    beside: Callable[[str, bytes], None] | None = field(default=None, compare=False, repr=False)  # `RunRecord.keep`
    # (member, offset) of samples whose rows a table has: they are read for their key and place, not for their bytes
    stored: Container[tuple[str, int]] = field(default=(), compare=False, repr=False)
    # called with an image's size before it is read; it waits until the run has memory for it
    room: Callable[[int], None] = field(default=_room_for_all, compare=False, repr=False)


class LateImage(Protocol):
    """An image that whoever decodes it reads, not the one thread that lists the samples. Picklable."""

    def read(self) -> bytes:
        """The image's bytes. Raises PixelError."""
        ...


@dataclass(frozen=True)
class Sample:
    """One image of the archive, undecoded, with the metadata beside it."""

    shard: str  # Shard.name
    key: str
    suffix: str  # lower case, no dot; "" where the name has none
    image: bytes
    offset: int  # of the image's first byte in the uncompressed shard; 0 for a loose file
    nbytes: int
    metadata: dict[str, Any] = field(default_factory=dict)
    member: str = ""  # the image's name inside the shard
    notes: tuple[str, ...] = ()  # what is worth counting: members passed over, and an image chosen by its place
    facts: Mapping[str, Fact] = field(default_factory=dict)  # of the image as a part of its shard, as `Part.facts`
    late: LateImage | None = None  # where `image` is not read yet

    def read(self) -> bytes:
        """The image's bytes. Raises PixelError."""
        return self.image if self.late is None else self.late.read()


@dataclass(frozen=True)
class Part:
    """One frame, page, slice or tile of an image."""

    name: str  # unique in its image; "" where the image has one part, else "0", "1", … in the file's order
    facts: Mapping[str, Fact] = field(default_factory=dict)  # from the header, e.g. z (mm), time (seconds), page


def part_key(key: str, part: str) -> str:
    """The row's key: the sample's key for its first part, `key#part` for every other."""
    return key if part in FIRST_PART else f"{key}#{part}"


def sample_key(key: str, part: str) -> str:
    """The sample's own key: the inverse of `part_key`."""
    return key if part in FIRST_PART else key.removesuffix(f"#{part}")


def part_order(name: str) -> tuple[str | int, ...]:
    """Sort key of the names of an image's parts, with digits as numbers: "10" after "9"."""
    return tuple(int(text) if number % 2 else text for number, text in enumerate(re.split(r"(\d+)", name)))


@dataclass(frozen=True)
class Picture:
    """One part of an image, decoded and fitted to the encoder's square."""

    part: Part
    pixels: UInt8  # (size, size, 3) RGB
    flags: tuple[str, ...] = ()  # facts worth counting, e.g. "burned-in annotation", "no window in file"


@dataclass(frozen=True)
class Failure:
    """An input that did not become a row, and why. `reason` is stable and countable, `detail` free text."""

    shard: str
    key: str
    stage: Stage
    reason: str
    detail: str = ""
    offset: int = -1  # offset of the image's bytes, for a retry; -1 where unknown
    nbytes: int = 0
    suffix: str = ""
    member: str = ""


@dataclass(frozen=True)
class Place:
    """The location of an image's bytes, and the part of it that a row is of. Images are not copied into the table."""

    shard: str
    member: str
    offset: int
    nbytes: int
    suffix: str
    part: str = ""  # Part.name

"""Records and protocols shared by the stages, and their constants. Imports numpy only."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Float16 = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]

Stage = Literal["read", "decode", "encode", "store"]
Fact = int | float | str

# Members with other suffixes are metadata, or images without a suffix (common in DICOM trees).
IMAGE_SUFFIXES = (
    "jpg", "jpeg", "jpe", "jfif", "png", "tif", "tiff", "webp", "bmp", "gif", "ppm", "pgm",
    "dcm", "dicom", "nii", "nii.gz",
)  # fmt: skip


@dataclass(frozen=True)
class PixelSpec:
    """How image bytes become the encoder's uint8 RGB square; every field can change a pixel."""

    size: int  # side of the encoder's square
    resize: int  # shorter side after resizing, before the centre crop; = size without a crop
    interpolation: str = "bicubic"  # bicubic | bilinear, both antialiased
    fit: str = "crop"  # crop | squash | pad
    window: str = "file"  # file | percentile | minmax | full | C,W | preset, or three of them joined by ";"
    plane: str = "axial"  # of NIfTI volumes: axial | coronal | sagittal
    decoder: str = "cpu-2"  # decode path and its version; a table has one only


_NOT_IN_FINGERPRINT = ("licence", "source", "network")


@dataclass(frozen=True)
class EncoderSpec:
    """Everything that determines a vector."""

    name: str  # registry name, e.g. "efficientnet-lite0", "open_clip:ViT-B-32", "torchvision:resnet50"
    weights: str  # a published tag, "sha256:<hex>" of a weights file, or "random:<seed>"
    pooling: str  # projected | pooled | cls | mean
    dim: int
    mean: tuple[float, float, float]  # of pixels scaled to 0..1
    std: tuple[float, float, float]
    precision: str  # bf16 | fp16 | fp32 | int8
    pixels: PixelSpec
    licence: str = "unknown"  # of the weights; not part of the fingerprint
    source: str = ""  # path of a weights file, so that a query finds it; checked by its hash
    backend: str = "torch"  # torch | openvino, which round differently
    calibration: str = ""  # of int8: sha256 of the quantised network, whose scales come from a sample of the images
    network: str = ""  # of int8: the folder of the quantised network, beside the table; not stored

    @property
    def fingerprint(self) -> str:
        """16 hex digits of a hash over all fields that can change a vector."""
        facts = {k: v for k, v in self._stored().items() if k not in _NOT_IN_FINGERPRINT}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def random(self) -> bool:
        """Whether the weights are random and not trained, so that the vectors have no meaning."""
        return self.weights.startswith("random:")

    def to_json(self) -> str:
        return json.dumps(self._stored(), sort_keys=True)

    def _stored(self) -> dict[str, Any]:
        """The fields as they are stored; without `calibration` where there is none, as older versions know none."""
        left_out = ("network",) if self.calibration else ("network", "calibration")
        return {k: v for k, v in asdict(self).items() if k not in left_out}

    @classmethod
    def from_json(cls, text: str) -> EncoderSpec:
        """The inverse of `to_json`. Unknown fields (a newer writer's) raise TypeError."""
        facts = json.loads(text)
        facts["pixels"] = PixelSpec(**facts["pixels"])
        facts["mean"], facts["std"] = tuple(facts["mean"]), tuple(facts["std"])
        return cls(**facts)

    def differences(self, other: EncoderSpec) -> str:
        """The fields in which two specs differ, for an error message."""
        mine, theirs = _flat(self), _flat(other)
        return ", ".join(
            f"{k} {mine[k]} / {theirs[k]}" for k in mine if mine[k] != theirs[k] and k not in _NOT_IN_FINGERPRINT
        )


def _flat(spec: EncoderSpec) -> dict[str, Any]:
    outer = {f.name: getattr(spec, f.name) for f in fields(spec) if f.name != "pixels"}
    return outer | {f"pixels.{k}": v for k, v in asdict(spec.pixels).items()}


SPLITS = ("last-dot", "first-dot")  # KeyRule.split


@dataclass(frozen=True)
class KeyRule:
    """How the members of archives become samples and keys: one rule for a table, which keeps it.

    `split` cuts a member's name: at the last dot before a known ending, so that every image is a sample of its own
    (names of DICOM files hold many dots); or at the first dot of the last part, as webdataset does, so that all members
    of that stem are one sample with one image. In a folder of loose images a key is the path, whatever `split` is.
    Raises ValueError for a rule that there is not: tables may come from elsewhere.
    """

    split: str = "last-dot"  # last-dot | first-dot
    prefix: int = 0  # so many last parts of the archive's own path, without its suffix, are put before its keys

    def __post_init__(self) -> None:
        if self.split not in SPLITS or type(self.prefix) is not int or self.prefix < 0:
            raise ValueError(f"no rule for keys: {self.split!r}, {self.prefix!r}")


def _room_for_all(nbytes: int) -> None:
    """For readers that hold one image at a time."""


@dataclass(frozen=True)
class TileRule:
    """How slides are cut into tiles: one rule for a table, which keeps it. Raises ValueError for one out of bounds.

    Tiles lie side by side from the slide's upper left corner; the strips at its right and lower edges that are narrower
    than a tile are left out.
    """

    tile: int  # pixels of a tile's side
    mpp: float  # micrometres a pixel of a tile
    tissue: float = 0.25  # a tile with a smaller share of tissue is left out
    saturation: int = 15  # of 255, above which a pixel of the overview is tissue (`slides.tissue`)

    def __post_init__(self) -> None:
        sound = 16 <= self.tile <= 4096 and 0.02 <= self.mpp <= 100 and 0 <= self.tissue <= 1
        if not sound or not 0 <= self.saturation <= 254:
            raise ValueError(f"no rule for tiles: {self.tile!r}, {self.mpp!r}, {self.tissue!r}, {self.saturation!r}")


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


UNREAD = "unread"  # the identity of a shard that is to be read again: unlike any other

DELETED = "deleted by request"  # the reason of the failure that stands for a deleted image

FIRST_PART = ("", "0")  # names of an image's first part: the only one, or the first of several


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


@dataclass(frozen=True)
class EmbeddingRow:
    """A row for one part of an image, passed from the pipeline to the store; its vector is in the batch."""

    key: str  # of `part_key`
    place: Place
    content: str  # sha256 of the image's bytes
    metadata: dict[str, Any]
    facts: Mapping[str, Fact] = field(default_factory=dict)  # Part.facts


@dataclass(frozen=True)
class EmbeddingBatch:
    """Rows and their vectors, in the same order. The encoder's raw vector is `vectors[i] * norms[i]`."""

    rows: tuple[EmbeddingRow, ...]
    vectors: Float16  # (n, dim) unit rows, finite
    norms: Float32  # (n,) > 0


@dataclass(frozen=True)
class ShardResult:
    """The result of a shard, or of a part of one, which the store writes in one commit.

    A large shard has several parts, in order; all but the last have `more`.
    """

    shard: Shard
    batches: tuple[EmbeddingBatch, ...]
    failures: tuple[Failure, ...]
    samples: int  # whole samples read from the shard so far, including skipped ones of a resumed shard
    partial: bool = False  # truncated or damaged: its whole samples are stored, and it is not "done"
    replaces: bool = False  # delete the rows of the shard's former content first; read from the first part only
    reused: int = 0  # rows whose vector was kept from the former content
    more: bool = False  # further parts of this shard follow
    adopted: int = 0  # samples so far that the table has under another shard, with the same bytes


@dataclass(frozen=True)
class PartMatch:
    """A row of a group, and the part of a query that is nearest to it."""

    query: str  # name of the query's part
    key: str
    score: float  # cosine
    row_id: int


@dataclass(frozen=True)
class Hit:
    """One search result."""

    rank: int  # from 1
    key: str
    score: float  # cosine
    row_id: int
    columns: dict[str, Any]  # the requested scalar columns
    more: int | None = None  # with `one_per` and `by`: other rows of the same value that the search's options allow
    group: str | None = None  # with `by`: the value; `key` is then the row that matches best, `score` the group's
    parts: tuple[PartMatch, ...] = ()  # with `by`: the rows that match best


@dataclass(frozen=True)
class StageTime:
    """Seconds a stage's threads were busy, summed over its threads."""

    name: str
    busy_seconds: float
    threads: int


@dataclass(frozen=True)
class RunReport:
    """The result of one `index` run."""

    table: str
    encoder: str  # EncoderSpec.name
    fingerprint: str
    shards_done: int
    shards_skipped: int  # done by earlier runs
    shards_partial: int  # truncated or damaged: their whole samples are stored, and they are not "done"
    images: int  # embedded + failed, always
    embedded: int
    reused: int  # of embedded: unchanged images of changed shards, whose vector was kept
    failed: int
    reasons: dict[str, int]  # failures by reason
    flags: dict[str, int]  # images by flag, and members of their samples that were passed over
    columns_skipped: dict[str, int]  # metadata values that stayed in `meta` only, by field and cause
    seconds: float
    images_per_second: float
    stages: tuple[StageTime, ...]
    bottleneck: str  # one line with a remedy
    precision_cosine: float | None  # lowest cosine of the reduced-precision vectors against fp32 on a sample
    interrupted: bool
    warnings: tuple[str, ...] = ()
    adopted: int = 0  # not in `images`: in the table under another shard, with the same key and bytes
    gone: int = 0  # rows whose file is gone from the folders that were named
    part: str = ""  # I/N of a run that did one part
    pending: int = 0  # shards of it that are embedded and wait for a commit
    decoder_difference: float | None = None  # largest of --decoder gpu to the CPU's pixels on a sample, in grey levels


class Progress(Protocol):
    """Progress callbacks of a long call: consecutive stages, and the steps done of the current one.

    `indexer.progress` has an implementation without output and one for terminals.
    """

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[object]:
        """A context manager for a stage of `total` steps (None: unknown)."""
        ...

    def advance(self, n: int = 1, **counts: int) -> None:
        """Add `n` completed steps of the stage; `counts` are current values of further counts."""
        ...

    def note(self, text: str) -> None:
        """Show one line that the user should read before the call ends."""
        ...


class Encoder(Protocol):
    """Embeds decoded images; made by `indexer.encoders.load`."""

    @property
    def spec(self) -> EncoderSpec: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def device(self) -> str: ...

    @property
    def workers(self) -> int:
        """The useful number of threads that call `embed` concurrently."""
        ...

    def embed(self, pictures: UInt8) -> Float32:
        """(n, size, size, 3) uint8 RGB → (n, dim) raw vectors. Thread-safe."""
        ...

"""Groups the members of a shard into samples: splits names into key and suffix, joins images with their metadata."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from indexer.errors import InputError
from indexer.memory.budget import MAX_SIDECAR
from indexer.streams import SURROGATES
from indexer.types import IMAGE_SUFFIXES, Failure, Sample
from indexer.user_tables.joining import image_suffix

METADATA_SUFFIXES = ("json", "txt", "cls")
ARCHIVE_SUFFIXES = ("zip", "tar", "tgz", "gz", "bz2", "xz", "zst", "7z", "rar", "npz", "parquet")
NESTED, UNPACK = "archive inside an archive", "unpack the outer one and index what it holds"
IMAGE_ENDINGS = ("", *(f".{suffix}" for lower in IMAGE_SUFFIXES for suffix in (lower, lower.upper())))  # of one key
DICOM_HEAD = 132  # bytes; the last four are DICM (PS3.10 section 7.1)
MAX_DEPTH = 64  # of nested JSON
LONGEST_CLASS = 18  # digits of a `.cls` that is a number: what int64 holds
LONGEST_ENDING = 24  # characters of an ending that a note holds
BAD = "bad metadata"
OTHER_IMAGE = "passed over, since the sample has another image"
NOT_USED = "passed over, neither image nor metadata"
BY_PLACE = "image of its sample as its first one, none being .jpg, .png, … alone"
# Surrogateescape: how Python represents the bytes of a name that is not UTF-8
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')


def plain_name(name: str) -> str:
    """A file's or member's name as text: bytes that are not UTF-8 (in old archives) are percent-encoded."""
    return SURROGATES.sub(lambda found: f"%{ord(found[0]) & 0xFF:02X}", name)


def split_name(name: str) -> tuple[str, str]:
    """(key, suffix) of a member: split at the last dot, and only where a known suffix follows it.

    So `1.2.840.1.dcm` and `1.2.840.2.dcm` are two samples, and `1.2.840.3` keeps its whole name.
    """
    suffix = image_suffix(name)
    if suffix:
        return name[: -len(suffix) - 1], suffix
    stem, dot, last = name.rpartition(".")
    if dot and suffix is None:
        return stem, last.lower()
    return name, ""


def split_first(name: str) -> tuple[str, str]:
    """(key, ending) of a member as webdataset splits its name: at the first dot of its last part.

    Other than there, a dot that begins the last part belongs to the key, and a name without another dot is all key.
    """
    folder, slash, last = name.rpartition("/")
    stem, _, ending = last[1:].partition(".")
    return f"{folder}{slash}{last[:1]}{stem}", ending.lower()


def sidecar_of(name: str) -> str:
    """The name of the JSON beside an image: the same key, so `a.nii.gz` has `a.json`, and `1.2.3` has `1.2.3.json`."""
    return f"{split_name(name)[0]}.json"


def is_dicom(head: bytes) -> bool:
    """Whether the first bytes of a file are those of DICOM, whatever its name: scanners also write .IMA, .MR or .CT."""
    return head[DICOM_HEAD - 4 : DICOM_HEAD] == b"DICM"


def is_archive(name: str) -> bool:
    """Whether a member is itself an archive, by its suffix."""
    return image_suffix(name) is None and split_name(name)[1] in ARCHIVE_SUFFIXES


def sidecar_fields(data: bytes) -> dict[str, Any]:
    """The fields of the JSON beside an image. Raises ValueError where it is not a JSON object, or one out of bounds."""
    if len(data) > MAX_SIDECAR:
        raise ValueError(f"over {MAX_SIDECAR:,} bytes")
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH and _depth(data) > MAX_DEPTH:
        raise ValueError("nested too deeply")
    try:
        fields = _json(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    return fields


def _depth(data: bytes) -> int:
    """The depth of nested brackets outside of strings."""
    depth = deepest = 0
    for mark in _BRACKETS.findall(data):
        if mark in (b"{", b"["):
            depth += 1
            deepest = max(deepest, depth)
        elif mark in (b"}", b"]"):
            depth -= 1
    return deepest


class Group:
    """The members of one sample, collected until the key changes."""

    def __init__(self, shard: str, key: str, beside: str = "") -> None:
        """`beside`: an image read before, whose name begins with this key and a dot."""
        self.shard, self.key, self._beside = shard, key, beside
        self.image: tuple[str, str, int, bytes] | None = None
        self._ending = ""  # of the image's name, after the key
        self._notes: list[str] = []
        self.metadata: dict[str, Any] = {}
        self.failures: list[Failure] = []
        self.bad_metadata = ""
        self.members: list[str] = []
        self.suffixes: set[str] = set()  # a second member with the same suffix begins another sample of the same key

    def add(self, name: str, suffix: str, offset: int, data: bytes) -> None:
        self.members.append(name)
        self.suffixes.add(suffix)
        named = image_suffix(name)
        if named is not None or (suffix not in METADATA_SUFFIXES and is_dicom(data)):
            if self.image is not None and _several(suffix):
                self._note(OTHER_IMAGE, suffix)
            elif self.image is None or _several(self._ending):
                if self.image is not None:
                    self._note(OTHER_IMAGE, self._ending)
                self._ending = suffix
                self.image = (name, "dcm" if named is None else named, offset, data)
            else:
                detail = f"{name}: the sample's image is {self.image[0]}"
                self.fail("second image in one sample", detail, offset, len(data), suffix, name)
        elif suffix == "json":
            try:
                self.metadata.update(sidecar_fields(data))
            except ValueError as error:
                self.bad_metadata = f"{name}: {error}"
        elif suffix in METADATA_SUFFIXES:
            self._add_text(name, suffix, data)
        else:
            self._note(NOT_USED, suffix)

    def _add_text(self, name: str, suffix: str, data: bytes) -> None:
        if len(data) > MAX_SIDECAR:
            self.bad_metadata = f"{name}: over {MAX_SIDECAR:,} bytes"
            return
        text = data.decode("utf-8", "replace").strip()
        number = suffix == "cls" and text.isascii() and text.isdigit() and len(text) <= LONGEST_CLASS
        self.metadata[suffix] = int(text) if number else text

    def fail(
        self, reason: str, detail: str, offset: int = -1, nbytes: int = 0, suffix: str = "", member: str = ""
    ) -> None:
        self.failures.append(
            Failure(self.shard, self.key, "read", reason, detail[:500], offset, nbytes, suffix, member)
        )

    def close(self) -> Iterator[Sample | Failure]:
        if self.image is None:
            if not self.failures:  # one reason is enough
                inner = next((name for name in self.members if is_archive(name)), "")
                if inner:
                    self.fail(NESTED, f"{inner}: {UNPACK}", member=inner)
                else:
                    way_out = f". {self._beside} is a sample of its own: --key first-dot reads the two as one"
                    self.fail("no image in sample", ", ".join(self.members)[:300] + (way_out if self._beside else ""))
        else:
            member, suffix, offset, data = self.image
            if self.bad_metadata:
                self.fail(BAD, self.bad_metadata, offset, len(data), suffix, member)
            elif not data:
                self.fail("empty file", member, offset, 0, suffix, member)
            else:
                if _several(self._ending):
                    self._note(BY_PLACE, self._ending)
                notes = tuple(self._notes)
                yield Sample(self.shard, self.key, suffix, data, offset, len(data), self.metadata, member, notes)
        yield from self.failures

    def _note(self, what: str, ending: str) -> None:
        named = ending if len(ending) <= LONGEST_ENDING else f"…{ending[-LONGEST_ENDING:]}"
        self._notes.append(f"{what}: .{named}" if ending else what)


class OpenSamples:
    """The samples that may get further members: the last one, and those whose key it continues after a dot.

    So `s1.json` belongs to `s1.jpg` though `s1.seg.png` stands between them. Memory holds at most DEEPEST samples.
    """

    DEEPEST = 4

    def __init__(self, shard: str) -> None:
        self._shard = shard
        self._groups: list[Group] = []
        self._image = ""  # member of the last closed sample

    @property
    def last(self) -> Group:
        """The sample of the member for which `close_before` was called last."""
        return self._groups[-1]

    @property
    def nbytes(self) -> int:
        """Of the images that are held."""
        return sum(len(group.image[-1]) for group in self._groups if group.image)

    def close_before(self, key: str, suffix: str) -> Iterator[Sample | Failure]:
        """The samples that end before a member with this key and suffix; `last` is then the member's."""
        while self._groups and not f"{key}.".startswith(f"{self.last.key}."):
            yield from self._closed(self._groups.pop())
        if self._groups and self.last.key == key and suffix in self.last.suffixes:
            yield from self._closed(self._groups.pop())  # another sample of the same key
        if not self._groups or self.last.key != key:
            beside = self._image if self._image.startswith(f"{key}.") else ""
            self._groups.append(Group(self._shard, key, beside))
        if len(self._groups) > self.DEEPEST:
            yield from self._closed(self._groups.pop(0))

    def close(self) -> Iterator[Sample | Failure]:
        """All samples that are left."""
        while self._groups:
            yield from self._closed(self._groups.pop())

    def _closed(self, group: Group) -> Iterator[Sample | Failure]:
        if group.image is not None:
            self._image = group.image[0]
        yield from group.close()


def _several(ending: str) -> bool:
    """Whether an ending is more than a suffix, as `seg.png` is: of a mask or a view, by the first-dot rule."""
    return "." in ending and ending not in IMAGE_SUFFIXES


def loose_sample(
    shard: str, name: str, image: bytes, sidecar: bytes | None, offset: int = 0, *, key: str = ""
) -> Iterator[Sample | Failure]:
    """The sample of one image of a tree of files, whose JSON beside it is `sidecar`.

    The key is its path with the suffix, since a.png may lie beside a.jpg. The folder, which is the class in a tree of
    one folder a class, becomes the field `folder` unless the JSON has one.
    """
    path = key or name
    group = Group(shard, path)
    if sidecar is not None:
        group.add(PurePosixPath(sidecar_of(path)).name, "json", 0, sidecar)
    parent = PurePosixPath(path).parent.as_posix()
    if parent != ".":
        group.metadata.setdefault("folder", parent)
    group.add(name, image_suffix(path) or "", offset, image)
    yield from group.close()


def _json(data: bytes) -> Any:
    """Parsed JSON as a table can hold it: NaN and infinity become null, an unpaired surrogate a question mark."""
    fields = json.loads(data, parse_constant=lambda _: None, parse_float=_finite)
    if data.isascii() and b"\\u" not in data:
        return fields
    text = json.dumps(fields, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.loads(text.encode("utf-8", "replace"))
    return fields


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None  # 1e999


def lasting_name(path: Path) -> str:
    """The absolute path, by which tables name the shard. Raises InputError where it is not UTF-8."""
    name = str(path.resolve())
    if SURROGATES.search(name):
        raise InputError(f"the name {plain_name(name)} is not UTF-8 and cannot name a shard. Rename it.")
    return name

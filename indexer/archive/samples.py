"""Groups the members of a shard into samples: splits names into key and suffix, joins images with their metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from indexer.errors import InputError
from indexer.types import IMAGE_SUFFIXES, Failure, Sample
from indexer.user_tables.joining import image_suffix

METADATA_SUFFIXES = ("json", "txt", "cls")
ARCHIVE_SUFFIXES = ("zip", "tar", "tgz", "gz", "bz2", "xz", "zst", "7z", "rar", "npz", "parquet")
NESTED, UNPACK = "archive inside an archive", "unpack the outer one and index what it holds"
IMAGE_ENDINGS = ("", *(f".{suffix}" for lower in IMAGE_SUFFIXES for suffix in (lower, lower.upper())))  # of one key
DICOM_HEAD = 132  # bytes; the last four are DICM (PS3.10 section 7.1)
# Surrogateescape: how Python represents the bytes of a name that is not UTF-8
SURROGATES = re.compile("[\ud800-\udfff]")


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
    """The fields of the JSON beside an image. Raises ValueError where it is not a JSON object."""
    try:
        fields = _json(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    return fields


class Group:
    """The members of one sample, collected until the key changes."""

    def __init__(self, shard: str, key: str) -> None:
        self.shard, self.key = shard, key
        self.image: tuple[str, str, int, bytes] | None = None
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
            suffix = "dcm" if named is None else suffix
            if self.image is None:
                self.image = (name, suffix, offset, data)
            else:
                detail = f"{name}: the sample's image is {self.image[0]}"
                self.fail("second image in one sample", detail, offset, len(data), suffix, name)
        elif suffix == "json":
            try:
                self.metadata.update(sidecar_fields(data))
            except ValueError as error:
                self.bad_metadata = f"{name}: {error}"
        elif suffix in METADATA_SUFFIXES:
            text = data.decode("utf-8", "replace").strip()
            self.metadata[suffix] = int(text) if suffix == "cls" and text.isascii() and text.isdigit() else text

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
                    self.fail("no image in sample", ", ".join(self.members)[:500])
        else:
            member, suffix, offset, data = self.image
            if self.bad_metadata:
                self.fail("bad metadata", self.bad_metadata, offset, len(data), suffix, member)
            elif not data:
                self.fail("empty file", member, offset, 0, suffix, member)
            else:
                yield Sample(self.shard, self.key, suffix, data, offset, len(data), self.metadata, member)
        yield from self.failures


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
    fields = json.loads(data, parse_constant=lambda _: None)
    if data.isascii() and b"\\u" not in data:
        return fields
    text = json.dumps(fields, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.loads(text.encode("utf-8", "replace"))
    return fields


def lasting_name(path: Path) -> str:
    """The absolute path, by which tables name the shard. Raises InputError where it is not UTF-8."""
    name = str(path.resolve())
    if SURROGATES.search(name):
        raise InputError(f"the name {plain_name(name)} is not UTF-8 and cannot name a shard. Rename it.")
    return name

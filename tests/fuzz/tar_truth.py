"""What Python's tarfile finds in an archive, against what is read from it."""

from __future__ import annotations

import hashlib
import json
import posixpath
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from indexer.addresses import DAMAGE
from indexer.archive.reader import read_place, read_shard
from indexer.errors import CutShard, IndexerError
from indexer.types import Failure, Place, Sample, Shard
from tests.fuzz.tar_archives import IMAGES
from tests.fuzz.verdict import Wrong


@dataclass
class _Found:
    """A sample as it should be read."""

    key: str
    suffixes: set[str] = field(default_factory=set)
    images: list[tuple[str, bytes]] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    damaged: bool = False  # its JSON


def tar_attack(folder: Path) -> Callable[[list[bytes]], list[str]]:
    path = folder / "shard.tar"

    def compared(data: bytes) -> str:
        path.write_bytes(data)
        shard = Shard(str(path), str(path), "1")
        items: list[Sample | Failure] = []
        try:
            items.extend(read_shard(shard))
        except CutShard:
            _check_samples(items, _by_tarfile(path, cut=True))
            return "cut"
        except IndexerError as error:
            return type(error).__name__
        members = _by_tarfile(path)
        if members is None:
            return "not read by the other"
        if any(isinstance(item, Failure) and "links of a compressed shard" in item.detail for item in items):
            return "links of a compressed shard"  # which are not followed, and named
        _check_images(items, members)
        _check_metadata([item for item in items if isinstance(item, Sample)], members)
        for sample in items if data[:2] != b"\x1f\x8b" and data[257:262] == b"ustar" else []:
            if isinstance(sample, Sample):
                place = Place(shard.name, sample.member, sample.offset, sample.nbytes, sample.suffix)
                read_place(
                    str(path), place, hashlib.sha256(sample.image).hexdigest()
                )  # raises where it is not the same
        return "equal"

    def attack(batch: list[bytes]) -> list[str]:
        return [compared(data) for data in batch]

    return attack


def _by_tarfile(path: Path, *, cut: bool = False) -> list[tuple[str, bytes | None]] | None:
    """(name, content) of every member but folders, None where a link leads nowhere or the member is no file.

    With `cut`, of every file that is whole; links are then left out.
    """
    try:
        with tarfile.open(path) as archive:
            if cut:
                return list(_whole(archive))
            headers = archive.getmembers()
            return [(_plain(h.name), _followed(archive, headers, i, 8)) for i, h in enumerate(headers) if not h.isdir()]
    except (*DAMAGE, tarfile.TarError):
        return None


def _plain(name: str) -> str:
    """Bytes that are no UTF-8 are written as %FF."""
    return "".join(f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in name)


def _whole(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes | None]]:
    with suppress(*DAMAGE, tarfile.TarError):
        for header in archive:
            file = archive.extractfile(header) if header.isfile() else None
            yield _plain(header.name), file.read() if file else None


def _check_samples(items: list[Sample | Failure], members: list[tuple[str, bytes | None]] | None) -> None:
    """Each sample's bytes are those of a file or of a link of that name."""
    known = members or []
    for item in items if members is not None else []:
        if isinstance(item, Sample) and not {(item.member, item.image), (item.member, None)} & {*known}:
            raise Wrong(f"{item.member} is a sample with {len(item.image)} bytes that are not in the archive")


def _followed(archive: tarfile.TarFile, headers: list[tarfile.TarInfo], i: int, steps: int) -> bytes | None:
    """A hard link is the file of that name that was unpacked before it, a symbolic link the one there is in the end."""
    header = headers[i]
    if header.isfile():
        file = archive.extractfile(header)
        return file.read() if file else None
    if not (header.islnk() or header.issym()) or not steps:
        return None
    target = header.linkname if header.islnk() else posixpath.join(posixpath.dirname(header.name), header.linkname)
    files = [j for j, h in enumerate(headers) if h.isfile() or h.islnk() or h.issym()]
    named = [j for j in files if posixpath.normpath(headers[j].name) == posixpath.normpath(target)]
    if header.islnk():
        named = [j for j in named if j < i] or named[:1]
    return _followed(archive, headers, named[-1], steps - 1) if named else None


def _check_images(items: list[Sample | Failure], members: list[tuple[str, bytes | None]]) -> None:
    """Each image is a sample with its bytes or a failure that names it, and nothing else is."""
    wanted = [(name, data) for name, data in members if name.rpartition(".")[2] in IMAGES]
    samples = [(item.member, item.image) for item in items if isinstance(item, Sample)]
    failed = {item.member for item in items if isinstance(item, Failure)}
    for name, data in samples:
        if (name, data) not in wanted:
            raise Wrong(f"{name} is a sample with {len(data)} bytes that the archive does not hold under that name")
    for name, data in wanted:
        if (name, data) not in samples and name not in failed:
            raise Wrong(f"{name} is neither a sample with its {len(data or b'')} bytes nor a failure")
    if len(samples) > len(wanted):
        raise Wrong(f"{len(samples)} samples of {len(wanted)} images")


def _check_metadata(samples: list[Sample], members: list[tuple[str, bytes | None]]) -> None:
    """Neighbours of one key are one sample, until a suffix comes again."""
    expected: list[_Found] = []
    for name, data in members:
        key, _, suffix = name.rpartition(".")
        suffix = suffix.lower()
        if not expected or expected[-1].key != key or suffix in expected[-1].suffixes:
            expected.append(_Found(key))
        if data is not None:
            _take(expected[-1], name, suffix, data)
    found = iter(samples)
    for sample in expected:
        if sample.images and not sample.damaged and sample.images[0][1]:
            got = next(found, None)
            if got is None or (got.key, got.member, got.metadata) != (sample.key, sample.images[0][0], sample.metadata):
                raise Wrong(f"{sample.key}: {got and (got.key, got.member, got.metadata)} for {sample.metadata}")
    if next(found, None) is not None:
        raise Wrong("more samples than there are")


def _take(sample: _Found, name: str, suffix: str, data: bytes) -> None:
    sample.suffixes.add(suffix)
    if suffix in ("png", "jpg"):
        sample.images.append((name, data))
    elif suffix == "json":
        try:
            fields = json.loads(data)
            sample.metadata.update(fields if isinstance(fields, dict) else 1 / 0)
        except (ValueError, ZeroDivisionError):
            sample.damaged = True
    elif suffix == "cls":
        text = data.decode("utf-8", "replace").strip()
        sample.metadata["cls"] = int(text) if text.isdecimal() and text.isascii() else text
    elif suffix == "txt":
        sample.metadata["txt"] = data.decode("utf-8", "replace").strip()

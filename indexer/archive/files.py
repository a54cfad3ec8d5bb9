"""Folders of loose images as shards."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote_to_bytes

from indexer.addresses import identity, is_remote
from indexer.archive.kind import ShardKind
from indexer.archive.samples import Group, image_suffix, lasting_name, plain_name
from indexer.errors import InputError, ShardNotFound
from indexer.types import Failure, Place, Sample, Shard

BUCKETS = 256  # a folder of images is worked through in this many shards; fixed, so that a file keeps its shard
NAMED = 5  # files that a note names; the others it counts


class Files:
    """Implements `kind.ShardKind`: a folder of images, worked through in buckets."""

    name = "files"
    suffixes: tuple[str, ...] = ()

    def __init__(self, inside: tuple[ShardKind, ...]) -> None:
        """`inside`: the kinds of archive that may lie in a folder."""
        self._inside = inside

    def claims(self, address: str) -> bool:
        return not is_remote(address) and Path(address).is_dir()

    def shards(self, address: str, *, hash_content: bool, notes: list[str]) -> Iterator[Shard]:
        """Buckets of the folder's images, or the shards that lie in it."""
        root = Path(address)
        files = [
            p for p in sorted(root.rglob("*")) if not any(part.startswith(".") for part in p.relative_to(root).parts)
        ]
        files = [p for p in files if p.is_file()]
        archives = [(p, kind) for p in files for kind in self._inside if p.name.lower().endswith(kind.suffixes)]
        images = [p for p in files if image_suffix(p.name) is not None]
        if archives and images:
            raise InputError(f"{root} holds both shards and loose images. Name the shards: '{root}/*.tar'.")
        notes.extend(_unread(root, files, [p for p, _ in archives], images))
        if not archives and not images:
            raise ShardNotFound(f"{root} holds no shard (*.tar) and no image.")
        for path, kind in archives:
            yield from kind.shards(str(path), hash_content=hash_content, notes=notes)
        yield from _buckets(root, images, hash_content)

    def samples(self, shard: Shard) -> Iterator[Sample | Failure]:
        """The images of one bucket. The key is the path with its suffix, since a.png may lie beside a.jpg."""
        root = Path(shard.url)
        for name in shard.files:
            path, name = root / name, plain_name(name)
            group = Group(shard.name, name)
            try:
                data = path.read_bytes()
                sidecar = path.with_suffix(".json")
                if sidecar.is_file():
                    group.add(sidecar.name, "json", 0, sidecar.read_bytes())
            except OSError as error:
                group.fail("unreadable file", str(error), 0, 0, image_suffix(name) or "", name)
                yield from group.failures
                continue
            parent = PurePosixPath(name).parent.as_posix()
            if parent != ".":
                group.metadata.setdefault("folder", parent)  # a folder-per-class tree keeps its classes
            group.add(name, image_suffix(name) or "", 0, data)
            yield from group.close()

    def read_back(self, url: str, place: Place) -> bytes:
        return named_file(Path(url), place.member).read_bytes()


def _unread(root: Path, files: list[Path], archives: list[Path], images: list[Path]) -> Iterator[str]:
    """A note that names the first files that are neither images nor shards nor the metadata beside an image."""
    known = {*archives, *images}
    sidecars = {str(p.with_suffix("")) for p in images}
    others = [p for p in files if p not in known and not (p.suffix == ".json" and str(p.with_suffix("")) in sidecars)]
    if others:
        named = ", ".join(plain_name(p.relative_to(root).as_posix()) for p in others[:NAMED])
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        yield f"not read under {root}, since neither images nor shards: {named}{more}"


def _buckets(root: Path, images: list[Path], hash_content: bool) -> Iterator[Shard]:
    """A file's bucket depends on its own path alone: a growing folder changes few shards, and none loses a file."""
    base = lasting_name(root)
    buckets: dict[int, list[str]] = {}
    for path in images:
        name = path.relative_to(root).as_posix()
        buckets.setdefault(hashlib.blake2b(os.fsencode(name), digest_size=1).digest()[0] % BUCKETS, []).append(name)
    for number, names in sorted(buckets.items()):
        facts = hashlib.sha256()
        for name in names:
            facts.update(os.fsencode(f"{name}\0{identity(str(root / name), name, hash_content=hash_content)}\0"))
        yield Shard(base, f"{base}#{number:03d}", facts.hexdigest()[:32], "files", tuple(names))


def named_file(root: Path, member: str) -> Path:
    """A folder's file by the name in the table, which may stand for bytes that are no UTF-8."""
    path = root / member
    return path if path.exists() else root / os.fsdecode(unquote_to_bytes(member))

"""What the user names (folder, glob, braces, URLs) → ordered shards with an identity."""

from __future__ import annotations

import glob
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.archive.samples import SURROGATES, image_suffix, plain_name
from indexer.errors import InputError, ShardNotFound, sentence
from indexer.redact import redacted
from indexer.types import IMAGE_SUFFIXES, Shard

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
BUCKETS = 256  # a folder of images is worked through in this many shards; fixed, so that a file keeps its shard
HEAD_SECONDS = 5
NAMED = 5  # files that a note names; the others it counts


@dataclass(frozen=True)
class Sources:
    """The shards in the order they will be read, and what was left out and why."""

    shards: tuple[Shard, ...]
    notes: tuple[str, ...]


def find_shards(sources: Sequence[str], *, hash_content: bool = False) -> Sources:
    """Expand what the user typed. Each source may be a tar, a folder of tars, a folder of images, a glob,
    a brace pattern, or a URL that webdataset opens (pipe:, http:, s3:, gs:).

    `hash_content` makes the identity a hash of the bytes instead of size and time of change.
    Raises ShardNotFound, InputError.
    """
    shards: dict[str, Shard] = {}
    notes: list[str] = []
    for source in sources:
        for shard in _expand(source, hash_content, notes):
            if shard.name in shards and shards[shard.name].url != shard.url:
                raise InputError(
                    f"two addresses are both {shard.name} once passwords and signatures are left out of their names. "
                    "Give them different paths."
                )
            if shard.name in shards:
                notes.append(f"{shard.name} was named twice; it is read once")
            shards[shard.name] = shard
    if not shards:
        raise ShardNotFound(f"no shard and no image under {', '.join(sources) or 'nothing'}.")
    return Sources(tuple(shards.values()), tuple(notes))


def _expand(source: str, hash_content: bool, notes: list[str]) -> Iterator[Shard]:
    if source.startswith("pipe:") or "://" in source:
        for url in _braces(source):
            name = redacted(url)  # what is stored and printed; the url itself is used and forgotten
            yield Shard(url, name, _remote_identity(url, name, notes))
        return
    for pattern in [source] if Path(source).exists() else _braces(source):
        # Path.glob takes no absolute pattern
        found = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207
        paths = [pattern] if Path(pattern).exists() else found
        if not paths:
            raise ShardNotFound(f"nothing matches {pattern}. Give a folder, a .tar, a glob in quotes, or a URL.")
        for path in map(Path, paths):
            if path.is_dir():
                yield from _folder(path, hash_content, notes)
            else:
                yield _tar(path, hash_content)


def _braces(pattern: str) -> list[str]:
    if "{" not in pattern:
        return [pattern]
    from braceexpand import UnbalancedBracesError, braceexpand

    try:
        return list(braceexpand(pattern))
    except UnbalancedBracesError as error:
        words = f"{pattern}: {sentence(error)}. A brace pattern looks like shards-{{0000..0099}}.tar."
        raise InputError(words) from error


def _tar(path: Path, hash_content: bool) -> Shard:
    if not path.is_file():
        raise ShardNotFound(f"no such shard or folder: {path}")
    if path.suffix.lower().lstrip(".") in IMAGE_SUFFIXES:
        raise InputError(f"{path} is one image, not a shard. Name its folder, or search with it: `indexer search`.")
    name = _lasting(path)
    return Shard(name, name, _identity(path, hash_content))


def _lasting(path: Path) -> str:
    """The absolute path, which names the shard in the tables from now on."""
    name = str(path.resolve())
    if SURROGATES.search(name):
        raise InputError(f"the name {plain_name(name)} is no UTF-8 and cannot name a shard. Rename it.")
    return name


def _identity(path: Path, hash_content: bool) -> str:
    if hash_content:
        with path.open("rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    stat = path.stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def _remote_identity(url: str, name: str, notes: list[str]) -> str:
    """The server's etag, or size and date; "unverified" where nothing can be asked without reading it all."""
    if url.startswith(("http://", "https://")):
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=HEAD_SECONDS) as answer:  # nosec B310
                head = answer.headers
        except (urllib.error.URLError, OSError) as error:
            raise ShardNotFound(f"{name} does not answer: {error}") from error
        tag = head.get("ETag") or f"{head.get('Content-Length')}-{head.get('Last-Modified')}"
        if tag != "None-None":
            return str(tag)
    notes.append(f"{name}: a change of its content cannot be seen from here")
    return "unverified"


def _folder(root: Path, hash_content: bool, notes: list[str]) -> Iterator[Shard]:
    files = [p for p in sorted(root.rglob("*")) if not any(part.startswith(".") for part in p.relative_to(root).parts)]
    files = [p for p in files if p.is_file()]
    tars = [p for p in files if p.name.lower().endswith(TAR_SUFFIXES)]
    images = [p for p in files if image_suffix(p.name) is not None]
    if tars and images:
        raise InputError(f"{root} holds both shards and loose images. Name the shards: '{root}/*.tar'.")
    notes.extend(_unread(root, files, tars, images))
    if not tars and not images:
        raise ShardNotFound(f"{root} holds no shard (*.tar) and no image.")
    yield from (_tar(path, hash_content) for path in tars)
    yield from _buckets(root, images, hash_content)


def _unread(root: Path, files: list[Path], tars: list[Path], images: list[Path]) -> Iterator[str]:
    """A note that names the first files that are neither images nor shards nor the metadata beside an image."""
    known = {*tars, *images}
    sidecars = {str(p.with_suffix("")) for p in images}
    others = [p for p in files if p not in known and not (p.suffix == ".json" and str(p.with_suffix("")) in sidecars)]
    if others:
        named = ", ".join(plain_name(p.relative_to(root).as_posix()) for p in others[:NAMED])
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        yield f"not read under {root}, since neither images nor shards: {named}{more}"


def _buckets(root: Path, images: list[Path], hash_content: bool) -> Iterator[Shard]:
    """A file's bucket depends on its own path alone: a growing folder changes few shards, and none loses a file."""
    base = _lasting(root)
    buckets: dict[int, list[str]] = {}
    for path in images:
        name = path.relative_to(root).as_posix()
        buckets.setdefault(hashlib.blake2b(os.fsencode(name), digest_size=1).digest()[0] % BUCKETS, []).append(name)
    for number, names in sorted(buckets.items()):
        facts = hashlib.sha256()
        for name in names:
            facts.update(os.fsencode(f"{name}\0{_identity(root / name, hash_content)}\0"))
        yield Shard(base, f"{base}#{number:03d}", facts.hexdigest()[:32], "files", tuple(names))


def changed_words(shards: Sequence[Shard]) -> str:
    """That these differ from what was indexed, as the user named them: he never heard of a folder's groups."""
    first = shards[0]
    if first.kind != "files":
        more = f" and {len(shards) - 1} more" if len(shards) > 1 else ""
        return f"{first.name}{more} changed since it was indexed"
    groups = sum(shard.url == first.url for shard in shards)
    more = f" (and {len(shards) - groups} other shards)" if len(shards) > groups else ""
    counted = "1 of the groups" if groups == 1 else f"{groups} of the groups"
    return (
        f"folder {first.url}{more}: files were added, changed or removed since it was indexed, in {counted} in which "
        f"its files are kept (up to {BUCKETS}, by file name)"
    )

"""Images that a table lists: files below the table's folder or the one that the user named, and addresses of servers.

A table may come from anybody. Of its paths, those are read that lie below the folder; its addresses are fetched with
GET alone, to a size, and redirections to other hosts are not followed.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from indexer.addresses import identity, is_remote, plain
from indexer.archive.roots import is_below, named
from indexer.archive.samples import plain_name
from indexer.archive.tables.named import TableOptions, image_folder, options_in
from indexer.errors import ReadError, ShardNotFound
from indexer.memory.budget import MAX_IMAGE
from indexer.redact import redacted, stored_address
from indexer.remote.stream import ResumedStream
from indexer.remote.whole import SMALL_BYTES, Servers, can_be_fetched, drained, read_whole, server_of
from indexer.types import Failure, Place, Sample, Shard
from indexer.user_tables.joining import image_suffix

MAX_FETCHED = 512 << 20  # bytes; a few are held at once
READERS = 8  # addresses asked at once: each answer takes some hundredths of a second
MAX_SERVERS = 1000  # whose pictures are read back without --pictures-from
_OUTSIDE, _OTHER = "file outside the folder", "an address that is not fetched"


class Row(NamedTuple):
    """A row of a table that lists images."""

    number: int
    key: str  # of `--key-column`, "" without one
    path: str  # or an address
    fields: dict[str, Any]


class _Image(NamedTuple):
    """Where a row's image lies, or why it is not read."""

    member: str  # as the table of embeddings stores it
    address: str  # to fetch; "" for a file
    reason: str = ""
    detail: str = ""


class _Large(NamedTuple):
    """A row whose image is large: it is read in its turn, not beside others."""

    row: Row
    image: _Image
    stream: ResumedStream


class ListedFiles:
    """The images that one table lists."""

    def __init__(self, url: str, options: TableOptions) -> None:
        self._url, self._options = url, options
        self._base = Path(url).parent
        self._prefix = options.root if is_remote(options.root) else ""
        self._folder = self._base if self._prefix else image_folder(url, options)
        self._servers = Servers()
        self._addresses = 0  # seen by `identity`
        self._roots: set[str] = set()

    def samples(self, shard: Shard, rows: Iterable[Row]) -> Iterator[Sample | Failure]:
        """The samples of the rows in their order; addresses are fetched a few at once.

        The place is the file's path relative to the table's folder, or the address without its secrets, and the row's
        number. A ReadError of `rows` is raised after the samples before it.
        """
        readers = ThreadPoolExecutor(READERS)
        coming: deque[Future[Sample | Failure | _Large] | Sample | Failure | _Large] = deque()
        broken: ReadError | None = None
        try:
            try:
                for row in rows:
                    image = self.image(row.path)
                    fetched = image.address and not image.reason and (image.member, row.number) not in shard.stored
                    coming.append(
                        readers.submit(self._sample, shard, row, image) if fetched else self._sample(shard, row, image)
                    )
                    while coming and (len(coming) > READERS or not isinstance(coming[0], Future)):
                        yield self._result(shard, coming.popleft())
            except ReadError as error:
                broken = error
            while coming:
                yield self._result(shard, coming.popleft())
            if broken is not None:
                raise broken
        finally:
            readers.shutdown(wait=False, cancel_futures=True)

    def _sample(
        self, shard: Shard, row: Row, image: _Image, stream: ResumedStream | None = None
    ) -> Sample | Failure | _Large:
        """`stream`: the large file behind the address, whose turn it is."""
        named_so = image.member if image.address else row.path
        key = row.key or named_so or f"{Path(self._url).stem}/{row.number}"
        suffix = image_suffix(named_so.partition("?")[0]) or ""
        member, reason, detail = image.member, image.reason, image.detail
        if (member, row.number) in shard.stored:
            return Sample(shard.name, key, suffix, b"", row.number, 0, {}, member)
        data: bytes | ResumedStream = b""
        if not reason:
            try:
                data = drained(stream, MAX_FETCHED) if stream is not None else self._bytes(shard, image)
            except (OSError, ReadError) as error:
                cause = redacted(str(error))
                reason, detail = "unreadable file", f"{member}: {cause}" if image.address else cause
            else:
                reason, detail = ("", "") if data else ("empty file", named_so)
        if isinstance(data, ResumedStream):
            return _Large(row, image, data)
        if reason:
            return Failure(shard.name, key, "read", reason, detail[:500], row.number, 0, suffix, member)
        fields = {name: member if image.address and v == row.path else v for name, v in row.fields.items()}
        return Sample(shard.name, key, suffix, data, row.number, len(data), fields, member)

    def identity(self, table: str, paths: Iterable[str], *, hash_content: bool) -> str:
        """Changes when the table or one of the files may have changed. Begins with the table's, up to its first "-".

        Of addresses nothing is asked: a list may hold millions.
        """
        facts = hashlib.sha256(table.encode())
        for path in paths:
            image = self.image(path)
            if image.address and not image.reason:
                self._addresses += 1
                if len(self._roots) < MAX_SERVERS:
                    self._roots.add(server_of(image.member))
            try:
                local = not image.reason and not image.address
                known = (
                    identity(str(self._base / image.member), image.member, hash_content=hash_content) if local else ""
                )
            except OSError:
                known = "gone"  # reading the row reports it
            facts.update(os.fsencode(f"{image.member if image.address else path}\0{known}\0"))
        return f"{table.partition('-')[0]}-{facts.hexdigest()[:32]}"

    def roots(self) -> tuple[str, ...]:
        """The folder of the images, and the servers, once `identity` has seen them: images are read back from there."""
        folder = (str(self._folder),) if self._options.root and not self._prefix else ()
        return (*folder, *sorted(self._roots))

    def notes(self) -> list[str]:
        """What the user should know of the addresses, once `identity` has seen them."""
        if not self._addresses:
            return []
        servers = "1 server" if len(self._roots) == 1 else f"{len(self._roots):,} servers"
        found = [
            f"{self._addresses:,} addresses on {servers} are fetched; a change behind them cannot be seen from here"
        ]
        if len(self._roots) == MAX_SERVERS:
            found.append("pictures of further servers are read back with --pictures-from alone")
        return found

    def image(self, path: str) -> _Image:
        """Where the image that a row names lies."""
        if not path:
            return _Image("", "", "no path in the row")
        if path.startswith("file://"):
            try:
                path = plain(path)
            except ShardNotFound as error:
                return _Image("", "", _OUTSIDE, str(error))
        if self._prefix and not is_remote(path):
            path = f"{self._prefix.rstrip('/')}/{path.lstrip('/')}"
        if is_remote(path):
            return self._behind(path)
        if "\0" in path:
            return _Image("", "", "unreadable file", plain_name(path))
        file = Path(os.path.normpath(self._folder / path.replace("\\", "/")))
        if not file.resolve().is_relative_to(self._folder):
            detail = f"{path} is not below {self._folder}: name its folder with --image-root"
            return _Image("", "", _OUTSIDE, detail)
        return _Image(os.path.relpath(file, self._base), "")

    def _behind(self, address: str) -> _Image:
        stored = stored_address(address)
        if not can_be_fetched(address):
            return _Image("", "", _OTHER, f"{stored}: only http, https and object stores are read from tables")
        if not is_below(stored, [self._prefix or server_of(address)]):
            return _Image("", "", _OTHER, f"{stored} is not below {self._prefix or server_of(address)}")
        return _Image(stored, address)

    def _bytes(self, shard: Shard, image: _Image) -> bytes | ResumedStream:
        """Raises OSError, ReadError."""
        if image.address:
            return self._servers.begun(image.address, MAX_FETCHED)
        return _read(self._base / image.member, shard.room)

    def _result(
        self, shard: Shard, found: Future[Sample | Failure | _Large] | Sample | Failure | _Large
    ) -> Sample | Failure:
        result = found.result() if isinstance(found, Future) else found
        if isinstance(result, _Large):
            shard.room(min(result.stream.nbytes or SMALL_BYTES, MAX_FETCHED))
            result = self._sample(shard, result.row, result.image, result.stream)
            assert not isinstance(result, _Large)  # its stream was given
        elif isinstance(result, Sample):
            shard.room(len(result.image))
        return result


def read_listed(url: str, place: Place, roots: Sequence[str] | None, listed: Iterable[str]) -> bytes:
    """The bytes of a listed image. Raises OSError, ReadError.

    `listed`: the path in the image's row of the table as it is now. An address that was stored without its signature
    is taken from there.
    """
    member = place.member
    if is_remote(member):
        _require_root(member, member, roots)
        images = map(ListedFiles(url, options_in(place.shard, url)).image, listed)
        address = next((image.address for image in images if image.member == member), "")
        if "?" in member and not address:
            raise ReadError(f"{member} is no longer in that row of {url}, which holds its signature")
        return read_whole(address or member, MAX_FETCHED)
    path = (Path(url).parent / member).resolve()
    _require_root(str(path), member, None if roots is None else named(roots))
    return _read(path)


def _require_root(address: str, member: str, roots: Sequence[str] | None) -> None:
    if roots is not None and not is_below(address, roots):
        where = "server" if is_remote(member) else "folder"
        raise ReadError(
            f"{member} lies below no {where} that you indexed this table from: name it with --pictures-from"
        )


def _read(path: Path, room: Callable[[int], None] | None = None) -> bytes:
    if not path.is_file():  # reading a pipe would block
        raise OSError(f"no such file: {path}")
    nbytes = path.stat().st_size
    if nbytes > MAX_IMAGE:
        raise OSError(f"over {MAX_IMAGE} bytes")
    if room is not None:
        room(nbytes)
    return path.read_bytes()

"""Whole files of a server, up to a size, and servers left alone that do not answer."""

from __future__ import annotations

import io
from collections import Counter
from urllib.parse import urlsplit

from indexer.redact import redacted
from indexer.remote import objects, web
from indexer.remote.objects import is_object
from indexer.remote.stream import ResumedStream, SlowServer, is_web, lasts

BLOCK = 1 << 20
SMALL_BYTES = 4 << 20  # of a file that is read beside others; larger ones are read one by one, each in its turn
GIVE_UP = 4  # addresses in a row that a server did not answer, each after several tries


def can_be_fetched(address: str) -> bool:
    """Whether an address is of a web server or an object store."""
    return is_web(address) or is_object(address)


def read_whole(address: str, most: int) -> bytes:
    """The bytes behind an address, at most `most`. Redirections to another host are not followed.

    Raises OSError, ReadError.
    """
    return drained(_opened(address), most)


def begun(address: str, most: int) -> bytes | ResumedStream:
    """As `read_whole`; of a file that is large, or whose size is not said, the stream, which nothing was read of."""
    stream = _opened(address)
    return drained(stream, most) if stream.nbytes is not None and stream.nbytes <= SMALL_BYTES else stream


def drained(stream: ResumedStream, most: int) -> bytes:
    """The bytes of a stream, at most `most`. Raises OSError."""
    content = io.BytesIO()  # which gives its bytes away without a copy
    try:
        if (stream.nbytes or 0) > most:
            raise OSError(f"over {most:,} bytes")
        while block := stream.read(BLOCK):
            if content.tell() + len(block) > most:
                raise OSError(f"over {most:,} bytes")
            content.write(block)
    finally:
        stream.close()
    return content.getvalue()


def _opened(address: str) -> ResumedStream:
    return web.stream(address, same_host=True) if is_web(address) else objects.stream(address)


class Servers:
    """Reads the addresses of one list. A server that left GIVE_UP of them unanswered is not asked again: each wait
    takes up to minutes, and a list may name a million of its files.
    """

    def __init__(self) -> None:
        self._unanswered: Counter[str] = Counter()  # in a row, by server

    def begun(self, address: str, most: int) -> bytes | ResumedStream:
        """As `begun`."""
        server = server_of(address)
        if self._unanswered[server] >= GIVE_UP:
            raise OSError(f"not asked: {redacted(server)} did not answer {GIVE_UP} times in a row")
        try:
            data = begun(address, most)
        except OSError as error:
            answered = lasts(error) and not isinstance(error, SlowServer)
            self._unanswered[server] = 0 if answered else self._unanswered[server] + 1
            raise
        self._unanswered[server] = 0
        return data


def server_of(address: str) -> str:
    """Scheme, host and port of a URL, or scheme and bucket, without a login: the root of all its files."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"

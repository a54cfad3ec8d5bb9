"""Object stores (`s3://`, `gs://`, `az://`) through obstore: conditional puts, listings, streams and ranges.

obstore wraps the Rust crate object_store, which Lance uses too: both read the same environment variables (AWS_*,
GOOGLE_*, AZURE_*), so that a database and what lies beside it are reached with the same credentials. fsspec would need
one more package with settings of its own for each kind of store, and has no conditional put.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from indexer.redact import redacted
from indexer.remote.stream import Facts, Part, ResumedStream, changed, denied, lasts, missing

if TYPE_CHECKING:
    from obstore.store import RetryConfig

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss")
# A request is tried again after 429, 5xx and broken connections, with a growing random pause
RETRIES: RetryConfig = {"max_retries": 8, "retry_timeout": datetime.timedelta(seconds=60)}

PAUSES = (0.2, 1.0, 3.0)  # seconds before a conditional put or a listing that broke off is tried again
LISTED = 1000  # objects of a listing in memory at once


def is_object(address: str) -> bool:
    """Whether an address names an object, or a prefix of objects, in an object store."""
    return address.partition("://")[0] in SCHEMES and "://" in address


@dataclass(frozen=True)
class Tag:
    """What tells one content of an object from the next: compared by conditional puts."""

    etag: str | None
    version: str | None


@dataclass(frozen=True)
class Held:
    """An object's content."""

    data: bytes
    tag: Tag
    modified: datetime.datetime  # by the server's clock


class Bucket:
    """The objects below an address. Every method raises OSError where the store does not do what was asked."""

    def __init__(self, address: str) -> None:
        self.address = address
        with _errors(address):
            self._store = _open(address)

    def get(self, name: str) -> Held | None:
        """The object, or None where there is none of that name."""
        import obstore

        with _errors(f"{self.address}/{name}"):
            try:
                found = obstore.get(self._store, name)
                return Held(bytes(found.bytes()), _tag(found.meta), found.meta["last_modified"])
            except FileNotFoundError:
                return None

    def put(self, name: str, data: bytes) -> Tag:
        """Store an object, whatever was there."""
        import obstore

        with _errors(f"{self.address}/{name}"):
            return _tag(obstore.put(self._store, name, data, use_multipart=False))

    def put_if(self, name: str, data: bytes, known: Tag | None) -> Tag | None:
        """Store an object if the present one is still `known` (None: if there is none); None where it is not.

        A put that is tried again after its answer was lost meets its own content: the data must be the caller's alone,
        so that an object that has them was stored by it.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, GenericError, PreconditionError

        mode: Any = "create"
        if known is not None:
            mode = {"e_tag": known.etag, "version": known.version}
            mode = {field: value for field, value in mode.items() if value is not None}
        with _errors(f"{self.address}/{name}"):
            pauses = iter(PAUSES)
            while True:
                try:
                    return _tag(obstore.put(self._store, name, data, mode=mode, use_multipart=False))
                except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                    found = self.get(name)
                    return found.tag if found is not None and found.data == data else None
                except GenericError:  # broken off: stored or not, a second put under the same condition finds out
                    pause = next(pauses, None)
                    if pause is None:
                        raise
                    time.sleep(pause)

    def delete(self, name: str) -> None:
        import obstore

        with _errors(f"{self.address}/{name}"):
            obstore.delete(self._store, name)


def _open(address: str) -> Any:
    from obstore.store import AzureStore, from_url

    parts = urlsplit(address)
    if parts.scheme in ("az", "azure", "adl") and "@" not in parts.netloc:  # as Lance reads it: container, then path
        prefix = parts.path.strip("/") or None
        return AzureStore(container_name=parts.netloc, prefix=prefix, retry_config=RETRIES)
    return from_url(address.rstrip("/"), retry_config=RETRIES)


def _tag(facts: Any) -> Tag:
    return Tag(facts.get("e_tag"), facts.get("version"))


@contextmanager
def _errors(address: str) -> Iterator[None]:
    """Obstore's errors as OSError of one line without secrets."""
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except FileNotFoundError as error:
        raise missing(f"{redacted(address)}: there is no such object") from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise denied(f"{redacted(address)}: {redacted(_cause(error))}") from error
    except OSError:
        raise
    except (BaseError, ValueError) as error:
        raise OSError(f"{redacted(address)}: {redacted(_cause(error))}") from error


def _cause(error: Exception) -> str:
    """The first line of an error's text, without what the server said in XML."""
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "169.254.169.254" in line:  # the machine's own credentials are asked for where none are set
        return "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true"
    return line.partition(": <")[0].rstrip(" .")


@dataclass(frozen=True)
class Listed:
    """An object of a listing."""

    path: str  # below the prefix
    facts: Facts


def facts(address: str) -> Facts:
    """Raises OSError; FileNotFoundError where there is no such object."""
    import obstore

    root, key = _split(address)
    with _errors(address):
        return _facts(obstore.head(_shared(root), key))


def stream(address: str) -> ResumedStream:
    """An object's bytes. Raises OSError."""
    return ResumedStream(lambda offset, known: _open_from(address, offset, known))


def read_range(address: str, offset: int, nbytes: int) -> bytes:
    """`nbytes` bytes from `offset`. Raises OSError."""
    import obstore

    if not nbytes:
        return b""
    root, key = _split(address)
    with _errors(address):
        data = bytes(obstore.get_range(_shared(root), key, start=offset, length=nbytes))
    if len(data) != nbytes:
        raise OSError(f"{redacted(address)} ends {nbytes - len(data)} bytes early")
    return data


def read(address: str) -> bytes:
    """A whole object. Raises OSError."""
    return stream(address).read()


def write_file(address: str, path: Path) -> None:
    """Upload a local file, whole or not at all: an object appears once all of its parts are there."""
    import obstore

    root, key = _split(address)
    with _errors(address):
        obstore.put(_shared(root), key, path)


def listed(prefix: str) -> Iterator[Listed]:
    """Every object below an address that ends with "/", in the store's order, which is the names'. Raises OSError."""
    import obstore

    root, key = _split(prefix)
    last: str | None = None
    pauses = iter(PAUSES)
    while True:
        try:
            with _errors(prefix):
                for batch in obstore.list(_shared(root), key or None, offset=last, chunk_size=LISTED):
                    for found in batch:
                        last = found["path"]
                        path = last.removeprefix(key)
                        if path and not path.endswith("/"):
                            yield Listed(path, _facts(found))
            return
        except OSError as error:  # an answer that broke off: the listing goes on behind the last name
            pause = None if lasts(error) else next(pauses, None)
            if pause is None:
                raise
            time.sleep(pause)


def remove_below(prefix: str) -> int:
    """Delete every object below an address that ends with "/"; returns how many there were. Raises OSError."""
    import obstore

    root, key = _split(prefix)
    names, removed = [f"{key}{found.path}" for found in listed(prefix)], 0
    with _errors(prefix):
        for some in (names[i : i + LISTED] for i in range(0, len(names), LISTED)):
            obstore.delete(_shared(root), some)
            removed += len(some)
    return removed


def is_prefix(address: str) -> bool:
    """Whether objects lie below an address. Raises OSError."""
    return next(listed(f"{address.rstrip('/')}/"), None) is not None


def _open_from(address: str, offset: int, known: Facts | None) -> Part:
    import obstore

    root, key = _split(address)
    options: dict[str, Any] = {"range": {"offset": offset}} if offset else {}
    with _errors(address):
        found = obstore.get(_shared(root), key, options=options)  # type: ignore[arg-type]
    # By the answer's own facts, not by a condition: a store may name no ETag, but a version, or a time and a size
    if known is not None and _facts(found.meta) != known:
        raise changed(f"{redacted(address)} changed while it was read")
    return Part(_blocks(found, address), _facts(found.meta), lambda: None)


def _blocks(found: Any, address: str) -> Iterator[bytes]:
    with _errors(address):
        yield from map(bytes, found.stream(min_chunk_size=1 << 20))


def _facts(meta: Any) -> Facts:
    changing = meta.get("e_tag") or meta.get("version") or meta["last_modified"].isoformat()
    return Facts(f"{changing}-{meta['size']}", meta["size"])


def _split(address: str) -> tuple[str, str]:
    """The address of the bucket or container, and the key in it."""
    scheme, _, rest = address.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key


def _shared(root: str) -> Any:
    """A bucket's store, with its connections, for as long as the environment names the same one."""
    named = {k: v for k, v in os.environ.items() if k.startswith(("AWS_", "GOOGLE_", "AZURE_"))}
    return _kept(root, frozenset(named.items()))


@lru_cache(maxsize=16)
def _kept(root: str, environment: frozenset[tuple[str, str]]) -> Any:  # noqa: ARG001 - a key of the cache
    return _open(root)

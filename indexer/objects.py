"""Object stores (`s3://`, `gs://`, `az://`) through obstore: small objects with conditional puts.

obstore wraps the Rust crate object_store, which Lance uses too: both read the same environment variables (AWS_*,
GOOGLE_*, AZURE_*), so that a database and what lies beside it are reached with the same credentials. fsspec would need
one more package with settings of its own for each kind of store, and has no conditional put.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from indexer.redact import redacted

if TYPE_CHECKING:
    from obstore.store import RetryConfig

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss")
# A request is tried again after 429, 5xx and broken connections, with a growing random pause
RETRIES: RetryConfig = {"max_retries": 8, "retry_timeout": datetime.timedelta(seconds=60)}

PAUSES = (0.2, 1.0, 3.0)  # seconds before a conditional put that broke off is tried again


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
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, ValueError, OSError) as error:
        raise OSError(f"{redacted(address)}: {redacted(_cause(error))}") from error


def _cause(error: Exception) -> str:
    """The first line of an error's text, without what the server said in XML."""
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return line.partition(": <")[0].rstrip(" .")

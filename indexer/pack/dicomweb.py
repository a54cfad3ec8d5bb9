"""A DICOMweb server as a source: QIDO-RS finds the instances, WADO-RS gives each as it is stored (PS3.18)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from indexer.errors import InputError, ReadError
from indexer.pack.source import Scanned
from indexer.pack.walk import Found
from indexer.pixels.limits import MAX_BYTES

SCHEMES = ("dicomweb+http", "dicomweb+https")
PAGE = 500  # matches asked for at once
TIMEOUT = (10, 120)  # seconds to connect, and between two bytes
_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'  # as stored, never transcoded


@dataclass(frozen=True)
class DicomWeb:
    """All instances of the series that match the filters. A path is study/series/instance."""

    url: str
    filters: tuple[tuple[str, str], ...]  # QIDO-RS attributes of series or study

    @classmethod
    def from_url(cls, name: str) -> DicomWeb:
        """From dicomweb+http://host:port/dicom-web?Modality=MR. Raises InputError."""
        parts = urlsplit(name)
        if parts.scheme not in SCHEMES or not parts.hostname:
            raise InputError(f"{name} is not dicomweb+http://host:port/path, or dicomweb+https://….")
        if parts.username or parts.password:
            raise InputError("a password in a URL ends in logs. Put it into ~/.netrc, where it is found by host.")
        base = urlunsplit((parts.scheme.partition("+")[2], parts.netloc, parts.path.rstrip("/"), "", ""))
        return cls(base, tuple(parse_qsl(parts.query, keep_blank_values=True)))

    def list(self) -> Iterator[Found]:
        for series in self._search("/series", self.filters):
            study, uid = _value(series, _STUDY), _value(series, _SERIES)
            for instance in self._search(f"/studies/{study}/series/{uid}/instances", ()):
                yield Found(f"{study}/{uid}/{_value(instance, _INSTANCE)}")

    def scan(self, found: Found) -> Scanned:
        return Scanned(found, "dicom", "dcm", "", found.path.rpartition("/")[2])

    def read(self, path: str) -> bytes:
        """Raises OSError for an instance that the server refuses to give, ReadError where it does not answer."""
        study, series, instance = path.split("/")
        url = f"{self.url}/studies/{study}/series/{series}/instances/{instance}"
        answer = self._get(url, (), _ACCEPT)
        if 400 <= answer.status_code < 500:
            raise OSError(answer.status_code, f"the server answers {answer.status_code}")
        if len(answer.content) > MAX_BYTES:
            raise OSError(0, "file too large")
        return single_part(answer.content, answer.headers.get("Content-Type", ""))

    def sidecar(self, path: str) -> bytes:  # noqa: ARG002 - a server has nothing beside an instance
        return b""

    def _search(self, path: str, filters: tuple[tuple[str, str], ...]) -> Iterator[dict[str, Any]]:
        offset = 0
        while True:
            query = (*filters, ("limit", str(PAGE)), ("offset", str(offset)))
            answer = self._get(self.url + path, query, "application/dicom+json")
            if answer.status_code >= 400:
                raise InputError(f"{self.url}{path} answers {answer.status_code}: {answer.text[:200].strip()}")
            try:
                matches = [] if answer.status_code == 204 else answer.json()
            except ValueError as error:
                raise InputError(f"{self.url}{path} answers no DICOM JSON. Is this the root of DICOMweb?") from error
            yield from matches
            if len(matches) < PAGE:
                return
            offset += len(matches)

    def _get(self, url: str, query: tuple[tuple[str, str], ...], accept: str) -> Any:
        import requests

        try:
            answer = _session().get(url, params=query, headers={"Accept": accept}, timeout=TIMEOUT)
        except requests.RequestException as error:
            raise ReadError(f"{self.url} does not answer: {error}. Run again: what is packed is kept.") from error
        if answer.status_code >= 500:
            raise ReadError(f"{url} answers {answer.status_code}. Run again: what is packed is kept.")
        return answer


@lru_cache(maxsize=1)
def _session() -> Any:
    """One connection pool a process; asks again, more slowly, while a server is overloaded."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    session = requests.Session()
    retry = Retry(total=4, backoff_factor=0.5, status_forcelist=(429, 502, 503, 504), raise_on_status=False)
    session.mount("http://", HTTPAdapter(max_retries=retry))
    session.mount("https://", HTTPAdapter(max_retries=retry))
    return session


def _value(match: dict[str, Any], tag: str) -> str:
    """A UID from a QIDO-RS match. It becomes part of a URL: anything but digits and dots is refused."""
    try:
        uid = str(match[tag]["Value"][0])
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(f"the server's match lacks {tag}: {str(match)[:200]}") from error
    if not uid or set(uid) - set("0123456789."):
        raise InputError(f"the server gives a UID that is none: {uid[:80]!r}")
    return uid


def single_part(body: bytes, content_type: str) -> bytes:
    """The one part of a multipart/related message (RFC 2387), or the body where it is none. Raises ReadError."""
    if not content_type.lower().startswith("multipart/"):
        return body
    from email.message import Message

    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    opening = f"--{boundary}\r\n".encode()
    start = body.find(opening)
    inside = body.find(b"\r\n\r\n", start)
    end = body.rfind(f"\r\n--{boundary}".encode())
    if boundary is None or start < 0 or inside < 0 or end < inside:
        raise ReadError("the server's multipart answer is cut or damaged. Run again.")
    return body[inside + 4 : end]

"""A DICOMweb server as a source: QIDO-RS finds the instances, WADO-RS retrieves each as it is stored (PS3.18)."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit, urlunsplit

from indexer.archive.walk import ListedFile
from indexer.errors import InputError, ReadError
from indexer.memory.budget import MAX_IMAGE
from indexer.pack.source import Scanned

SCHEMES = ("dicomweb+http", "dicomweb+https")
PAGE = 500  # matches requested at once
TIMEOUT = (10, 120)  # seconds to connect, and to wait for more bytes
SLOWEST = 1000  # bytes a second, on average after SLOW_SECONDS: a server that sends a byte now and then is left
SLOW_SECONDS = 120
_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_INSTANCES = "00201209"  # Number of Series Related Instances
_ROWS, _COLUMNS, _BITS, _FRAMES = "00280010", "00280011", "00280100", "00280008"
_BLOCK = 1 << 20
_AGAIN = "Run again: what is packed is kept."
_EXTRA = "pip install 'embedding-indexer[dicomweb]'"
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
        filters = tuple(parse_qsl(parts.query, keep_blank_values=True))
        _check_filters(filters)
        base = urlunsplit((parts.scheme.partition("+")[2], parts.netloc, parts.path.rstrip("/"), "", ""))
        return cls(base, filters)

    def list(self) -> Iterator[ListedFile]:
        for series in self._search("/series", self.filters):
            study, uid = _value(series, _STUDY), _value(series, _SERIES)
            below = f"/studies/{study}/series/{uid}/instances"
            for instance in self._search(below, (), expected=_number(series, _INSTANCES, 0)):
                yield ListedFile(f"{study}/{uid}/{_value(instance, _INSTANCE)}", _nbytes(instance))

    def scan(self, found: ListedFile) -> Scanned:
        return Scanned(found, "dicom", "dcm", "", found.path.rpartition("/")[2])

    def read(self, path: str) -> bytes:
        """The bytes of an instance. Raises OSError where the server refuses it, ReadError where it does not answer."""
        study, series, instance = path.split("/")
        url = f"{self.url}/studies/{study}/series/{series}/instances/{instance}"
        with self._get(url, (), _ACCEPT) as answer:
            if 400 <= answer.status_code < 500:
                raise OSError(answer.status_code, f"the server answers {answer.status_code}")
            return single_part(self._body(answer), answer.headers.get("Content-Type", ""))

    def sidecar(self, path: str) -> bytes:  # noqa: ARG002 - a server has nothing beside an instance
        return b""

    def _search(self, path: str, filters: tuple[tuple[str, str], ...], expected: int = 0) -> Iterator[dict[str, Any]]:
        """All matches, page by page. `expected`: their number, 0 where it is unknown.

        A server may cap a page below the requested limit, and then announces further matches in a Warning header
        (PS3.18 section 8.3.4.4). Raises ReadError for a server that returns the same page at every offset.
        """
        offset = 0
        seen: set[bytes] = set()
        while True:
            matches, more = self._page(path, (*filters, ("limit", str(PAGE)), ("offset", str(offset))))
            fresh = {_digest(match) for match in matches} - seen
            if matches and not fresh:
                raise ReadError(
                    f"{self.url}{path} gives the same {len(matches)} matches again at offset {offset}: the server "
                    "ignores offset and keeps back the others. Narrow the filters in the URL, e.g. by StudyDate."
                )
            yield from matches
            offset += len(matches)
            if not matches or not (more or len(matches) >= PAGE or offset < expected):
                return
            seen |= fresh

    def _page(self, path: str, query: tuple[tuple[str, str], ...]) -> tuple[Sequence[dict[str, Any]], bool]:
        """The matches of one page, and whether the server announces more."""
        with self._get(self.url + path, query, "application/dicom+json") as answer:
            status, body, warning = answer.status_code, self._body(answer), answer.headers.get("Warning", "")
        if status >= 400:
            words = body[:200].decode("utf-8", "replace").strip()
            raise InputError(f"{self.url}{path} answers {status}: {words}. Is this the root of DICOMweb?")
        try:
            matches = json.loads(body) if body else []
        except ValueError as error:
            raise InputError(f"{self.url}{path} answers no DICOM JSON. Is this the root of DICOMweb?") from error
        if not isinstance(matches, list):
            raise InputError(f"{self.url}{path} answers JSON that is not a list of matches.")
        return matches, bool(warning)

    def _body(self, answer: Any) -> bytes:
        """The response body, up to the size limit of one file. Raises OSError, ReadError."""
        import requests
        from urllib3.exceptions import HTTPError

        blocks, nbytes, began = [], 0, time.monotonic()
        try:
            for block in _received(answer):
                nbytes += len(block)
                if nbytes > MAX_IMAGE:
                    raise OSError(0, "file too large")
                seconds = time.monotonic() - began
                if seconds > SLOW_SECONDS and nbytes < SLOWEST * seconds:
                    raise ReadError(f"{self.url} sends {nbytes:,} bytes in {seconds:.0f} seconds: too slow. {_AGAIN}")
                blocks.append(block)
        except (requests.RequestException, HTTPError) as error:
            raise ReadError(f"{self.url} broke off: {_root(error)}. {_AGAIN}") from error
        return b"".join(blocks)

    def _get(self, url: str, query: tuple[tuple[str, str], ...], accept: str) -> Any:
        try:
            import requests
        except ImportError as error:
            raise InputError(f"a DICOMweb source needs: {_EXTRA}") from error
        try:
            answer = _session().get(
                url, params=query, headers={"Accept": accept}, timeout=TIMEOUT, stream=True, hooks={"response": _stay}
            )
        except requests.RequestException as error:
            raise ReadError(
                f"{self.url} does not answer: {_root(error)}. Run again: what is packed is kept."
            ) from error
        if answer.status_code >= 500:
            raise ReadError(f"{url} answers {answer.status_code}. {_AGAIN}")
        return answer


def _received(answer: Any) -> Iterator[bytes]:
    """The body as it arrives: `iter_content` would wait for a whole block."""
    while block := answer.raw.read1(_BLOCK, decode_content=True):
        yield block


def _root(error: BaseException) -> str:
    """The innermost cause; the exceptions around it only repeat the URL."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return " ".join(str(error).split()) or type(error).__name__


def _stay(answer: Any, **_options: Any) -> None:
    """Raise ReadError for a redirection to another host, which would carry requests, and a login, elsewhere."""
    target = answer.headers.get("Location") if answer.is_redirect else None
    if not target:
        return
    before, after = urlsplit(answer.url), urlsplit(urljoin(answer.url, target))
    same = (after.scheme, after.netloc) == (before.scheme, before.netloc)
    secured = (before.scheme, after.scheme) == ("http", "https") and before.hostname == after.hostname
    if not (same or secured):
        raise ReadError(
            f"{before.netloc} redirects to {after.scheme}://{after.netloc}, which is not followed. Name that server "
            "itself if it is right."
        )


@lru_cache(maxsize=1)
def _session() -> Any:
    """One connection pool for each process; retries with growing delays on status 429, 502, 503 and 504."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    session = requests.Session()
    retry = Retry(total=4, backoff_factor=0.5, status_forcelist=(429, 502, 503, 504), raise_on_status=False)
    session.mount("http://", HTTPAdapter(max_retries=retry))
    session.mount("https://", HTTPAdapter(max_retries=retry))
    return session


def _check_filters(filters: tuple[tuple[str, str], ...]) -> None:
    """Raise InputError for a name that is not a DICOM keyword: servers ignore it and list the whole archive."""
    try:
        from pydicom.datadict import DicomDictionary, tag_for_keyword
    except ImportError as error:
        raise InputError(f"a DICOMweb source needs: {_EXTRA}") from error
    for name, _ in filters:
        if tag_for_keyword(name) is None and not re.fullmatch(r"[0-9A-Fa-f]{8}", name):
            near = difflib.get_close_matches(name, (entry[4] for entry in DicomDictionary.values()), 3)
            hint = f" Did you mean {', '.join(near)}?" if near else ""
            raise InputError(f"{name} is not a DICOM keyword, and a server may ignore it.{hint}")


def _digest(match: Any) -> bytes:
    return hashlib.blake2b(json.dumps(match, sort_keys=True).encode(), digest_size=16).digest()


def _nbytes(match: dict[str, Any]) -> int:
    """Uncompressed bytes of an instance's pixels, used as its size in the plan; 0 where unknown."""
    rows, columns = _number(match, _ROWS, 0), _number(match, _COLUMNS, 0)
    return max(0, rows * columns * _number(match, _BITS, 16) // 8 * _number(match, _FRAMES, 1))


def _number(match: dict[str, Any], tag: str, default: int) -> int:
    try:
        return int(match[tag]["Value"][0])
    except (KeyError, IndexError, TypeError, ValueError):
        return default


def _value(match: dict[str, Any], tag: str) -> str:
    """A UID from a QIDO-RS match. It becomes part of a URL, so InputError is raised for other characters than digits
    and dots.
    """
    try:
        uid = str(match[tag]["Value"][0])
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(f"the server's match lacks {tag}: {str(match)[:200]}") from error
    if not uid or set(uid) - set("0123456789."):
        raise InputError(f"the server gives a UID that is none: {uid[:80]!r}")
    return uid


def single_part(body: bytes, content_type: str) -> bytes:
    """The only part of a multipart/related message (RFC 2387), or the body of another message. Raises ReadError."""
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

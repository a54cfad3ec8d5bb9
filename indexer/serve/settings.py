"""What a server is allowed to do and whom it answers. Imports no web framework."""

from __future__ import annotations

import ipaddress
import os
import stat
import string
from dataclasses import dataclass
from pathlib import Path

from indexer.errors import InputError

MIN_TOKEN = 16  # characters
TOKEN_LETTERS = frozenset(string.ascii_letters + string.digits + "-_.~+/=")  # of RFC 6750; kept in a cookie quoted
MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Options of one server. Raises InputError where they would leave it open to others."""

    database: str
    table: str | None = None  # None: every table of the database
    host: str = "127.0.0.1"
    port: int = 8321
    token: str | None = None  # demanded from every request, but for /healthz
    certificate: tuple[Path, Path] | None = None  # TLS certificate and key
    behind_proxy: bool = False  # a proxy in front of it does TLS
    names: tuple[str, ...] = ()  # further host names by which it may be called
    pictures_from: tuple[str, ...] = ()  # roots below which stored images may be read
    weights: str | None = None
    device: str = "auto"
    labels: str | None = None  # column that the page may write labels to; None: the server only reads
    upload_bytes: int = 64 * MIB  # of one request
    embeds_per_minute: int = 120
    picture_cache_bytes: int = 64 * MIB

    def __post_init__(self) -> None:
        if is_loopback(self.host) and not self.behind_proxy:
            return
        if self.token is None:
            how = "--behind-proxy" if is_loopback(self.host) else f"--host {self.host}"
            raise InputError(
                f"with {how} others reach this server: give --token-file FILE (mode 600), or leave that option out."
            )
        if self.certificate is None and not self.behind_proxy:
            raise InputError(
                f"--host {self.host} without TLS would send the token in clear: give --certificate and --key, "
                "or --behind-proxy where a proxy does TLS."
            )

    @property
    def hosts(self) -> frozenset[str]:
        """The names (lower case, without port) under which a request may address this server."""
        return frozenset(bracketed(name.lower()) for name in ("localhost", "127.0.0.1", "::1", self.host, *self.names))


def bracketed(host: str) -> str:
    """The host as it stands in a URL and in a Host header: an IPv6 address in brackets (RFC 3986, 3.2.2)."""
    return f"[{host.strip('[]')}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_token(file: Path) -> str:
    """The token in a file that nobody else can read. Raises InputError."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"--token-file {file} cannot be read: {error.strerror}. Name a plain file.") from error
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_mode & 0o077:
        os.close(descriptor)
        raise InputError(f"--token-file {file} is not a file that only you can read. Run `chmod 600 {file}`.")
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as source:
        token = source.read(4096).strip()
    if len(token) < MIN_TOKEN or not set(token) <= TOKEN_LETTERS:
        raise InputError(
            f"--token-file {file} holds no token: write one line of {MIN_TOKEN} or more letters and digits, "
            "e.g. by `python -c 'import secrets; print(secrets.token_urlsafe())'`."
        )
    return token

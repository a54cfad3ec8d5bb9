"""Keyed hashes of identifiers, and the user's secret key for them."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from indexer.errors import InputError, sentence

NBYTES = 16  # of a stored hash
_SECRET_BYTES = 32


@dataclass(frozen=True)
class KeyedHash:
    """HMAC-SHA256 under the user's secret: a plain hash of a record number can be reversed by enumeration."""

    secret: bytes

    def __call__(self, kind: str, identifier: str) -> str:
        """32 hex digits. `kind` separates equal identifiers of a patient and of a study."""
        message = f"{kind}:{identifier}".encode("utf-8", "surrogateescape")
        return hmac.new(self.secret, message, hashlib.sha256).hexdigest()[: 2 * NBYTES]

    @property
    def fingerprint(self) -> str:
        """A value that is equal for runs with the same secret and reveals nothing about it."""
        return self("fingerprint", "")[:8]

    def __repr__(self) -> str:  # a traceback or a log must not show the secret
        return f"KeyedHash({self.fingerprint})"


def default_secret() -> Path:
    """The path of the secret without --secret: in the user's configuration directory, apart from any shard."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "embedding-indexer" / "secret"


def load_secret(path: Path, *, outside: Path | None, make: bool) -> tuple[KeyedHash, bool]:
    """The secret in `path`, created (mode 600) if it is missing and `make` is set; and whether it was created.

    Raises InputError where it is missing, lies below `outside` (it would be copied with the shards), is not a secret,
    or is readable by others.
    """
    if outside is not None and path.resolve().is_relative_to(outside.resolve()):
        raise InputError(f"the secret {path} lies inside {outside} and would be copied with the shards. Keep it apart.")
    if path.exists():
        return _read(path), False
    if not make:  # a mistyped path must not create a secret: patients of older shards would get other hashes
        raise InputError(f"there is no secret {path}. Name the one of your other shards, or make one: --new-secret.")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read(path), False
    except OSError as error:
        raise InputError(f"the secret cannot be made: {sentence(error)}. Name another file with --secret.") from error
    secret = secrets.token_bytes(_SECRET_BYTES)
    with os.fdopen(file, "w") as text:
        text.write(secret.hex() + "\n")
    return KeyedHash(secret), True


def private_file(path: Path) -> TextIO:
    """Open an empty text file that only its owner may read, whatever the umask; follows no link."""
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    os.fchmod(opened, 0o600)  # it may exist already
    return os.fdopen(opened, "w", newline="", encoding="utf-8", errors="surrogateescape")


def _read(path: Path) -> KeyedHash:
    try:
        if path.stat().st_mode & 0o077:
            raise InputError(f"the secret {path} can be read by others. Run: chmod 600 {path}")
        secret = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} does not hold a secret of this program: {sentence(error)}. Name another file with --secret."
        ) from error
    if len(secret) < _SECRET_BYTES:
        raise InputError(f"the secret in {path} is shorter than {_SECRET_BYTES} bytes. Name another with --secret.")
    return KeyedHash(secret)

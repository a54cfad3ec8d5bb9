"""The exceptions of this package. Each message says where, what, and what to do about it.

IndexerError
├── InputError          an argument or a file named by the user cannot be used
│   ├── ShardNotFound   no such file, folder or pattern
│   └── WindowError     a window that is not one of the documented forms
├── ReadError           a shard could not be read to its end
│   ├── NotAnArchive    the bytes are not of the kind of archive that they should be; carries `reason`
│   │   └── NotATar     the bytes are not a tar archive
│   └── CutShard        the archive ends, or is damaged, before its end-of-archive marker
├── PixelError          an image could not be decoded; carries `reason`, becomes a Failure
├── EncoderError
│   ├── UnknownEncoder  no encoder of that name
│   ├── WeightsNotFound the weights are not on this machine and cannot be downloaded
│   ├── WeightsMismatch the weights do not fit the architecture (shape, activation, hash)
│   └── NoTextTower     this encoder embeds images only
├── StoreError
│   ├── StoreNotFound   no such database or table
│   ├── EncoderMismatch the table holds vectors of another encoder
│   ├── ShardChanged    a shard's content changed under the same name
│   ├── StoreLocked     another process writes to this table
│   ├── BadFilter       the table cannot evaluate a --where expression
│   ├── RowNotFound     no row with this key
│   ├── PendingDamaged  a file of a shard that waits for its commit is not what was written
│   └── NewerFormat     written by a newer version of this package
├── IndexFileError      the FAISS file or its manifest is missing, altered or belongs to another table
├── Busy                a server was asked for more than it may do in a time
├── ReadOnly            a server that only reads was asked to write
├── TooManyFailures     the share of failed images exceeded --max-failures
└── ProbeError          a valid probe result cannot be computed from these data and options
"""

from __future__ import annotations


class IndexerError(Exception):
    """Base of all errors that a command prints in one line, with exit code 1."""


class InputError(IndexerError):
    """An argument, or a file that the user named, cannot be used."""


class ShardNotFound(InputError):
    """No file or folder has the given name, or none matches the pattern."""


class WindowError(InputError):
    """A window specification outside the documented forms."""


class ReadError(IndexerError):
    """A shard could not be read to its end."""


class NotAnArchive(ReadError):
    """The file is damaged or is not of the kind that its name says. `reason` is a stable phrase, to be counted."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class NotATar(NotAnArchive):
    """The file does not begin with a tar header."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "not a tar archive")


class CutShard(ReadError):
    """The archive is truncated, or a header in it is damaged, before the end-of-archive marker."""


class PixelError(IndexerError):
    """An image could not be decoded.

    `reason` is a short phrase from a fixed set, so that failures can be counted; `detail` quotes the decoder.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type[PixelError], tuple[str, str]]:  # it is pickled between processes
        return type(self), (self.reason, self.detail)


class EncoderError(IndexerError):
    """An encoder cannot be built, or used as requested."""


class UnknownEncoder(EncoderError):
    """No encoder has that name; the message offers the nearest ones."""


class WeightsNotFound(EncoderError):
    """The weights are not on this machine and cannot be fetched."""


class WeightsMismatch(EncoderError):
    """The weights do not fit the architecture, or the file is not what its name says."""


class NoTextTower(EncoderError):
    """Text was given to an encoder that embeds images only."""


class StoreError(IndexerError):
    """A database operation failed."""


class StoreNotFound(StoreError):
    """No database, or no such table in it."""


class EncoderMismatch(StoreError):
    """The table holds vectors of another encoder, which cannot be compared with this one's."""

    def __init__(self, *, stored: str, given: str) -> None:
        super().__init__(
            f"the table was written by encoder {stored}, not {given}. "
            "Use that encoder, or index into a new table (--table)."
        )
        self.stored, self.given = stored, given


class ShardChanged(StoreError):
    """A shard's content changed since its rows were stored."""


class StoreLocked(StoreError):
    """Another process holds the table's writer lock."""


class BadFilter(StoreError):
    """A filter expression that the table cannot evaluate."""


class RowNotFound(StoreError):
    """No row has that key."""


class PendingDamaged(StoreError):
    """The file of a shard that waits for its commit is damaged, or of another table."""


class NewerFormat(StoreError):
    """The table was written in a format this version does not know."""


class IndexFileError(IndexerError):
    """The FAISS file or its manifest is missing, altered, or belongs to another table."""


class Busy(IndexerError):
    """A server limits how much it does in a time; the same request can be sent again later."""


class ReadOnly(IndexerError):
    """A server that only reads was asked to write."""


class TooManyFailures(IndexerError):
    """More images failed than --max-failures allows, so the run was stopped early."""


class ProbeError(IndexerError):
    """A valid probe result cannot be computed from these data and options."""


def sentence(error: BaseException) -> str:
    """The error's message without its final full stop, to be quoted inside a sentence."""
    return str(error).rstrip(" .")

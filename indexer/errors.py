"""Every exception this package raises on purpose. Each message says where, what, and the way out.

IndexerError
├── InputError          what the user named or typed cannot be used
│   ├── ShardNotFound   no such file, folder or pattern
│   └── WindowError     a window that is not one of the documented forms
├── ReadError           a shard could not be read to its end
│   ├── NotATar         the bytes are no tar archive
│   └── CutShard        the archive ends (or breaks) before its end-of-archive mark
├── PixelError          one image could not be turned into pixels; carries `reason`, becomes a Failure
├── EncoderError
│   ├── UnknownEncoder  no encoder of that name
│   ├── WeightsNotFound the weights are not on this machine, and no hub may be asked
│   ├── WeightsMismatch the weights do not fit the architecture (shape, activation, hash)
│   └── NoTextTower     this encoder embeds images only
├── StoreError
│   ├── StoreNotFound   no database or table there
│   ├── EncoderMismatch the table holds vectors of another encoder
│   ├── ShardChanged    a shard's content changed under the same name
│   ├── StoreLocked     another process writes to this table
│   ├── BadFilter       a --where expression the table cannot evaluate
│   ├── RowNotFound     no row with this key
│   └── NewerFormat     written by a newer version of this package
├── IndexFileError      the FAISS file or its manifest is missing, altered or of another table
├── TooManyFailures     the share of failures passed --max-failures
└── ProbeError          the data or the request cannot give an honest probe result
"""

from __future__ import annotations


class IndexerError(Exception):
    """Base of all errors that a command line prints in one line with exit code 1."""


class InputError(IndexerError):
    """Something the user named or typed cannot be used as it is."""


class ShardNotFound(InputError):
    """No file, folder or pattern match where the user said shards are."""


class WindowError(InputError):
    """A window specification outside the documented forms."""


class ReadError(IndexerError):
    """A shard could not be read to its end."""


class NotATar(ReadError):
    """The bytes at the start are no tar header."""


class CutShard(ReadError):
    """The archive breaks off, or a header in it is damaged, before the end-of-archive mark."""


class PixelError(IndexerError):
    """One image could not become pixels.

    `reason` is a short, stable phrase to count by; `detail` the decoder's own words.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type[PixelError], tuple[str, str]]:  # crosses process boundaries
        return type(self), (self.reason, self.detail)


class EncoderError(IndexerError):
    """An encoder cannot be built or used as asked."""


class UnknownEncoder(EncoderError):
    """No encoder has that name; the message offers the nearest ones."""


class WeightsNotFound(EncoderError):
    """The weights are not on this machine and cannot be fetched."""


class WeightsMismatch(EncoderError):
    """Weights that do not belong to the architecture they were to be loaded into."""


class NoTextTower(EncoderError):
    """Text was to be embedded with an encoder that embeds images only."""


class StoreError(IndexerError):
    """The database cannot do what was asked."""


class StoreNotFound(StoreError):
    """No database, or no such table in it."""


class EncoderMismatch(StoreError):
    """The table holds vectors of another encoder; mixing them would be silent nonsense."""

    def __init__(self, *, stored: str, given: str) -> None:
        super().__init__(
            f"table was written by encoder {stored}, not {given}. "
            "Use that encoder, or index into a new table (--table)."
        )
        self.stored, self.given = stored, given


class ShardChanged(StoreError):
    """A shard's content is not what it was when its rows were stored."""


class StoreLocked(StoreError):
    """Another process holds the table's writer lock."""


class BadFilter(StoreError):
    """A filter expression that the table cannot evaluate."""


class RowNotFound(StoreError):
    """No row has that key."""


class NewerFormat(StoreError):
    """The table was written in a format this version does not know."""


class IndexFileError(IndexerError):
    """The FAISS file or its manifest is missing, altered, or belongs to another table."""


class TooManyFailures(IndexerError):
    """More images failed than --max-failures allows; the run stopped early on purpose."""


class ProbeError(IndexerError):
    """The data or the request cannot give an honest probe result."""


def sentence(error: BaseException) -> str:
    """Another library's words, to be followed by a full stop of ours."""
    return str(error).rstrip(" .")

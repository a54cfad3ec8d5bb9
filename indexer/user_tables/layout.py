"""How a user's CSV file is written down: its encoding, its delimiter and its header, where each is certain."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.errors import InputError

HEAD_BYTES = 1 << 20  # the header must lie in these
DELIMITERS = ",;\t|"
_SEPARATOR = re.compile(r"\"?sep=([,;\t|])\"?\r?\n", re.IGNORECASE)  # the line by which Excel is told the delimiter
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_OTHERS = (  # what is handed over in place of a CSV file
    (b"PK\x03\x04", "a spreadsheet or zip archive, not a CSV table: save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old spreadsheet (xls), not a CSV table: save the sheet as CSV"),
    (b"\x1f\x8b", "compressed (gzip), not a CSV table: unpack it first"),
)


@dataclass(frozen=True)
class Layout:
    """How to read the file. `names` is the header, blanks around each name removed; `header` as it is written."""

    encoding: str
    delimiter: str
    header: tuple[str, ...]
    skipped: int = 0  # lines before the header: Excel's `sep=;`

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.header)


def is_parquet(file: Path, head: bytes) -> bool:
    """By its first bytes, or by its name."""
    return head.startswith(b"PAR1") or file.suffix.lower() in (".parquet", ".pq")


def layout_of(file: Path, head: bytes, wanted: Sequence[str], encoding: str | None) -> Layout:
    """The layout of a CSV file from its first HEAD_BYTES bytes. Raises InputError.

    The encoding is that of a byte order mark, else UTF-8, unless `encoding` names one. The delimiter is the first of
    comma, semicolon, TAB and bar that makes one of the `wanted` names a column of the header.
    """
    for magic, words in _OTHERS:
        if head.startswith(magic):
            raise InputError(f"{file} is {words}.")
    found = encoding or next((name for mark, name in _BOMS if head.startswith(mark)), "utf-8-sig")
    try:
        "".encode(found)  # LookupError for codecs that make no text, such as base64
        found = {"utf-8": "utf-8-sig"}.get(codecs.lookup(found).name, found)
        text = codecs.getincrementaldecoder(found)().decode(head, final=len(head) < HEAD_BYTES).removeprefix("\ufeff")
    except LookupError as error:
        raise InputError(
            f"--encoding {found}: no such encoding. Name one such as cp1252, latin-1 or utf-16."
        ) from error
    except (UnicodeDecodeError, UnicodeError) as error:
        raise not_decoded(file, found, error) from error
    if "\0" in text:
        raise InputError(
            f"{file} is not a CSV table in {found.removesuffix('-sig').upper()}: it holds zero bytes. Name its "
            "encoding, e.g. --encoding utf-16-le."
        )
    told = _SEPARATOR.match(text)
    if told:
        return Layout(found, told[1], _header(file, text[told.end() :], told[1]), 1)
    headers = {mark: _header(file, text, mark) for mark in DELIMITERS}
    split = [mark for mark, names in headers.items() if len(names) > 1]
    certain = [mark for mark in split if {name.strip() for name in headers[mark]} & set(wanted)]
    mark = (certain or sorted(split, key=lambda mark: -len(headers[mark])) or [","])[0]
    return Layout(found, mark, headers[mark])


def not_decoded(file: Path, encoding: str, error: Exception) -> InputError:
    """The error for bytes that are no text in this encoding, with the way out."""
    cause = str(error).splitlines()[0]
    return InputError(
        f"{file} is not a CSV table in {encoding.removesuffix('-sig').upper()}: {cause}. "
        "Save it as UTF-8, or name its encoding, e.g. --encoding cp1252."
    )


def _header(file: Path, text: str, mark: str) -> tuple[str, ...]:
    try:
        return tuple(next(csv.reader(text.splitlines(keepends=True), delimiter=mark), []))
    except csv.Error as error:
        raise InputError(f"{file} is not a CSV table: {error}. Save it anew as CSV in UTF-8.") from error

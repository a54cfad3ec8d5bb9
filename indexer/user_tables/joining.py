"""Matches names in users' tables to stored names that differ in folder, case, Unicode form or suffix, if unique."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

import numpy as np

from indexer.types import IMAGE_SUFFIXES, SERIES, Int64

EXAMPLES = 3  # names listed in a message; the others are only counted
BATCH_NAMES = 65_536  # hashed at once
_SEVERAL = ""  # marks more than one match; no name is empty


def image_suffix(name: str) -> str | None:
    """The suffix of an image's file name, "" for a name without one (as in DICOM trees); None for other files."""
    last = name.rpartition("/")[2]
    if last in ("", "."):
        last = PurePosixPath(name).name
    last = last.lower()
    for suffix in ("nii.gz", SERIES):
        if last.endswith(f".{suffix}"):
            return suffix
    stem, dot, suffix = last.rpartition(".")
    if not dot or not stem:
        return ""
    if suffix in IMAGE_SUFFIXES:
        return suffix
    return "" if suffix.isdigit() else None  # 1.2.840.113619: a UID is a name without a suffix


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _folded(path: str) -> str:
    """Case-folded and in one Unicode form: macOS writes names decomposed (NFD), most other systems composed."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _bare(path: str) -> str:
    """As the rule before, also without an image's suffix."""
    suffix = image_suffix(path)
    return _folded(path[: -len(suffix) - 1] if suffix else path)


# A written and a stored name match under a rule where its results are equal; the strictest rule comes first.
RULES: Sequence[Callable[[str], str]] = (
    _name,
    _folded,
    lambda path: _folded(_name(path)),
    _bare,
    lambda path: _bare(_name(path)),
)


@dataclass(frozen=True)
class Pair:
    """A name of the user's table and the stored name matched to it."""

    written: str
    stored: str
    rule: int  # index in RULES


class NameMatcher:
    """Matches written names to stored names, ignoring folder, letter case, Unicode form or suffix.

    Only `unmatched`, the written names without an equal stored name, are matched; memory grows with their number only
    (about 150 bytes each). All written and all stored names must be passed to `see_written` and `see_stored`, so that
    a match is accepted only where exactly one written and one stored name agree.
    """

    def __init__(self, unmatched: Sequence[str]) -> None:
        self._tables = [_Table(rule, unmatched) for rule in RULES]
        self._unmatched = set(unmatched)

    def see_written(self, names: Iterable[str]) -> None:
        for batch in _batches(names):
            for table in self._tables:
                table.note(batch, table.written)

    def see_stored(self, names: Iterable[str]) -> None:
        """Names may be repeated; a repeated name counts once."""
        for batch in _batches(names):
            for table in self._tables:
                table.note(batch, table.stored)

    def pairs(self) -> list[Pair]:
        """Matches, each written and stored name at most once, by the strictest rule first, in order of names."""
        found: dict[str, Pair] = {}
        used: set[str] = set()
        for number, table in enumerate(self._tables):
            for written, stored in table.answers():
                if written in self._unmatched and written not in found and stored not in used:
                    found[written] = Pair(written, stored, number)
                    used.add(stored)
        return [found[written] for written in sorted(found)]


def _batches(names: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(names)
    while batch := list(islice(rest, BATCH_NAMES)):
        yield batch


def _one_folder(written: str, stored: str) -> bool:
    """Whether the folders are compatible: `benign/1.png` does not match `malignant/1.png`."""
    a, b = f"/{_bare(written)}", f"/{_bare(stored)}"
    return a.endswith(b) or b.endswith(a)


class _Table:
    """For one rule, the written and the stored name of each result, in arrays sorted by the result's hash."""

    def __init__(self, rule: Callable[[str], str], names: Sequence[str]) -> None:
        self._rule = rule
        self._hashes = np.unique(self._hashed(names))
        self.written: list[str | None] = [None] * len(self._hashes)
        self.stored: list[str | None] = [None] * len(self._hashes)

    def _hashed(self, names: Sequence[str]) -> Int64:
        return np.fromiter((hash(self._rule(name)) for name in names), np.int64, len(names))

    def note(self, names: Sequence[str], answers: list[str | None]) -> None:
        if not len(self._hashes):
            return
        hashes = self._hashed(names)
        spots = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        for i in np.flatnonzero(self._hashes[spots] == hashes).tolist():
            spot = int(spots[i])
            if answers[spot] is None:
                answers[spot] = names[i]
            elif answers[spot] != names[i]:
                answers[spot] = _SEVERAL

    def answers(self) -> Iterator[tuple[str, str]]:
        for written, stored in zip(self.written, self.stored, strict=True):
            if not written or not stored:
                continue
            if self._rule(written) == self._rule(stored) and _one_folder(written, stored):  # equal not in hash alone
                yield written, stored


def forgiven_words(pairs: Sequence[Pair]) -> str:
    """A message about inexact matches, with their count and examples."""
    shown = counted([f"{pair.written} → {pair.stored}" for pair in pairs], len(pairs))
    return f"rows joined without regard to ending, letter case or Unicode form: {shown}"


def counted(names: Sequence[str], count: int) -> str:
    """The number of names and the first few of them, e.g. "5: a, b, c and 2 more"; `names` may hold only those."""
    more = f" and {count - EXAMPLES:,} more" if count > EXAMPLES else ""
    return f"{count:,}: {', '.join(names[:EXAMPLES])}{more}"

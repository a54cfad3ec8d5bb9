"""Finds the stored names most like one that is not stored, for the message that says so."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from indexer.user_tables.joining import RULES

SHOWN = 3
_COMPARED = 200  # names with the longest common beginnings and ends, which are then compared in full
_LEAST = 0.6  # difflib's ratio


def nearest_names(name: str, names: Iterable[str]) -> list[str]:
    """At most SHOWN of the names, the most similar first, without regard to folder, letter case and ending.

    One pass, and memory for a few hundred names.
    """
    import difflib  # a search that finds its names does without

    bare = RULES[-1]
    wanted = bare(name)
    ranked = heapq.nlargest(_COMPARED, ((_common(wanted, bare(other)), other) for other in names))
    likeness = ((difflib.SequenceMatcher(None, wanted, bare(other)).ratio(), other) for _, other in ranked)
    best = heapq.nlargest(SHOWN, (each for each in likeness if each[0] >= _LEAST))
    return [other for _, other in best]


def nearest_words(name: str, names: Iterable[str]) -> str:
    """A sentence that names them, with a space before it; "" where there is none."""
    found = nearest_names(name, names)
    return f" Did you mean {', '.join(map(repr, found))}?" if found else ""


def _common(a: str, b: str) -> float:
    """The share of the longer name that the two have in common at their beginnings and ends."""
    most = min(len(a), len(b))
    start = next((i for i in range(most) if a[i] != b[i]), most)
    end = next((i for i in range(most - start) if a[-1 - i] != b[-1 - i]), most - start)
    return (start + end) / max(len(a), len(b), 1)

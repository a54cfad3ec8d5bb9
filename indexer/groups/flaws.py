"""The flawed series of a table, counted by flaw."""

from __future__ import annotations

from collections import defaultdict

from indexer.groups.listing import listed_groups
from indexer.progress.silent import SILENT
from indexer.store.table import EmbeddingStore
from indexer.types import Progress, SeriesFlaw

SERIES, POSITION = "series", "part_z"
EXAMPLES = 3
MOST_ROWS = 5_000_000  # of a table whose series are looked at after each run: about 15 seconds


def series_flaws(store: EmbeddingStore, progress: Progress = SILENT) -> tuple[SeriesFlaw, ...]:
    """By name; none in a table without series of slices."""
    if not {SERIES, POSITION} <= store.columns().keys():
        return ()
    found: defaultdict[str, list[str]] = defaultdict(list)
    for group in listed_groups(store, SERIES, progress=progress):
        for flaw in group.geometry.flags if group.geometry else ():
            found[flaw].append(group.group)
    return tuple(SeriesFlaw(flaw, len(names), tuple(sorted(names)[:EXAMPLES])) for flaw, names in sorted(found.items()))

"""Which images come next: those of the rarest class first, the most doubtful between them, a tenth at random."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from indexer.serve.labelling.rows import RESERVED, LabelRows
from indexer.types import Bool, Float64, Int64


def by_probability(probabilities: Float64, column: int) -> Int64:
    """Rows (n,), the most probably of the class first."""
    return np.argsort(-probabilities[:, column], kind="stable")


def by_doubt(probabilities: Float64) -> Int64:
    """Rows (n,), the smallest distance of their two most probable classes first."""
    best = np.partition(probabilities, -2, axis=1)
    return np.argsort(best[:, -1] - best[:, -2], kind="stable")


def alternating(*orders: Iterable[int]) -> Iterator[int]:
    """Members of the orders in turn, each once."""
    seen: set[int] = set()
    sources = [iter(order) for order in orders]
    while sources:
        for source in list(sources):
            found = next((one for one in source if one not in seen), None)
            if found is None:
                sources.remove(source)
                continue
            seen.add(found)
            yield found


def first_of_groups(order: Iterable[int], groups: Int64, most: int) -> list[int]:
    """The first `most`, at most one of each group while there are other groups: slices of one patient look alike."""
    chosen: list[int] = []
    further: list[int] = []
    seen: set[int] = set()
    for spot in order:
        if len(chosen) == most:
            break
        group = int(groups[spot])
        (further if group in seen else chosen).append(spot)
        seen.add(group)
    return [*chosen, *further[: most - len(chosen)]]


def first_of_classes(codes: Int64, allowed: Bool, order: Int64, most: int) -> Int64:
    """At most about `most` allowed rows with a code, ascending: of each class the first in `order`, of a rare one all.

    Classes with fewer rows than their share leave room to the others.
    """
    labelled = order[(allowed & (codes >= 0))[order]]
    if len(labelled) <= most:
        return np.sort(labelled)
    counts = np.sort(np.bincount(codes[labelled]))
    counts = counts[counts > 0]
    share, room = 0, most
    for left, count in enumerate(counts.tolist()):
        share = room // (len(counts) - left)
        if count > share:
            break
        room -= count
    chosen = [own[:share] for own in (labelled[codes[labelled] == code] for code in np.unique(codes[labelled]))]
    return np.sort(np.concatenate(chosen))


def drawn(rows: LabelRows, free: Bool, limit: int) -> list[int]:
    """The next of the reserved rows: a tenth of `limit`, the remainder of the division by lot."""
    waiting = rows.order[(rows.reserved & free)[rows.order]]
    if not len(waiting):
        return []
    lot = np.random.default_rng(int(rows.row_ids[waiting[0]])).random()
    return list(waiting[: int(RESERVED * limit + lot)].tolist())


def mixed(searched: list[int], random: list[int], limit: int) -> list[int]:
    """`limit` rows, those drawn at random at places that tell nothing."""
    page = searched[: limit - len(random)]
    places = np.random.default_rng([*random, len(page)]).permutation(len(page) + len(random))[: len(random)]
    for place, spot in sorted(zip(places.tolist(), random, strict=True)):
        page.insert(place, spot)
    return page

"""Stacks of parallel slices: which slice lies before and behind another along their normal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import PixelError
from indexer.pixels.parts import Facts

UNORDERED = "order of slices unknown"
SAME_MM = 0.01  # positions as near as that are one
_APART = ("echo", "phase", "temporal", "acquisition")  # facts that tell copies of a position apart by their values
TURNED = 1.0  # degrees within which slices are parallel


def neighbours(facts: Sequence[Facts]) -> list[tuple[int, int, int]]:
    """For each part of an image, given its facts, the parts (before, itself, behind) along the normal of its stack.

    The slice at an end of its stack is its own neighbour. Slices are of one stack that have one orientation and, where
    several lie at one position, one echo, phase, temporal position or acquisition, or else are each the n-th in time at
    their position. The only part of an image needs no position. Raises PixelError where a position is missing, or
    nothing tells those at one position apart.
    """
    if len(facts) == 1:
        return [(0, 0, 0)]
    missing = [n for n, own in enumerate(facts) if "z" not in own]
    if missing:
        raise PixelError(UNORDERED, f"{len(missing)} of {len(facts)} parts have no position, the first is {missing[0]}")
    found = [(n, n, n) for n in range(len(facts))]
    for stack in _stacks(facts):
        for at, slice_ in enumerate(stack):
            found[slice_] = (stack[max(0, at - 1)], slice_, stack[min(len(stack) - 1, at + 1)])
    return found


def _stacks(facts: Sequence[Facts]) -> list[list[int]]:
    """The slices of each stack, in the order of their positions."""
    done: list[list[int]] = []
    for alike in _parallel(facts):
        places = _numbered(alike, facts)
        stacks = [alike]
        for word in _APART:
            stacks = [
                part
                for stack in stacks
                for part in ([stack] if _distinct(stack, places) else _split(stack, lambda n, w=word: facts[n].get(w)))
            ]
        for stack in stacks:
            done += [stack] if _distinct(stack, places) else _by_time(stack, places, facts)
    return [sorted(stack, key=lambda n: float(facts[n]["z"])) for stack in done]


def _parallel(facts: Sequence[Facts]) -> list[list[int]]:
    """The slices of each orientation: within TURNED degrees of the first slice that has it."""
    found: list[tuple[npt.NDArray[np.float64], list[int]]] = []
    known: dict[str, list[int]] = {}
    for n, own in enumerate(facts):
        text = str(own.get("orientation", ""))
        if text not in known:
            axes = np.array(text.split("\\") if text else [], float)
            alike = (group for first, group in found if _turned(first, axes) <= TURNED)
            known[text] = next(alike, [])
            if not known[text]:
                found.append((axes, known[text]))
        known[text].append(n)
    return [group for _, group in found]


def _turned(first: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """The larger angle (degrees) between the row or column directions of two slices; 180 where only one has any."""
    if len(first) != len(other):
        return 180.0
    if not len(first):
        return 0.0
    a, b = (axes.reshape(2, 3) / np.linalg.norm(axes.reshape(2, 3), axis=1, keepdims=True) for axes in (first, other))
    return float(np.degrees(np.arccos(np.clip((a * b).sum(axis=1), -1, 1))).max())


def _split(slices: Sequence[int], value: Any) -> list[list[int]]:
    groups: defaultdict[Any, list[int]] = defaultdict(list)
    for slice_ in slices:
        groups[value(slice_)].append(slice_)
    return list(groups.values())


def _numbered(slices: Sequence[int], facts: Sequence[Facts]) -> dict[int, int]:
    """Slice → the number of its position, from 0; positions within SAME_MM of the one before are one."""
    numbers: dict[int, int] = {}
    last = -float("inf")
    number = -1
    for slice_ in sorted(slices, key=lambda n: float(facts[n]["z"])):
        z = float(facts[slice_]["z"])
        number += z - last > SAME_MM
        numbers[slice_], last = number, z
    return numbers


def _distinct(slices: Sequence[int], places: Mapping[int, int]) -> bool:
    return len({places[slice_] for slice_ in slices}) == len(slices)


def _by_time(slices: Sequence[int], places: Mapping[int, int], facts: Sequence[Facts]) -> list[list[int]]:
    """The slices that are first at their positions in time, those that are second, and so on."""
    copies = _split(slices, places.__getitem__)
    counts = {len(found) for found in copies}
    times = [{facts[n].get("time") for n in found} for found in copies]
    if len(counts) > 1 or None in set().union(*times) or any(map(lambda a, b: len(a) < len(b), times, copies)):
        doubled = max(copies, key=len)
        where = f"{len(doubled)} parts at {float(facts[doubled[0]]['z']):g} mm"
        raise PixelError(UNORDERED, f"{where}, and neither echo, phase, acquisition nor time tells them apart")
    ordered = [sorted(found, key=lambda n: float(facts[n]["time"])) for found in copies]
    return [list(stack) for stack in zip(*ordered, strict=True)]

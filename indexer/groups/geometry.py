"""The geometry of a series: positions along the normal, spacing, and what is wrong with them, by name.

Archives are read in the order of their files, so this is computed from the table's columns: `part_z` is the position
along the normal (PS3.3 C.7.6.2.1.1), by which the rows of a series are in order; `part_u` and `part_v` are the position
along rows and columns of the image, `part_orientation` the six cosines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from indexer.types import Bool, Float64

APART = (
    ("part_echo", "several echoes"),
    ("part_phase", "several phases"),
    ("part_acquisition", "several acquisitions"),
    ("part_time", "several times"),
)
COLUMNS = ("part_z", "part_u", "part_v", "part_orientation", "part_spacing", *(column for column, _ in APART))
SAME_MM = 0.01  # positions as near as that are one
GAP = 1.5  # times the median spacing
UNEVEN = 0.1  # share of the median spacing by which another differs
TURNED = 1.0  # degrees between two orientations, and between the normal and the way from slice to slice

MISSING = "positions missing"
TWICE = "positions doubled, with nothing that tells the copies apart"
HOLE = "gaps"
ODD = "spacing uneven"
MIXED = "several orientations"
TILT = "gantry tilt"
OTHER = "spacing contradicts the header's"
PATIENTS = "several patients"


@dataclass(frozen=True)
class Slices:
    """The rows (n,) of one series; NaN and "" where a value is missing."""

    z: Float64  # mm
    u: Float64  # mm
    v: Float64  # mm
    orientation: tuple[str, ...]
    spacing: Float64  # mm, the header's
    apart: dict[str, tuple[str, ...]]  # column → values, of APART
    patients: int


@dataclass(frozen=True)
class SeriesFacts:
    """Where the rows of a series lie, and what is wrong."""

    first: float | None  # mm, of the lowest position
    last: float | None
    positions: int  # distinct ones
    spacing: float | None  # mm, the median distance of neighbouring positions
    flags: tuple[str, ...]


def series_facts(rows: Slices) -> SeriesFacts:
    """A series of one row has no flag for its position."""
    flags = [PATIENTS] if rows.patients > 1 else []
    known = np.isfinite(rows.z)
    turned = _turned(rows.orientation)
    if turned:
        flags.append(MIXED)
    if not known.all() and len(known) > 1:
        flags.append(MISSING)
    z = _distinct(rows.z[known])
    steps = np.diff(z)
    spacing = float(np.median(steps)) if len(steps) else None
    if not turned:  # else positions are along several normals
        flags += _doubled(rows, known, z)
        if spacing is not None:
            flags += _stepped(rows, known, steps, spacing)
    first, last = (round(float(end), 4) for end in (z[0], z[-1])) if len(z) else (None, None)
    return SeriesFacts(first, last, len(z), None if spacing is None else round(spacing, 4), tuple(flags))


def _distinct(z: Float64) -> Float64:
    """Ascending positions, of which those within SAME_MM of the one before are left out."""
    ordered = np.sort(z)
    return ordered[np.r_[True, np.diff(ordered) > SAME_MM]] if len(ordered) else ordered


def _doubled(rows: Slices, known: Bool, distinct: Float64) -> list[str]:
    """The column that tells the copies of positions apart, or that there is none."""
    if len(distinct) == int(known.sum()):
        return []
    places = np.searchsorted(distinct, rows.z[known], side="right")
    seen: list[tuple[object, ...]] = [(place,) for place in places.tolist()]
    flags = []
    for column, words in APART:
        values = [value for value, there in zip(rows.apart[column], known, strict=True) if there]
        if len(set(values)) < 2:
            continue
        further = [(*own, value) for own, value in zip(seen, values, strict=True)]
        if len(set(further)) > len(set(seen)):
            flags.append(words)
        seen = further
    return flags if len(set(seen)) == len(seen) else [*flags, TWICE]


def _stepped(rows: Slices, known: Bool, steps: Float64, spacing: float) -> list[str]:
    flags = []
    if (steps > GAP * spacing).any():
        flags.append(HOLE)
    elif (np.abs(steps - spacing) > UNEVEN * spacing).any():
        flags.append(ODD)
    tilt = _tilt(rows, known)
    if tilt > TURNED:
        flags.append(TILT)
    told = rows.spacing[np.isfinite(rows.spacing)]
    if len(told) and (np.abs(np.abs(told) - spacing) > UNEVEN * spacing).any():
        flags.append(OTHER)
    return flags


def _tilt(rows: Slices, known: Bool) -> float:
    """Degrees between the normal and the way from the lowest slice to the highest."""
    if not (np.isfinite(rows.u[known]).all() and np.isfinite(rows.v[known]).all()):
        return 0.0
    low, high = np.flatnonzero(known)[[int(np.argmin(rows.z[known])), int(np.argmax(rows.z[known]))]]
    across = math.hypot(rows.u[high] - rows.u[low], rows.v[high] - rows.v[low])
    return math.degrees(math.atan2(across, rows.z[high] - rows.z[low]))


def _turned(orientations: tuple[str, ...]) -> bool:
    """Whether two rows lie in different planes, or in one turned within it."""
    found = [np.array(text.split("\\"), float) for text in sorted(set(orientations) - {""})]
    least = math.cos(math.radians(TURNED))
    return any(
        min(other[:3] @ found[0][:3], other[3:] @ found[0][3:]) < least * (np.linalg.norm(found[0][:3]) ** 2)
        for other in found[1:]
    )

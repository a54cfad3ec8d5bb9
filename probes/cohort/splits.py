"""D1: splits rows into train, val and test, with each group in one part only."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from indexer.errors import ProbeError
from indexer.types import Int64

PARTS = ("train", "val", "test")
FOLDS = 5
MOST_SITES = 50
TEST_BELOW, VAL_BELOW = 0.2, 0.3  # of the hash's unit interval
PART_NAMES = {
    "train": "train", "training": "train", "fit": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "tune": "val",
    "test": "test", "testing": "test", "holdout": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Split:
    """Row indices of each part, ascending; every row is in at most one part."""

    train: Int64
    val: Int64  # may be empty; folds of train then choose the parameters
    test: Int64
    duplicates: Int64  # rows removed from train and val, since test has the same image bytes
    unassigned: Int64  # rows whose split column is empty

    def part_of(self, n: int) -> np.ndarray:
        """(n,) of "train", "val", "test" or ""."""
        out = np.full(n, "", dtype="<U5")
        for name in PARTS:
            out[getattr(self, name)] = name
        return out


def hash_share(group: str, salt: str) -> float:
    """blake2b(salt‖group, 8 bytes) / 2⁶⁴: a group's position in [0, 1), independent of the other groups."""
    digest = hashlib.blake2b((salt + group).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def hash_split(groups: Int64, names: Sequence[str], salt: str) -> Split:
    """D1 (b). `groups` (n,) index into `names`."""
    share = np.array([hash_share(name, salt) for name in names])[groups]
    test = share < TEST_BELOW
    val = ~test & (share < VAL_BELOW)
    return _from_masks(~test & ~val, val, test)


def stratified_split(strata: Int64, groups: Int64, seed: int) -> Split:
    """D1 (c): fold 0 of StratifiedGroupKFold(5) is test, fold 0 of the rest's is val."""
    rest, test = grouped_folds(strata, groups, seed)[0]
    inner_train, inner_val = grouped_folds(strata[rest], groups[rest], seed)[0]
    none = np.empty(0, np.int64)
    return Split(rest[inner_train], rest[inner_val], test, none, none)


def column_split(values: Sequence[object]) -> Split:
    """D1 (a). Values name train, val and test (val may be missing). Raises ProbeError for any other value."""
    parts = [None if v is None else PART_NAMES.get(str(v).strip().lower(), "?") for v in values]
    strange = sorted({str(v) for v, part in zip(values, parts, strict=True) if part == "?"})
    if strange:
        raise ProbeError(
            f"the split column holds {', '.join(strange[:5])}; it must hold train, val and test. "
            "Rename the values, or use --split hash."
        )
    array = np.array([part or "" for part in parts])
    made = _from_masks(array == "train", array == "val", array == "test")
    return Split(made.train, made.val, made.test, made.duplicates, np.flatnonzero(array == ""))


def grouped_folds(strata: Int64, groups: Int64, seed: int, folds: int = FOLDS) -> list[tuple[Int64, Int64]]:
    """(fit rows, held-out rows) of StratifiedGroupKFold. Raises ProbeError with fewer groups than folds."""
    from sklearn.model_selection import StratifiedGroupKFold

    present = len(np.unique(groups))
    if present < folds:
        raise ProbeError(
            f"{counted(present)} cannot be split into {folds} folds. Give more of them, or a split column (--split)."
        )
    if np.bincount(strata).max() < folds:
        raise ProbeError(f"no class has {folds} rows: too few to split. Label more images, or give a split column.")
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # a class with fewer rows than folds is reported as absent instead
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        return [(np.sort(fit), np.sort(held)) for fit, held in splitter.split(np.empty(len(strata)), strata, groups)]


def site_folds(values: Sequence[object], groups: Int64) -> tuple[list[tuple[Int64, Int64]], tuple[str, ...]]:
    """(fit rows, held-out rows) with each value of a column held out in turn, and the values.

    Rows without a value are unused; so are, in a fold, fit rows of a group that the site has too. Raises ProbeError
    with fewer than two sites.
    """
    names = np.array(["" if v is None or v != v else str(v) for v in values])
    sites = tuple(sorted(set(names.tolist()) - {""}))
    if len(sites) < 2:
        raise ProbeError("leave-out needs a column of two sites or more. Name another one, or use --split hash.")
    if len(sites) > MOST_SITES:
        raise ProbeError(f"leave-out of {len(sites)} values: at most {MOST_SITES}. Group them in a new column.")
    folds = []
    for site in sites:
        held = names == site
        fit = ~held & (names != "") & ~np.isin(groups, groups[held])
        folds.append((np.flatnonzero(fit), np.flatnonzero(held)))
    return folds, sites


def without_duplicates(split: Split, content: Int64) -> Split:
    """Remove the rows from train and val whose image bytes (`content` ids (n,)) test has too."""
    shared = np.isin(content, content[split.test])
    gone = np.concatenate([split.train[shared[split.train]], split.val[shared[split.val]]])
    keep = ~np.isin(content[split.train], content[split.val]) if len(split.val) else np.ones(len(split.train), bool)
    inner = split.train[~keep & ~shared[split.train]]
    return Split(
        split.train[keep & ~shared[split.train]],
        split.val[~shared[split.val]],
        split.test,
        np.sort(np.concatenate([gone, inner])),
        split.unassigned,
    )


def check_groups(split: Split, groups: Int64, names: Sequence[str]) -> None:
    """Raise ProbeError where a group is in two parts, or train or test is empty."""
    for one, other in (("train", "test"), ("val", "test"), ("train", "val")):
        both = np.intersect1d(groups[getattr(split, one)], groups[getattr(split, other)])
        if len(both):
            examples = ", ".join(names[g] for g in both[:3])
            raise ProbeError(
                f"{len(both)} groups are in both {one} and {other} (e.g. {examples}): the result would be inflated. "
                "Correct the split column, or use --split hash."
            )
    for name in ("train", "test"):
        if not len(getattr(split, name)):
            raise ProbeError(
                f"the {name} split is empty, of {counted(len(names))} in all. "
                "Use --split stratified, or a split column that names train and test."
            )


def units(group: str) -> str:
    """What the groups of a column are called: "patients", "images" without groups, "groups of Patient ID"."""
    if group == "none":
        return "images"
    return f"{group}s" if group.isalpha() and group.islower() and not group.endswith("s") else f"groups of {group}"


def counted(groups: int) -> str:
    return "1 group" if groups == 1 else f"{groups} groups"


def split_sha256(keys: Iterable[str], parts: Iterable[str]) -> str:
    """Hash of the sorted (key, part) list, equal for equal splits (D16)."""
    digest = hashlib.sha256()
    for key, part in sorted(zip(keys, parts, strict=True)):
        digest.update(f"{key}\t{part}\n".encode())
    return digest.hexdigest()


def _from_masks(train: np.ndarray, val: np.ndarray, test: np.ndarray) -> Split:
    none = np.empty(0, np.int64)
    return Split(np.flatnonzero(train), np.flatnonzero(val), np.flatnonzero(test), none, none)

"""Chooses the positive one of two classes: as requested, else the one whose name is not a word for absence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from indexer.errors import ProbeError

ABSENCE = frozenset(
    {
        "0", "absent", "benign", "clear", "control", "controls", "false", "good", "healthy", "intact", "neg",
        "negative", "no", "no finding", "no findings", "none", "normal", "ok", "pass", "passed", "unaffected",
        "uninfected", "unremarkable", "without",
    }
)  # fmt: skip
NEGATION = re.compile(r"(?:no|non|not|without)[\W_]+\S")
NUMBERED = re.compile(r"^\d+[\W_]+(?=[^\W\d_])")  # "0_intact": a prefix that only orders the names


@dataclass(frozen=True)
class Positive:
    """The class to which two-class metrics refer: sensitivity, PPV, subgroups, a patient's truth."""

    name: str
    reason: str  # asked | absence: the other class is a word for absence | order: the last by name


def positive_class(classes: Sequence[str], asked: str | None) -> Positive | None:
    """The positive one of two classes; None for more. Raises ProbeError where `asked` is neither of the two."""
    if len(classes) != 2:
        if asked is not None:
            raise ProbeError(
                f"--positive {asked} is of a label with two classes, this one has {len(classes)}. Leave it out, or "
                "choose two classes with --where."
            )
        return None
    if asked is not None:
        if asked not in classes:
            raise ProbeError(f"--positive {asked} is not a class of the label; there are: {', '.join(classes)}.")
        return Positive(asked, "asked")
    named = [name for name in classes if not is_absence(name)]
    return Positive(named[0], "absence") if len(named) == 1 else Positive(classes[-1], "order")


def is_absence(name: str) -> bool:
    """Whether a class's name is a word for absence, e.g. "normal", "0_intact" or "no tumour"."""
    plain = NUMBERED.sub("", name.strip().casefold())
    plain = re.sub(r"[\W_]+", " ", plain).strip() or plain
    return plain in ABSENCE or NEGATION.match(plain) is not None


def positive_last(classes: Sequence[str], positive: Positive | None) -> tuple[str, ...]:
    """The classes with the positive one of two last, which is its position in all two-class computations."""
    if positive is None or classes[-1] == positive.name:
        return tuple(classes)
    return tuple(reversed(classes))

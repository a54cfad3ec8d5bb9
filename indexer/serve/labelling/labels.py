"""The labels of a column, with who gave them and whether their image was drawn at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from indexer.errors import InputError
from indexer.store.schema import refused_name
from indexer.types import Bool, Int64
from indexer.user_tables.column_types import MISSING

SEARCH, RANDOM = "search", "random"  # how an image was shown
MOST_CLASSES = 9  # one for each key
MOST_LETTERS = 100  # of a class's name


@dataclass(frozen=True)
class LabelColumns:
    """The names of the label column and of those that go with it. Raises InputError where one cannot be a column."""

    label: str

    def __post_init__(self) -> None:
        for name in self.all:
            cause = refused_name(name)
            if cause:
                raise InputError(
                    f"--labels {self.label}: {name!r} cannot be a label column ({cause}). Give another name, of "
                    "letters, digits and '_'."
                )

    @property
    def by(self) -> str:
        return f"{self.label}_by"

    @property
    def at(self) -> str:
        return f"{self.label}_at"

    @property
    def shown(self) -> str:
        return f"{self.label}_shown"

    @property
    def all(self) -> tuple[str, str, str, str]:
        return self.label, self.by, self.at, self.shown

    def require_kinds(self, kinds: Mapping[str, pa.DataType]) -> None:
        """Raises InputError where the table has columns of these names that hold something else."""
        own = kinds.get(self.label, pa.string())
        plain = pa.types.is_string(own) or pa.types.is_integer(own) or pa.types.is_boolean(own)
        wrong = [] if plain else [self.label]
        wrong += [name for name in self.all[1:] if not pa.types.is_string(kinds.get(name, pa.string()))]
        if wrong:
            raise InputError(
                f"column {wrong[0]} holds {kinds[wrong[0]]} and cannot take labels. Start the server with another "
                "name: --labels NAME."
            )


@dataclass
class Labels:
    """Labels by position of the row. Changed in place by `set`."""

    classes: list[str]  # their places are the codes
    codes: Int64  # (n,) -1: no label
    random: Bool  # (n,) its image was drawn at random
    own: Bool  # (n,) given by a server; others came with `indexer labels` or the metadata

    def counts(self) -> dict[str, int]:
        """Labelled rows of each class, by name."""
        found = np.bincount(self.codes[self.codes >= 0], minlength=len(self.classes))
        return {name: int(n) for name, n in sorted(zip(self.classes, found, strict=True)) if n}

    def set(self, spots: Int64, names: list[str | None], random: list[bool]) -> None:
        """Give the rows these labels; None takes one away."""
        for name in names:
            if name is not None and name not in self.classes:
                self.classes.append(name)
        self.codes[spots] = [-1 if name is None else self.classes.index(name) for name in names]
        self.random[spots] = random
        self.own[spots] = [name is not None for name in names]


def labels_of(table: pa.Table, columns: LabelColumns) -> Labels:
    """The labels in a table that has some or none of the columns."""
    n = table.num_rows
    present = set(table.column_names)
    if columns.label not in present:
        return Labels([], np.full(n, -1), np.zeros(n, bool), np.zeros(n, bool))
    encoded = table.column(columns.label).combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    shown = table.column(columns.shown).to_pylist() if columns.shown in present else [None] * n
    own = table.column(columns.by).is_valid() if columns.by in present else pa.array([False] * n)
    return Labels(
        [str(value) for value in encoded.dictionary.to_pylist()],
        codes,
        np.array([how == RANDOM for how in shown], bool),
        np.asarray(own, bool).copy(),
    )


def class_name(text: str) -> str:
    """The name without blanks at its ends. Raises InputError where a file of labels could not hold it."""
    name = text.strip()
    if name in MISSING or len(name) > MOST_LETTERS or not name.isprintable():
        raise InputError(
            f"a class needs a name of 1 to {MOST_LETTERS} printable letters other than {', '.join(MISSING[1:4])} and "
            "the like, which mean that a label is missing."
        )
    return name

"""The choices of `indexer labels` as they are typed, and those of a preset."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from indexer.errors import InputError
from indexer.store.labelling.merge import RULES
from indexer.store.labelling.reshape import MEANINGS, Reshaping, Uncertain
from indexer.user_tables.presets import PRESETS, Preset

Choices = Mapping[str, tuple[str, ...]]  # option → its values


def with_preset(name: str | None, given: Choices) -> tuple[Choices, list[str]]:
    """The choices of a preset and those given, which go before; and sentences that say them. Raises InputError."""
    if name is None:
        return given, []
    preset = PRESETS.get(name)
    if preset is None:
        raise InputError(f"no preset {name!r}; there are: {', '.join(PRESETS)}. Choose one, or name the options.")
    if not preset.options:
        raise InputError(f"--preset {name} joins no file: {preset.note}.")
    return {**preset.options, **given}, _words(name, preset, given)


def _words(name: str, preset: Preset, given: Choices) -> list[str]:
    typed = [
        f"--{option} {shlex.join([value]) if option != 'rewrite' else shlex.join(values)}"
        for option, values in preset.options.items()
        if option not in given
        for value in (values if option != "rewrite" else values[:1])
    ]
    note = [f"preset {name}: {preset.note}"] if preset.note else []
    return [f"preset {name} for {preset.file} ({preset.source}): {' '.join(typed)}", *note]


def reshaping(choices: Choices) -> Reshaping:
    """Raises InputError."""
    rewrite = choices.get("rewrite", ())
    repeated = (choices.get("repeated") or ("error",))[0]
    if repeated not in RULES:
        raise InputError(f"--repeated {repeated}: choose one of {', '.join(RULES)}.")
    return Reshaping(
        rewrite=(rewrite[0], rewrite[1]) if rewrite else None,
        lists=tuple(_list(text) for text in choices.get("split-values", ())),
        one_hot=tuple(_one_hot(text) for text in choices.get("one-hot", ())),
        uncertain=tuple(_uncertain(text) for text in choices.get("uncertain", ())),
        grades=tuple(_grades(text) for text in choices.get("grades", ())),
        repeated=repeated,
    )


def _list(text: str) -> tuple[str, str]:
    """`|`, or `Finding Labels=|`."""
    column, equals, mark = text.rpartition("=")
    if not mark:
        raise InputError(f"--split-values {text!r} names no mark. Give one, as in --split-values '|'.")
    return (column.strip(), mark) if equals else ("", mark)


def _one_hot(text: str) -> tuple[tuple[str, ...], str]:
    """`MEL,NV,BCC=diagnosis`."""
    columns, _, name = text.rpartition("=")
    named = tuple(column.strip() for column in columns.split(",") if column.strip())
    if len(named) < 2 or not name.strip():
        raise InputError(f"--one-hot {text!r}: give two columns or more and a name, as in MEL,NV,BCC=diagnosis.")
    return named, name.strip()


def _uncertain(text: str) -> Uncertain:
    """`-1=missing`, or `Edema:-1=1` for one column."""
    value, _, meaning = text.rpartition("=")
    column, _, value = value.rpartition(":")
    if not value or meaning not in MEANINGS:
        raise InputError(f"--uncertain {text!r}: give VALUE=MEANING, the meaning one of {', '.join(MEANINGS)}.")
    return Uncertain(value, meaning, column.strip())


def _grades(text: str) -> tuple[str, tuple[str, ...]]:
    """`severity=none<mild<severe`."""
    column, _, levels = text.partition("=")
    named = tuple(level.strip() for level in levels.split("<"))
    if not column.strip() or len(named) < 2 or not all(named) or len({n.casefold() for n in named}) < len(named):
        raise InputError(
            f"--grades {text!r}: give a column and its values from low to high, as severity=none<mild<bad."
        )
    return column.strip(), named

"""What both command lines share: JSON that every reader takes, and the version."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
from dataclasses import dataclass

import click
import numpy as np
import pytest

from indexer.options import emit
from indexer.store.formats.format import FORMAT
from tests.commands import call


@dataclass(frozen=True)
class Facts:
    name: str
    values: tuple[float, ...]


def strict(text: str) -> object:
    """By the standard: RFC 8259 has no NaN and no Infinity, which Python would read."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} in JSON"))


@pytest.mark.case("R9", "T12")
@pytest.mark.parametrize(
    "value",
    [
        math.inf, -math.inf, math.nan, np.float32("inf"), np.array([1.0, -np.inf]), {"a": [math.inf, {"b": math.nan}]},
        Facts("x", (math.inf, 1.5)), [np.float16("nan")],
    ],
)  # fmt: skip
def test_json_holds_null_where_a_number_is_not_finite(value, capsys):
    emit(value, as_json=True)
    text = capsys.readouterr().out
    strict(text)
    assert "null" in text
    assert "1.5" in text or not isinstance(value, Facts)


@pytest.mark.parametrize("program", ["indexer", "probes"])
def test_version_names_the_package_and_the_table_format(program):
    done = call(program, "--version")
    version = importlib.metadata.version("embedding-indexer")
    assert (done.code, done.out) == (0, f"embedding-indexer {version}, table format {FORMAT}\n")


@pytest.mark.case("T8", "N2")
@pytest.mark.parametrize("program", ["indexer", "probes"])
def test_no_option_of_a_number_takes_nan(program):
    """NaN lies in every range, since all comparisons with it are false."""
    group = importlib.import_module(f"{program}.cli").group
    found = 0
    for name in group.list_commands(None):
        for option in group.get_command(None, name).params:
            if isinstance(option.type, click.types.FloatParamType):
                found += 1
                with pytest.raises(click.BadParameter):
                    option.type.convert("nan", option, None)
    assert found > 5

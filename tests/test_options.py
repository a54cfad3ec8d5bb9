"""What both command lines share: JSON that every reader takes, and the version."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass

import click
import numpy as np
import pytest

from indexer.options import emit
from indexer.store.formats.format import FORMAT
from indexer.store.table import EmbeddingStore
from tests.archives import png
from tests.commands import call
from tests.tables import add_shard, spec_for, unit_rows


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


def commands_of(program):
    group = importlib.import_module(f"{program}.cli").group
    return [group.get_command(None, name) for name in group.list_commands(None)]


@pytest.mark.case("T8", "N2")
@pytest.mark.parametrize("program", ["indexer", "probes"])
def test_no_option_of_a_number_takes_nan(program):
    """NaN lies in every range, since all comparisons with it are false."""
    numbers = [o for c in commands_of(program) for o in c.params if isinstance(o.type, click.types.FloatParamType)]
    for option in numbers:
        with pytest.raises(click.BadParameter):
            option.type.convert("nan", option, None)
    assert len(numbers) > 5


@pytest.mark.parametrize("program", ["indexer", "probes"])
def test_every_seed_is_one_that_all_libraries_take(program):
    seeds = [option for command in commands_of(program) for option in command.params if option.name == "seed"]
    for option in seeds:
        for refused in ("-1", str(2**32)):
            with pytest.raises(click.BadParameter):
                option.type.convert(refused, option, None)
        np.random.RandomState(option.type.convert(str(2**32 - 1), option, None))  # scikit-learn's
    assert len(seeds) > 2


@pytest.mark.parametrize("program", ["indexer", "probes"])
def test_help_shows_no_mark_of_its_own_layout(program):
    for command in commands_of(program):
        text = command.get_help(click.Context(command))
        assert "\b" not in text, command.name
        assert "\\b" not in text, command.name
        assert "x<=None" not in text, command.name


def test_a_name_that_is_empty_or_of_no_table_is_refused_with_the_way_out(db, tmp_path):
    for command in (("index", tmp_path, db), ("info", db), ("health", db)):
        done = call("indexer", *command, "--table", "")
        assert (done.code, "the name is empty" in done.err) == (2, True)
    (tmp_path / "none").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(1))
    done = call("indexer", "health", tmp_path / "none")
    assert (done.code, done.err) == (1, f"error: {tmp_path / 'none'} holds no table. `indexer index` makes one.\n")
    for odd in ("ü", "t" * 300):
        done = call("indexer", "index", tmp_path / "images", tmp_path / "none", "--table", odd)
        assert (done.code, "cannot name a table" in done.err) == (1, True)
    assert list((tmp_path / "none").iterdir()) == []


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    folder = tmp_path_factory.mktemp("db")
    store = EmbeddingStore.create(str(folder), "t", spec_for(8))
    add_shard(store, "s", ["k0", "größe ≥ 1 😀"], unit_rows(2, 8))
    return folder


def run(*arguments, environment=None, **streams):
    command = [sys.executable, "-m", "indexer", *map(str, arguments)]
    return subprocess.run(command, env=os.environ | (environment or {}), stderr=subprocess.PIPE, timeout=120, **streams)


@pytest.mark.case("U4", "U12")
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16-le"])
def test_an_output_in_any_encoding_is_written_and_json_stays_json(db, encoding):
    environment = {"PYTHONIOENCODING": encoding}
    for form in ([], ["--json"]):
        done = run("search", db, "--key", "k0", *form, environment=environment, stdout=subprocess.PIPE)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    (hit,) = json.loads(done.stdout.decode(encoding))["queries"][0]["hits"]
    assert hit["key"] == "größe ≥ 1 😀"


@pytest.mark.case("U4")
def test_a_command_with_a_closed_output_ends_without_a_traceback(db):
    shell = f'"{sys.executable}" -m indexer info "{db}" >&-'
    done = subprocess.run(["sh", "-c", shell], stderr=subprocess.PIPE, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.case("U4")
@pytest.mark.parametrize("arguments", [("search", "--key"), ("delete", "--where"), ("labels", "--on")])
def test_an_argument_that_is_not_utf8_is_one_line(db, tmp_path, arguments):
    (tmp_path / "l.csv").write_text("key,a\nk0,1\n")
    command, option = arguments
    more = [tmp_path / "l.csv"] if command == "labels" else []
    done = call("indexer", command, db, *more, option, "k\udcff = '\udcff'")
    assert (done.code, done.err.count("\n")) == (1, 1)

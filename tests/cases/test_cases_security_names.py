"""Names in results, tables and lists are text: they steer no page, no plot, no terminal and no list."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from indexer.ann.goal import Goal
from indexer.cli import main
from indexer.errors import IndexFileError
from indexer.jsonable import printable
from indexer.options import emit, say
from indexer.search.index_build import build_index
from indexer.search.searcher import Searcher, SearchOptions
from indexer.store.table import EmbeddingStore
from probes.fitting.sweep import Selection
from probes.reporting import plots
from tests.commands import Tty, call
from tests.probes.cohort import make_cohort, rows_of
from tests.tables import add_shard, make_table, spec_for, unit_rows

pytestmark = pytest.mark.case("X8")
ROOT = Path(__file__).parents[2]
TRAP = "<script>steal()</script>\"'><img src=x onerror=steal()> $\\frac{1$ $"
CHOSEN = ("probe", "kind", "level", "parameter", "reason", "rule")  # fields that choose a branch or a sentence


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("names")
    db = make_cohort(folder / "db", patients=60)
    done = call("probes", "linear", db, "--label", "ill", "--group", "patient", "--subgroup", "sex",
                "--prevalence", ".1", "--out", folder / "out")  # fmt: skip
    assert done.code == 0, done.err
    return json.loads((folder / "out" / "result.json").read_text())


def trapped(value: object, field: str = "") -> object:
    """Every text of a result with a trap behind it, the names of classes and columns alike in each place."""
    if isinstance(value, dict):
        named = {"baselines", "metrics", "rates", "calibration"}  # whose names are looked up
        return {k: trapped(v, k) for k, v in value.items()} if field in named else {
            (k + TRAP if field in ("parts", "classes", "packages") else k): trapped(v, k) for k, v in value.items()
        }  # fmt: skip
    if isinstance(value, list):
        return [trapped(item, "" if isinstance(item, dict) else field) for item in value]
    return value + TRAP if isinstance(value, str) and field not in CHOSEN else value


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found, self.handlers = set(), set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.add(tag)
        self.handlers |= {name for name, _ in attrs if name.startswith("on")}


def test_no_text_of_a_handed_over_result_is_a_tag_or_a_formula(result, tmp_path):
    plain = tmp_path / "plain" / "result.json"
    plain.parent.mkdir()
    plain.write_text(json.dumps(result))
    assert call("probes", "report", plain).code == 0
    known = Tags((plain.parent / "report.html").read_text()).found
    crafted = tmp_path / "crafted" / "result.json"
    crafted.parent.mkdir()
    crafted.write_text(json.dumps(trapped(result)))
    done = call("probes", "report", crafted)
    assert done.code == 0, done.err
    page = (crafted.parent / "report.html").read_text()
    tags = Tags(page)
    assert tags.found <= known
    assert "script" not in tags.found
    assert tags.handlers == set()
    assert page.count("&lt;script&gt;") > 20


@pytest.mark.parametrize(
    ("field", "value"),
    [("source.version", TRAP), ("request.seed", TRAP), ("flow.groups", "<b>"), ("test.rows", True), ("source.table", 7),
     ("split.parts", [TRAP]), ("temperature", TRAP), ("warnings", [3])],
)  # fmt: skip
def test_a_field_of_another_type_is_one_line_that_says_so(result, tmp_path, field, value):
    crafted = json.loads(json.dumps(result))
    *above, last = field.split(".")
    inner = crafted
    for name in above:
        inner = inner[name]
    inner[last] = value
    path = tmp_path / "result.json"
    path.write_text(json.dumps(crafted))
    done = call("probes", "report", path)
    assert (done.code, done.err.count("\n")) == (1, 1), done.err
    assert "is not a probe result" in done.err
    assert not (tmp_path / "report.html").exists()


def test_a_result_nested_without_end_is_one_line(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("[" * 100_000)
    done = call("probes", "report", path)
    assert (done.code, done.err.count("\n")) == (1, 1), done.err


@pytest.mark.case("X6")
@pytest.mark.parametrize("name", ["costs $5 or $6", "$x^", "$$", r"$\frac{", "_hidden"])
def test_a_name_with_dollar_signs_is_drawn_as_it_is_written(name):
    drawn = plots.penalty_sweep(Selection(name, 1.0, "rows", False, ()), "macro AUC")
    assert f">{name}<" in drawn


@pytest.mark.case("X6")
def test_classes_with_dollar_signs_make_a_report(tmp_path):
    vectors, metadata = rows_of(patients=60)
    facts = [row | {"cost": "$10 to $20" if row["ill"] else "$x^"} for row in metadata]
    make_table(tmp_path / "db", vectors, facts)
    done = call("probes", "linear", tmp_path / "db", "--label", "cost", "--group", "patient", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "$10 to $20" in (tmp_path / "out" / "report.html").read_text()


STEERING = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202etxt.exe\x7f\ud800"


def test_what_is_printed_to_a_terminal_cannot_steer_it(monkeypatch, tmp_path):
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", spec_for(8))
    vectors = unit_rows(4, 8)
    keys = [f"k{i}{STEERING.removesuffix(chr(0xD800))}" for i in range(4)]
    add_shard(store, "s", keys, vectors, [{"note": keys[0]}] * 4)
    np.save(tmp_path / "q.npy", vectors[:1].astype(np.float32))
    query = ("search", "--vectors", tmp_path / "q.npy")
    for command, *options in (query, (*query, "--columns", "note"), (*query, "--json"), ("info",), ("failures",)):
        out, err = Tty(), Tty()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            patch.setattr(sys, "argv", ["indexer", command, store.uri, *map(str, options)])
            patch.setenv("TERM", "dumb")
            with pytest.raises(SystemExit) as done:
                main()
        shown = out.getvalue() + err.getvalue()
        assert done.value.code in (0, None), shown
        assert printable(shown) == shown, command
        assert "u001b]0;owned" in shown.replace("\n", "").replace(" ", "") or command != "search"
        if "--json" in options:
            assert json.loads(out.getvalue())["queries"][0]["hits"][0]["key"] in keys


def test_what_is_piped_elsewhere_stays_as_it_is(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    say("a\x07b")
    emit({"key": "a\x9bb"}, as_json=True)
    assert out.getvalue() == 'a\x07b\n{"key": "a\x9bb"}\n'


def test_printable_text_keeps_every_script():
    text = "née 日本語 العربية עברית हिन्दी 👩\u200d⚕️ a\u00a0b\tc\nd"
    assert printable(text) == text
    assert json.loads(f'"{printable(STEERING)}"') == STEERING


def test_every_command_prints_through_the_one_door():
    paths, wrong = [], []
    for folder in ("indexer/commands", "indexer/search/drawing", "probes/commands"):
        paths += (ROOT / folder).rglob("*.py")
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("click.echo", "print", "sys.stdout.write"):
                wrong.append(f"{path.name}:{node.lineno}")
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Text" and "answer" in ast.unparse(node):
                wrong += [] if "printable" in ast.unparse(node) else [f"{path.name}:{node.lineno}"]
    assert wrong == []


def test_a_key_with_a_line_break_shifts_no_list(tmp_path):
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", spec_for(8))
    add_shard(store, "s", ["a", "b\nc", "d"], unit_rows(3, 8))
    done = call("indexer", "export", store.uri, tmp_path / "x.npy")
    assert done.code == 1
    assert "holds a line break" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["db"]


def crafted_keys(kind: str, rows: int) -> bytes:
    """An Arrow file in place of an index's keys."""
    out = io.BytesIO()
    texts = [f"k{i}" for i in range(rows)]
    column = {
        "numbers": pa.array(range(rows)), "nested": pa.array([[t] for t in texts]),
        "two": pa.array(texts, pa.large_string()), "dictionary": pa.array(texts).dictionary_encode(),
        "nulls": pa.nulls(rows, pa.large_string()),
    }[kind]  # fmt: skip
    columns = {"key": column} | ({"more": column} if kind == "two" else {})
    batch = pa.record_batch(columns)
    with pa.ipc.new_file(out, batch.schema) as writer:
        writer.write_batch(batch)
    return out.getvalue()


@pytest.mark.parametrize("how", ["numbers", "nulls", "two", "dictionary", "nested", "offsets", "cut", "empty"])
def test_a_handed_over_list_of_keys_is_validated_in_full(tmp_path, how):
    store = make_table(tmp_path, unit_rows(60, 8))
    build_index(store, Goal(kind="exact"))
    manifest = json.loads((store.index_directory / "manifest.json").read_text())
    path = store.index_directory / manifest["files"]["keys"]["name"]
    data = path.read_bytes()
    if how in ("offsets", "cut", "empty"):
        at = data.index(np.arange(0, 6, 2, dtype=np.int64).tobytes())  # the offsets of k0, k1, k2
        wild = np.full(20, 2**40, np.int64).tobytes()
        data = {"offsets": data[:at] + wild + data[at + len(wild) :], "cut": data[: len(data) // 2], "empty": b""}[how]
    else:
        data = crafted_keys(how, 60)
    path.write_bytes(data)
    manifest["files"]["keys"] |= {"nbytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (store.index_directory / "manifest.json").write_text(json.dumps(manifest))
    searcher = Searcher(EmbeddingStore.open(store.uri))
    with pytest.raises(IndexFileError):
        searcher.by_vector(unit_rows(60, 8).astype(np.float32), SearchOptions(k=60))

"""rabitqlib's index beside FAISS's: an extra that may be missing, a file that may harm its reader, filters, blocks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from indexer.ann.engines import rabitq
from indexer.ann.engines.kinds import ENGINES
from indexer.ann.engines.protocol import Trained
from indexer.ann.goal import Goal
from indexer.ann.index import load
from indexer.ann.rowset import RowSet
from indexer.errors import IndexFileError
from indexer.search.index_build import build_index
from indexer.search.searcher import Searcher
from indexer.store.table import EmbeddingStore
from tests.cases.test_cases_security_handed import forged
from tests.commands import call
from tests.tables import keys_of, make_table, unit_rows

ENGINE = ENGINES["ivf-rabitqlib"]
ROWS = unit_rows(3000, 32).astype(np.float32)
ROWS /= np.linalg.norm(ROWS, axis=1, keepdims=True)
IDS = np.arange(3000, dtype=np.int64) * 3 + 1
QUERIES = ROWS[:20].astype(np.float64)


def indexed(step: int) -> rabitq.RabitqIndex:
    index = ENGINE.build(32, Trained(ROWS[:40].copy(), ROWS[:100]))
    ENGINE.add(index, ((IDS[s : s + step], ROWS[s : s + step]) for s in range(0, 3000, step)))
    return index


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    store = make_table(tmp_path / "db", unit_rows(500, 16))
    build_index(store, Goal(kind=ENGINE.name))
    return store


@pytest.mark.parametrize("step", [3000, 700])
def test_every_row_lies_in_the_index_once_however_it_was_added(tmp_path: Path, step: int) -> None:
    index = indexed(step)
    ENGINE.save(index, tmp_path / "i")
    for one in (index, ENGINE.load(tmp_path / "i")):
        found = ENGINE.candidates(one, QUERIES, 3000, 40)[1]
        assert (np.sort(found, axis=1) == IDS).all()


def test_an_index_that_moves_onto_huge_pages_finds_the_same(tmp_path: Path) -> None:
    """In a process of its own: one that has free memory already does not grow by the index."""
    many = np.tile(ROWS, (150, 1))  # some 10 MiB; huge pages are of 2 MiB
    index = ENGINE.build(32, Trained(ROWS[:40].copy(), ROWS[:100]))
    ENGINE.add(index, [(np.arange(len(many)), many)])
    ENGINE.save(index, tmp_path / "i")
    np.save(tmp_path / "q.npy", QUERIES)
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from indexer.ann.engines import rabitq\n"
        "moved, collapse, engine = [], rabitq.collapse, rabitq.RabitqLists()\n"
        "rabitq.SETTLED = 50\n"
        "rabitq.collapse = lambda ranges: (moved.append(sum(b - a for a, b in ranges)), collapse(ranges))\n"
        "index, queries = engine.load(Path(sys.argv[1])), np.load(sys.argv[2])\n"
        "found = [engine.candidates(index, queries, 20, 40) for _ in range(4)]\n"
        "assert index.memory == [], index.memory\n"
        "assert all((np.array(one) == np.array(found[0])).all() for one in found)\n"
        "print(*moved)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "i"), str(tmp_path / "q.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (moved,) = map(int, done.stdout.split())  # once
    assert moved > 4 << 20


def test_a_removed_row_is_found_again_only_where_it_was_added_again(tmp_path: Path) -> None:
    index = indexed(1000)
    ENGINE.remove(index, IDS[:10])
    ENGINE.add(index, [(IDS[:3], ROWS[:3])])
    ENGINE.save(index, tmp_path / "i")
    found = ENGINE.candidates(ENGINE.load(tmp_path / "i"), QUERIES, 3000, 40)[1]
    expected = np.concatenate([np.full(7, -1), IDS[:3], IDS[10:]])
    assert (np.sort(found, axis=1) == expected).all()


@pytest.mark.parametrize("allowed", [IDS[::2], IDS[1200:1400], IDS[7:8]], ids=["half", "few", "one"])
def test_under_a_filter_its_candidates_are_the_best_allowed_or_none(allowed: np.ndarray) -> None:
    index, bitmap = indexed(3000), RowSet.of([allowed]).bits
    _, everything = ENGINE.candidates(index, QUERIES, 3000, 40)
    _, found = ENGINE.candidates(index, QUERIES, 12, 40, bitmap)
    for own, all_ids in zip(found, everything, strict=True):
        best = all_ids[np.isin(all_ids, allowed)][:12]
        near = np.isin(all_ids[: rabitq.MOST_FETCHED], allowed).sum()
        assert own[own >= 0].tolist() == (best.tolist() if near >= 12 else [])


@pytest.mark.parametrize("change", [
    lambda data: data[:100],
    lambda data: data[: len(data) // 2] + data[len(data) // 2 + 8 :],
    lambda data: data[:8] + b"\xff" * 8 + data[16:],
    lambda data: data[:24] + b"\xff" * 7 + b"\x0f" + data[32:],
    lambda data: data[:-24] + (10**12).to_bytes(8, "little") + data[-16:],
    lambda _: b"",
])  # fmt: skip
def test_a_file_with_a_right_hash_and_another_content_is_refused_in_one_line(store: EmbeddingStore, change) -> None:
    forged(store.index_directory, lambda path: path.write_bytes(change(path.read_bytes())))
    with pytest.raises(IndexFileError, match="cannot be loaded") as error:
        load(store.index_directory)
    assert "build-ann" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_of_another_tables_index_is_refused(store: EmbeddingStore, tmp_path: Path) -> None:
    other = make_table(tmp_path / "other", unit_rows(300, 16))
    build_index(other, Goal(kind=ENGINE.name))
    data = (other.index_directory / "index.faiss").read_bytes()
    forged(store.index_directory, lambda path: path.write_bytes(data))
    with pytest.raises(IndexFileError, match="300 entries of 16 numbers in 17 lists, not 500"):
        load(store.index_directory)


def test_a_file_that_kills_its_reader_kills_a_child_process_only(store: EmbeddingStore, monkeypatch) -> None:
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"]
    monkeypatch.setattr(rabitq, "python_command", lambda *_: killed)
    monkeypatch.setattr(rabitq, "loaded", None)  # never called
    with pytest.raises(IndexFileError, match="a trial load ended with -11"):
        load(store.index_directory)


def test_without_the_package_other_kinds_are_built_and_its_index_is_one_line(
    store: EmbeddingStore, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "rabitqlib", None)
    for command in (("search", store.uri, "--key", "k0"), ("build-ann", store.uri, "--kind", ENGINE.name)):
        done = call("indexer", *command)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1), done.err
        assert "pip install 'embedding-indexer[rabitq]'" in done.err
    report = build_index(store, Goal(latency_ms=1e-3))  # nothing meets it: every kind that is here is measured
    assert ENGINE.name not in {candidate.kind for candidate in report.candidates}
    assert keys_of(Searcher(store).by_key(["k0"])[0])

"""Hits on a terminal: readable at any width, and nothing left out in silence."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from indexer.cli import main
from tests.commands import Tty
from tests.tables import make_table, unit_rows

NAMES = [f"measure_{i:02d}" for i in range(20)]


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    make_table(folder / "db", unit_rows(6, 8), [{name: i + n / 3 for n, name in enumerate(NAMES)} for i in range(6)])
    return folder / "db"


def shown(monkeypatch: pytest.MonkeyPatch, db: Path, width: int, *options: str) -> list[str]:
    """The lines that a terminal of `width` letters gets."""
    out = Tty()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "argv", ["indexer", "search", str(db), "--key", "k0", *options])
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit) as done:
            main()
    assert done.value.code in (0, None)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()


@pytest.mark.parametrize("width", [40, 80, 120])
def test_each_hit_is_one_line_and_columns_without_room_are_named(monkeypatch, db, width):
    lines = shown(monkeypatch, db, width)
    assert max(map(len, lines)) <= width
    hits = [line.split() for line in lines if line.strip()[:1].isdigit()]
    heads = lines[1].split()
    assert [hit[0] for hit in hits] == ["1", "2", "3", "4", "5"]
    assert heads[:3] == ["rank", "cosine", "key"]
    assert heads[3:] == NAMES[: len(heads) - 3]
    for hit in hits:
        number = int(hit[2].removeprefix("k"))
        assert [float(value) for value in hit[3:]] == pytest.approx(
            [number + n / 3 for n in range(len(heads) - 3)], rel=1e-5
        )
    said = " ".join(" ".join(lines[7:]).split())
    left = NAMES[len(heads) - 3 :]
    assert f"no room here for {', '.join(left[:6])} and {len(left) - 6} more: --columns A,B chooses" in said


def test_a_wide_terminal_has_all_columns_and_chosen_ones_are_all_shown(monkeypatch, db):
    wide = shown(monkeypatch, db, 400)
    assert wide[1].split() == ["rank", "cosine", "key", *NAMES]
    chosen = "\n".join(shown(monkeypatch, db, 60, "--columns", "measure_19,measure_03,measure_04,measure_05"))
    assert "no room" not in chosen
    assert [chosen.count(f"{number + 19 / 3:.6g}") for number in range(1, 6)] == [1] * 5

"""The measurements of benchmarks/scale.py: what counts as memory, and when a command is over its budget."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.scale import TIMES, Peak, Run, growth
from benchmarks.scale_cases import CASES, DATA, Case

CHILD = """
import mmap, sys
print("ready", flush=True)
sys.stdin.readline()
held = bytearray(40 << 20)
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    total = sum(mapped[::4096])
print("done", flush=True)
sys.stdin.readline()
"""


def test_memory_is_what_the_process_holds_and_not_the_files_that_it_maps(tmp_path: Path):
    (tmp_path / "mapped").write_bytes(bytes(100 << 20))
    words = [sys.executable, "-c", CHILD, str(tmp_path / "mapped")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        child.stdout.readline()
        peak = Peak(child.pid)
        child.stdin.write("go\n")
        child.stdin.flush()
        child.stdout.readline()
        nbytes = peak.stop()
        child.stdin.close()
    assert 40 << 20 <= nbytes < 60 << 20


@pytest.mark.parametrize(
    ("bytes_a_row", "constant", "power", "over"),
    [(0, 50 << 20, 1.0, []), (15, 90 << 20, 1.0, []), (60, 0, 1.0, ["bytes a row"]), (0, 0, 2.0, ["time grows"]),
     (400, 1 << 20, 1.6, ["bytes a row", "time grows"])],
)  # fmt: skip
def test_a_command_is_over_its_budget_by_its_slope_and_not_by_its_constant(bytes_a_row, constant, power, over):
    case = Case("case", "rows", print, 16)
    base, warm = DATA["rows"].base, DATA["rows"].warm
    runs = [
        [Run(n, constant + bytes_a_row * n, 1e-5 * (n - warm) ** power, 1.0)] for n in (base * times for times in TIMES)
    ]
    found = growth(case, runs)
    assert found.bytes_a_row == pytest.approx(bytes_a_row)
    assert found.exponent == pytest.approx(power)
    assert len(found.over) == len(over)
    assert all(words in line for words, line in zip(over, found.over, strict=True))


def test_each_case_has_a_name_of_its_own_and_data_to_run_on():
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.data for case in CASES} == set(DATA)

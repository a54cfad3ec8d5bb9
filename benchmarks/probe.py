"""`probes linear` and `probes knn` on a written table, against the script one would otherwise write, in one run.

Ours is the two commands as a user calls them, each a process of its own with everything it does by default: split,
audit, sweep, final fit, every metric with its interval, calibration, operating points. The first call is cold (it reads
the table and makes the memory-mapped copy of the vectors), the second finds the copy; the linear probe is then run
again, warm. The script (`probe_script.py`) does what the goal names: LogisticRegressionCV over the C values that our
sweep tried and on the same split, KNeighborsClassifier for every k, and one loop of 2,000 roc_auc_score. Seconds are of
the whole process for both sides; memory is the largest resident set, of which the interpreter with its imported
libraries is taken off; the matrix is n · dim · 4 bytes.

At a million rows the script's neighbours would take hours. There they are measured on fewer test rows, its bootstrap on
fewer replicates, and both scaled in proportion; `extrapolated` in the result says by how much, and how well two counts
agree with the rule. The AUC of the script's neighbours is then unknown.

The AUC of our neighbours is the one at the chosen k, before the temperature, which the script has not.

Goals: 5 times faster in total, AUC equal to 1e-3, memory at most 3 times the matrix.
Predicted before the first whole run, 2 cores: 100,000 × 512 with 10 classes: 10 times faster, AUC within 1e-4, memory
2.5; 1,000,000 × 512 with two: 10 times faster, within 1e-4, memory 2.0.
Came on 2 quiet cores: 12.4 times (10.1 by processor seconds), AUC within 4.8e-4, memory 2.5; at a million 20.7 times
(nearly all of it the neighbours, extrapolated), within 1e-5, memory 2.2. There the linear probe's 134 s are 110 s of
duplicate audit, which the script has not; its fit is 43 s, ours 11 s.
Since every candidate of the sweep converges (results/probe-100000.json): 10.4 times at 100,000 (11.0 by processor
seconds), AUC within 4.4e-5, memory 2.6. A million was not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.probe_data import TABLE, fill
from benchmarks.provenance import write

RESULTS = Path(__file__).parent / "results" / "probe.json"
GOALS = {"speedup_over_script": 5.0, "auc_difference": 1e-3, "peak_over_matrix": 3.0}
SIZES = ((100_000, 512, 10), (1_000_000, 512, 2))
WHOLE_BELOW = 400_000  # rows up to which the script is measured whole
QUERIES, REPLICATES = (256, 512), (10, 20)  # counts at which its parts are measured above that
ALL_REPLICATES = 2000
IMPORTS = "import probes.runs.run, scipy.optimize, sklearn.linear_model, sklearn.metrics"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="one size alone; default: both sizes of the goal")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--extrapolate", action="store_true", help="measure the script's slow parts in part anyway")
    parser.add_argument("--folder", type=Path, help="where the tables are made; default: a temporary one")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    args = parser.parse_args()
    sizes = SIZES if args.rows is None else ((args.rows, args.dim, args.classes),)
    runs = json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else {}
    for rows, dim, classes in sizes:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            whole = rows <= WHOLE_BELOW and not args.extrapolate
            runs[f"{rows}x{dim}x{classes}"] = measure(Path(folder) / "db", (rows, dim, classes), whole=whole)
            result = worst(runs)
            result = write(RESULTS, result)
    print(json.dumps(result) if args.json else table(result))


def worst(runs: dict[str, Any]) -> dict[str, Any]:
    """The headline figures: of the goal's sizes that were run the worst; of other sizes if none of them was."""
    named = {"x".join(map(str, size)) for size in SIZES}
    counted = [run for name, run in runs.items() if name in named] or list(runs.values())
    return {
        "speedup_over_script": min(r["speedup_over_script"] for r in counted),
        "auc_difference": max(r["auc_difference"] for r in counted),
        "peak_over_matrix": max(r["peak_over_matrix"] for r in counted),
        "goals": GOALS,
        "runs": runs,
    }


def measure(db: Path, size: tuple[int, int, int], *, whole: bool) -> dict[str, Any]:
    rows, dim, classes = size
    fill(db, rows, dim, classes)
    nothing = spawn([sys.executable, "-c", IMPORTS])[1]
    ours = {name: probe(db, name.split()[0]) for name in ("linear cold", "knn warm", "linear warm")}
    linear, knn = ours["linear cold"], ours["knn warm"]
    grid = [c["value"] for c in linear["selection"]["candidates"]]
    counts = ([0], [ALL_REPLICATES]) if whole else (list(QUERIES), list(REPLICATES))
    printed, cost = spawn([sys.executable, "-m", "benchmarks.probe_script", str(db), json.dumps([grid, *counts])])
    script = json.loads(printed.splitlines()[-1])
    script = {"parts": script.pop("seconds"), **script, **cost}
    total, extrapolated = script_seconds(script, whole=whole)
    differences = [abs(linear["auc"] - script["linear_auc"])]
    differences += [abs(knn["auc_at_k"] - script["knn_auc"])] if whole else []
    matrix = rows * dim * 4
    peaks = {
        name: max(run["peak_bytes"] for run in ours.values() if run["probe"] == name) for name in ("linear", "knn")
    }
    above = {name: (peak - nothing["peak_bytes"]) / matrix for name, peak in peaks.items()}
    return {
        "speedup_over_script": total / (linear["seconds"] + knn["seconds"]),
        "cpu_speedup_over_script": script["cpu_seconds"] / (linear["cpu_seconds"] + knn["cpu_seconds"])
        if whole
        else None,
        "auc_difference": max(differences),
        "peak_over_matrix": max(above.values()),
        "peak_over_matrix_with_imports": max(peaks.values()) / matrix,
        "script_peak_over_matrix": (script["peak_bytes"] - nothing["peak_bytes"]) / matrix,
        "matrix_bytes": matrix,
        "imports_bytes": nothing["peak_bytes"],
        "script_seconds": total,
        "extrapolated": extrapolated,
        "ours": ours,
        "script": script,
        "made": time.strftime("%Y-%m-%d"),
    }


def probe(db: Path, name: str) -> dict[str, Any]:
    """One command as a user calls it."""
    command = [sys.executable, "-m", "probes", name, str(db), "--table", TABLE, "--label", "label"]
    printed, cost = spawn([*command, "--group", "patient", "--json"])
    answer = json.loads(printed)
    result = answer.get("result", answer)
    chosen = {n["k"]: n["auc_macro"] for n in result["neighbours"]}.get(int(result["selection"]["value"]))
    return {
        "probe": name,
        **cost,
        "auc_at_k": chosen,
        "stages": result["seconds"],
        "auc": result["test"]["metrics"]["auc_macro"]["value"],
        "interval": result["test"]["metrics"]["auc_macro"],
        "selection": result["selection"],
        "converged": result["converged"],
    }


# the kernel carries a process's largest resident set over to what it starts: a small one stands between
BETWEEN = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""


def spawn(command: list[str]) -> tuple[str, dict[str, Any]]:
    """What it printed, its seconds and its largest resident set, that of this one process."""
    start = time.perf_counter()
    peak = Path(tempfile.mkdtemp()) / "peak"
    between = [sys.executable, "-S", "-c", BETWEEN, str(peak), *command]
    with subprocess.Popen(between, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None:
            sys.exit("no pipe")
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    seconds = time.perf_counter() - start
    peak_bytes = int(peak.read_text()) * 1024
    shutil.rmtree(peak.parent)
    cost = {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_bytes": peak_bytes}
    return printed, cost


def script_seconds(script: dict[str, Any], *, whole: bool) -> tuple[float, dict[str, Any] | None]:
    """Of the whole script. Where parts were cut: each in proportion to its count, from the larger of the two counts.

    The test rows stand for the val rows too, whose neighbours are sought among the train rows alone.
    """
    if whole:
        return script["seconds"], None
    seconds, rows = script["parts"], script["rows"]
    fitted = rows["train"] + rows["val"]
    in_test_rows = rows["test"] + rows["val"] * rows["train"] / fitted
    scaled, checks = {}, {}
    for part, counts, full in (("knn", QUERIES, in_test_rows), ("bootstrap", REPLICATES, ALL_REPLICATES)):
        small, large = (seconds[f"{part} {count}"] for count in counts)
        scaled[part] = large * full / counts[1]
        checks[part] = (large / counts[1]) / (small / counts[0])  # 1 where the rule holds
    measured = sum(
        seconds[f"{part} {n}"] for part, counts in (("knn", QUERIES), ("bootstrap", REPLICATES)) for n in counts
    )
    total = script["seconds"] - measured + sum(scaled.values())
    rule = "neighbours in proportion to the test rows (val rows counted by their smaller base), bootstrap to replicates"
    return total, {"rule": rule, "counts": {"knn": QUERIES, "bootstrap": REPLICATES},
                   "seconds": scaled, "cost_of_one_large_over_small": checks}  # fmt: skip


def table(result: dict[str, Any]) -> str:
    lines = [f"{'rows x dim x classes':<22}{'speed-up':>10}{'AUC diff':>12}{'memory':>9}{'ours s':>9}{'script s':>10}"]
    for name, run in result["runs"].items():
        ours = run["ours"]["linear cold"]["seconds"] + run["ours"]["knn warm"]["seconds"]
        about = "~" if run["extrapolated"] else " "
        lines.append(
            f"{name:<22}{run['speedup_over_script']:>10.1f}{run['auc_difference']:>12.1e}"
            f"{run['peak_over_matrix']:>9.2f}{ours:>9.1f}{about}{run['script_seconds']:>9.1f}"
        )
    goal = result["goals"]
    lines.append(
        f"{'goal':<22}{goal['speedup_over_script']:>10.1f}{goal['auc_difference']:>12.1e}{goal['peak_over_matrix']:>9.2f}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""What int8 gives on this CPU beside bf16: `python -m benchmarks.throughput --precision int8`.

Each encoder is calibrated by `indexer index --precision int8` on real pictures, of which the other half says how far
its vectors are from fp32 ones; a linear probe on each number format says what that changes in an AUC. Then whole runs
in bf16 and int8 and the script that a user would write (open_clip: ViT-B/32 alone) take turns, each in a process of its
own, on the brain slices, each several times. Calibration is not part of their time. Weights other than the bundled
encoder's are random: neither speed nor rounding waits for what a network has learnt.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.labelled import Labelled, brain, macro_auc
from benchmarks.provenance import provenance, write
from benchmarks.shards import write_shards
from benchmarks.stages import Settings
from benchmarks.throughput import NAIVE_GOAL, naive, stage

RETENTION, COSINE, AUC = 0.95, 0.99, 0.005  # goals of all encoders
FORMATS = ("int8", "bf16", "fp32")
SHARD = 100  # images


@dataclass(frozen=True)
class Case:
    """An encoder and the goal of its rate in int8 over that in bf16."""

    encoder: str
    weights: str | None
    over_bf16: float


CASES = (
    Case("efficientnet-lite0", None, 1.4),
    Case("torchvision:resnet50", "random", 1.7),
    Case("open_clip:ViT-B-32", "random", 1.6),
)


def compare(images: int, rounds: int, encoders: Sequence[str], out: Path) -> dict[str, Any]:
    """The cases of these encoders; written to `out`, where results of other encoders stay."""
    found = json.loads(out.read_text())["encoders"] if out.is_file() else {}
    with tempfile.TemporaryDirectory() as scratch:
        slices = brain()
        folder = Path(scratch) / "many"
        files = (slices.files * -(-images // len(slices.files)))[:images]
        write_shards(folder, files, slices.suffix, each=SHARD)
        for case in CASES:
            if case.encoder in encoders:
                found[case.encoder] = measured(case, slices, folder, Path(scratch), rounds)
    result: dict[str, Any] = {
        "encoders": found,
        "missed": [f"{name}: {words}" for name, one in found.items() for words in one["missed"]],
    }
    return write(out, result)


def measured(case: Case, slices: Labelled, folder: Path, scratch: Path, rounds: int) -> dict[str, Any]:
    """Calibration, agreement and AUC on the slices; rates on `folder`."""
    database = scratch / case.encoder.replace(":", "-")
    try:
        seconds = tables(case, database, slices)
    except RuntimeError as refusal:
        return {"missed": [f"refused: {refusal}"], "case": asdict(case)}
    (report,) = database.glob("int8.int8/*/calibration.json")
    facts = json.loads(report.read_text())
    bf16 = Settings(case.encoder, case.weights)
    int8 = replace(bf16, precision="int8", database=str(database), table="int8")
    taken: list[dict[str, dict[str, Any]]] = []
    for _ in range(rounds):
        rates = {one.precision: stage("end-to-end", folder, one) for one in (bf16, int8)}
        if case.encoder.startswith("open_clip:"):
            rates["script"] = naive(folder, case.encoder.removeprefix("open_clip:"))
        taken.append(rates)
    agreement = facts["agreement_with_fp32"]
    got: dict[str, Any] = {
        "over_bf16": ratio(taken, "int8", "bf16"),
        **({"over_naive_script": ratio(taken, "int8", "script")} if "script" in taken[0] else {}),
        "median_cosine": agreement["median_cosine"],
        "lowest_cosine": agreement["lowest_cosine"],
        "retention_at_10": agreement["retention"],
        "agreement_on": agreement["images"],
        "auc_of_levels": {name: macro_auc(database, name, slices.labels) for name in FORMATS},
        "layers_in_int8": facts["layers_in_int8"],
        "layers": facts["layers"],
        "seconds_of_first_runs": seconds,  # of int8 with its calibration
        "images": taken[0]["int8"]["images"],
        "images_per_second": each(taken, "images_per_second"),
        "cpu_ms_per_image": {name: 1e3 * s for name, s in each(taken, "cpu_seconds_per_image").items()},
        "rounds": [{name: one["images_per_second"] for name, one in r.items()} for r in taken],
        **provenance(),  # of each encoder, since they may be measured in runs of their own
    }
    return {**got, "missed": missed(case, got), "case": asdict(case)}


def tables(case: Case, database: Path, images: Labelled) -> dict[str, float]:
    """A table in each number format, named by it; seconds of each run. Raises RuntimeError where int8 refuses."""
    folder = database.parent / f"{database.name}-images"
    write_shards(folder, images.files, images.suffix, each=SHARD)
    seconds = {}
    for precision in FORMATS:
        words = ["index", folder, database, "--encoder", case.encoder, "--precision", precision, "--table", precision]
        words += ["--weights", case.weights] if case.weights else []
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "indexer", *map(str, words)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        seconds[precision] = time.perf_counter() - started
    return seconds


def missed(case: Case, got: dict[str, Any]) -> list[str]:
    """The goals that this run did not reach."""
    goals = {"over_bf16": case.over_bf16, "retention_at_10": RETENTION, "median_cosine": COSINE}
    if "over_naive_script" in got:
        goals["over_naive_script"] = NAIVE_GOAL
    below = [f"{name} {got[name]:.3f} < {goal}" for name, goal in goals.items() if got[name] < goal]
    areas = got["auc_of_levels"]
    return below + (
        [f"AUC {areas['int8']:.4f}, {areas['fp32']:.4f} by fp32"] if areas["fp32"] - areas["int8"] > AUC else []
    )


def each(taken: Sequence[dict[str, dict[str, Any]]], field: str) -> dict[str, float]:
    """The median of a field for each kind of run."""
    return {name: statistics.median(r[name][field] for r in taken) for name in taken[0]}


def ratio(taken: Sequence[dict[str, dict[str, Any]]], one: str, other: str) -> float:
    return statistics.median(r[one]["images_per_second"] / r[other]["images_per_second"] for r in taken)


def table(result: dict[str, Any]) -> str:
    names = ("over_bf16", "over_naive_script", "median_cosine", "retention_at_10")
    lines = [f"{'':24}" + "".join(f"{name:>19}" for name in names)]
    for encoder, one in result["encoders"].items():
        lines.append(f"{encoder:24}" + "".join(f"{one[n]:19.4f}" if n in one else f"{'':>19}" for n in names))
    lines += [f"goal missed: {words}" for words in result["missed"]] or ["every goal is met"]
    return "\n".join(lines)

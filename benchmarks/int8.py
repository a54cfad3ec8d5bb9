"""What int8 gives on this CPU beside bf16: `python -m benchmarks.throughput --precision int8`.

Each encoder is calibrated by `indexer index --precision int8` on a folder of pictures (pieces of real photographs),
whose other half says how far its vectors are from fp32 ones. Then whole runs in bf16 and int8 take turns, each in a
process of its own; calibration is not part of their time. The script that a user would write embeds by open_clip, so
only ViT-B/32 is compared with it. Weights other than the bundled encoder's are random.
"""

from __future__ import annotations

import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import simplejpeg

from benchmarks.photographs import mosaic
from benchmarks.stages import Settings
from benchmarks.throughput import NAIVE_GOAL, RESULTS, machine, naive, stage

SIDE, QUALITY, SHARD = 512, 85, 100
RETENTION, COSINE = 0.95, 0.99  # goals of all encoders


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


def compare(images: int, rounds: int) -> dict[str, Any]:
    """Every case; written to results/int8.json."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "shards"
        pictures(folder, images)
        found = {case.encoder: measured(case, folder, Path(scratch), rounds) for case in CASES}
    result: dict[str, Any] = {
        "images": images, "side": SIDE, "rounds": rounds, "encoders": found,
        "missed": [f"{name}: {words}" for name, one in found.items() for words in one["missed"]],
        "machine": machine("cpu"),
        "versions": {name: version(name) for name in ("embedding-indexer", "torch", "openvino", "nncf")},
    }  # fmt: skip
    (RESULTS / "int8.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def pictures(folder: Path, images: int) -> None:
    """WebDataset shards of JPEG mosaics of photographs."""
    folder.mkdir()
    for start in range(0, images, SHARD):
        with tarfile.open(folder / f"{start:06d}.tar", "w") as archive:
            for i in range(start, min(start + SHARD, images)):
                data = simplejpeg.encode_jpeg(mosaic(SIDE, seed=i), QUALITY, "RGB", "420")
                header = tarfile.TarInfo(f"{i:06d}.jpg")
                header.size = len(data)
                archive.addfile(header, io.BytesIO(data))


def measured(case: Case, folder: Path, scratch: Path, rounds: int) -> dict[str, Any]:
    database = scratch / case.encoder.replace(":", "-")
    words = ["index", folder, database, "--encoder", case.encoder, "--precision", "int8", "--table", "t"]
    words += ["--weights", case.weights] if case.weights else []
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "indexer", *map(str, words)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    if done.returncode:
        refusal = done.stderr.strip().splitlines()[-1]
        return {"refused": refusal, "first_run_seconds": seconds, "missed": [f"refused: {refusal}"]}
    (report,) = database.glob("t.int8/*/calibration.json")
    facts = json.loads(report.read_text())
    bf16 = Settings(case.encoder, case.weights)
    int8 = replace(bf16, precision="int8", database=str(database))
    taken: list[dict[str, float]] = []
    for _ in range(rounds):
        rates = {one.precision: stage("end-to-end", folder, one)["images_per_second"] for one in (bf16, int8)}
        if case.encoder.startswith("open_clip:"):
            rates["script"] = naive(folder, case.encoder.removeprefix("open_clip:"))["images_per_second"]
        taken.append(rates)
    agreement = facts["agreement_with_fp32"]
    got: dict[str, Any] = {
        "over_bf16": statistics.median(r["int8"] / r["bf16"] for r in taken),
        "median_cosine": agreement["median_cosine"],
        "lowest_cosine": agreement["lowest_cosine"],
        "retention_at_10": agreement["retention"],
        "measured_on": agreement["images"],
        "layers_in_int8": facts["layers_in_int8"],
        "layers": facts["layers"],
        "first_run_seconds": seconds,  # calibration, and the embedding of all images once
        "images_per_second": {name: statistics.median(r[name] for r in taken) for name in taken[0]},
        "rounds": taken,
    }
    goals = {"over_bf16": case.over_bf16, "retention_at_10": RETENTION, "median_cosine": COSINE}
    if "script" in taken[0]:
        got["over_naive_script"] = statistics.median(r["int8"] / r["script"] for r in taken)
        goals["over_naive_script"] = NAIVE_GOAL
    missed = [f"{name} {got[name]:.3f} < {goal}" for name, goal in goals.items() if got[name] < goal]
    return {**got, "goals": goals, "missed": missed, "case": asdict(case)}


def table(result: dict[str, Any]) -> str:
    names = ("over_bf16", "over_naive_script", "median_cosine", "retention_at_10")
    lines = [f"{'':24}" + "".join(f"{name:>19}" for name in names)]
    for encoder, one in result["encoders"].items():
        lines.append(f"{encoder:24}" + "".join(f"{one[n]:19.4f}" if n in one else f"{'':>19}" for n in names))
    lines += [f"goal missed: {words}" for words in result["missed"]] or ["every goal is met"]
    return "\n".join(lines)

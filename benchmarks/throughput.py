"""Images a second: decoding alone, the model alone, both together, and the script a user would otherwise write.

All in one run, taking turns, so that a busy machine slows all of them. Goals: end to end at 0.95 of the ceiling on a
CPU and 0.9 with a GPU, 2.5 times the script, 1.5 GiB above the loaded model whatever the archive's size.

On a CPU as many multiplications as the model's are also measured alone, by the library's fastest product. Over the
script's rate (`most_over_naive_script`) they say about how far any code could come with this network in this number
format, were pictures decoded for nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.provenance import RESULTS, write
from benchmarks.stages import Settings
from benchmarks.synthetic import shards

VIT = "open_clip:ViT-B-32"
CEILING_GOALS = {"cpu": 0.95, "gpu": 0.9}
NAIVE_GOAL = 2.5  # on a CPU
MEMORY_GOAL = 1.5 * 2**30
RATIOS = (  # of images a second within a round
    ("over_naive_script", "end-to-end", "naive"),
    ("over_peer", "end-to-end", "peer"),
    ("model_over_products", "model", "products"),
    ("most_over_naive_script", "products", "naive"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="of decoding alone and the model alone, each round")
    parser.add_argument("--encoder", help=f"default: {VIT}, and with --precision int8 three of them")
    parser.add_argument("--weights", default="random", help="speed does not depend on what the weights are")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("bf16", "int8"), default="bf16", help="int8: benchmarks.int8 instead")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--ten-times", action="store_true", help="also ten times the images, for the memory")
    parser.add_argument("--archive", type=Path, help="where the synthetic shards are kept between runs")
    parser.add_argument(
        "--peer", nargs="?", const=sys.executable, metavar="PYTHON",
        help="also clip-retrieval, installed for this interpreter (its pins are older than ours)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="default: in benchmarks/results")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    args = parser.parse_args()
    if args.precision == "int8":
        from benchmarks.int8 import CASES, compare
        from benchmarks.int8 import table as int8_table

        known = [case.encoder for case in CASES]
        if args.encoder and args.encoder not in known:
            parser.error(f"--precision int8 has goals for {', '.join(known)}")
        encoders = [args.encoder] if args.encoder else known
        compared = compare(args.images, args.rounds, encoders, args.out or RESULTS / "throughput-int8.json")
        print(json.dumps(compared) if args.json else int8_table(compared))
        return 1 if compared["missed"] else 0
    settings = Settings(
        args.encoder or VIT, args.weights, device=args.device, compiled=not args.no_compile, seconds=args.seconds
    )
    peer = args.peer if args.peer and has_peer(args.peer) else None
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.archive or Path(scratch)
        shards(folder / "once", args.images)
        result = measure(folder / "once", settings, args.rounds, peer)
        checked = replace(settings, check=True)  # as `indexer index` does it
        result["checked"] = stage("end-to-end", folder / "once", checked)
        if args.ten_times:
            shards(folder / "ten", 10 * args.images, seed=1)
            result["ten_times"] = stage("end-to-end", folder / "ten", checked)
    result["peak_rss_bytes"] = max(result["peak_rss_bytes"], result["checked"]["peak_rss_bytes"])
    result["missed"] = missed(result)
    result = write(args.out or RESULTS / "throughput.json", result, args.device)
    print(json.dumps(result) if args.json else table(result))
    return 1 if result["missed"] else 0


def has_peer(python: str) -> bool:
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('clip_retrieval') is None)"
    found = subprocess.run([python, "-c", code], check=False).returncode == 0
    if not found:
        print(f"clip-retrieval is not installed for {python}: --peer is left out", file=sys.stderr)
    return found


def missed(result: dict[str, Any]) -> list[str]:
    """The goals that this run did not reach."""
    device = result["rounds"][0]["model"]["device"]
    goals = {
        "end_to_end_over_ceiling": CEILING_GOALS["cpu" if device == "cpu" else "gpu"],
        "over_naive_script": NAIVE_GOAL if device == "cpu" else 0.0,
    }
    below = [f"{name} {result[name]:.3f} < {goal}" for name, goal in goals.items() if result.get(name, goal) < goal]
    for name, above in memory_above(result):
        if above > MEMORY_GOAL:
            below.append(f"{name} {above / 2**30:.2f} GiB > {MEMORY_GOAL / 2**30}")
    return below


def memory_above(result: dict[str, Any]) -> list[tuple[str, int]]:
    """Peak memory above the loaded model: at the archive's size, and at ten times of it."""
    runs = [("memory above model", result["checked"]), ("  at ten times", result.get("ten_times"))]
    return [(name, run["peak_rss_bytes"] - run["loaded_rss_bytes"]) for name, run in runs if run]


def measure(folder: Path, settings: Settings, rounds: int, peer: str | None = None) -> dict[str, Any]:
    """Each stage `rounds` times, taking turns; medians, and the ratios within each round."""
    taken: list[dict[str, dict[str, Any]]] = []
    for _ in range(rounds):
        got = {name: stage(name, folder, settings) for name in ("decode", "model", "end-to-end")}
        if got["model"]["device"] == "cpu":
            got["products"] = stage("products", folder, settings)
        if settings.encoder.startswith("open_clip:"):
            got["naive"] = naive(folder, settings.encoder.removeprefix("open_clip:"))
            if peer:
                got["peer"] = by_peer(peer, folder, settings.encoder.removeprefix("open_clip:"))
        taken.append(got)
    device = taken[0]["model"]["device"]
    ceilings = [ceiling(r["decode"]["images_per_second"], r["model"]["images_per_second"], device) for r in taken]
    whole = [r["end-to-end"] for r in taken]
    result: dict[str, Any] = {
        "end_to_end_over_ceiling": statistics.median(
            w["images_per_second"] / c for w, c in zip(whole, ceilings, strict=True)
        ),
        "peak_rss_bytes": max(w["peak_rss_bytes"] for w in whole),
        "loaded_rss_bytes": max(w["loaded_rss_bytes"] for w in whole),
        "model_bytes": whole[0]["model_bytes"],
        "decode_images_per_second": _median(taken, "decode"),
        "model_images_per_second": _median(taken, "model"),
        "ceiling_images_per_second": statistics.median(ceilings),
        "end_to_end_images_per_second": _median(taken, "end-to-end"),
        "cpu_seconds_per_image": {
            name: _median(taken, name, "cpu_seconds_per_image") for name in taken[0] if name != "peer"
        },
        "busy_share": whole[-1]["busy_share"],
        "bottleneck": whole[-1]["bottleneck"],
        "images": whole[0]["images"],
        "rounds": taken,
        "settings": asdict(settings),
    }
    for name in ("naive", "products", "peer"):
        if name in taken[0]:
            result[f"{name}_images_per_second"] = _median(taken, name)
    for name, one, other in RATIOS:
        if one in taken[0] and other in taken[0]:
            result[name] = _ratio(taken, one, other)
    return result


def ceiling(decode: float, model: float, device: str) -> float:
    """On a CPU both stages share the cores: cores / (d + m) = 1 / (1/decode + 1/model). A GPU has its own."""
    return 1 / (1 / decode + 1 / model) if device == "cpu" else min(decode, model)


def stage(name: str, folder: Path, settings: Settings) -> dict[str, Any]:
    return _run("benchmarks.stages", name, str(folder), json.dumps(asdict(settings)))


def naive(folder: Path, model: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as out:
        got = _run("benchmarks.naive", str(folder), model, out)
    return got | {"images_per_second": got["images"] / got["seconds"]}


def by_peer(python: str, folder: Path, model: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as out:
        return _printed([python, str(Path(__file__).parent / "peer.py"), str(folder), model, out])


def _run(module: str, *arguments: str) -> dict[str, Any]:
    return _printed([sys.executable, "-m", module, *arguments])


def _printed(command: list[str]) -> dict[str, Any]:
    """The JSON on the last line that a process prints."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed")
    got: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return got


def _median(taken: list[dict[str, dict[str, Any]]], name: str, field: str = "images_per_second") -> float:
    return statistics.median(r[name][field] for r in taken)


def _ratio(taken: list[dict[str, dict[str, Any]]], one: str, other: str) -> float:
    return statistics.median(r[one]["images_per_second"] / r[other]["images_per_second"] for r in taken)


def table(result: dict[str, Any]) -> str:
    lines = [
        f"decoding alone   {result['decode_images_per_second']:8.1f} images/s",
        f"model alone      {result['model_images_per_second']:8.1f}",
        f"ceiling          {result['ceiling_images_per_second']:8.1f}",
        f"end to end       {result['end_to_end_images_per_second']:8.1f}   {result['bottleneck']}",
        f"  over ceiling   {result['end_to_end_over_ceiling']:8.3f}   ",
    ]
    if "products_images_per_second" in result:
        lines += [
            f"products alone   {result['products_images_per_second']:8.1f}",
            f"  model over it  {result['model_over_products']:8.3f}",
        ]
    if "over_naive_script" in result:
        lines += [
            f"script           {result['naive_images_per_second']:8.1f}",
            f"  over script    {result['over_naive_script']:8.2f}",
        ]
    if "most_over_naive_script" in result:
        lines.append(f"  at the most    {result['most_over_naive_script']:8.2f}   with products alone")
    if "over_peer" in result:
        lines += [
            f"clip-retrieval   {result['peer_images_per_second']:8.1f}",
            f"  over it        {result['over_peer']:8.2f}",
        ]
    lines += [f"{name:<18} {nbytes / 2**30:6.2f} GiB" for name, nbytes in memory_above(result)]
    lines += [f"goal missed: {words}" for words in result["missed"]] or ["every goal is met"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

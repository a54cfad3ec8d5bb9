"""The table of README's section "Measured", from the files under benchmarks/results: `python -m benchmarks.summary`.

A test holds README to it, so that no figure there is typed by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.provenance import RESULTS
from benchmarks.throughput import CEILING_GOALS, NAIVE_GOAL

Result = Mapping[str, Any]
GPU = "gpu-nvidia-h100-80gb-hbm3"  # whose file is in README


@dataclass(frozen=True)
class Line:
    what: str
    file: str  # under benchmarks/results, without .json; a line whose file is not there is left out
    figure: Callable[[Result], str]
    beside: str
    goal: str
    met: Callable[[Result], bool]


def _search(what: str, file: str, most_ms: float) -> Line:
    def met(result: Result) -> bool:
        own, times = _index(result, "ours"), result["qps_over_best_native"]
        return bool(own["p50_ms"] <= most_ms and own["recall_at_10"] >= 0.98 and (times is None or times >= 10))

    return Line(
        f"one query, {what}",
        file,
        lambda r: f"{_index(r, 'ours')['p50_ms']:.2f} ms, recall@10 {_index(r, 'ours')['recall_at_10']:.3f}{_times(r)}",
        "the scan of all vectors; LanceDB's best own index by queries a second",
        f"{most_ms:g} ms, .98, 10 ×",
        met,
    )


def _index(result: Result, name: str) -> Result:
    (run,) = result["runs"]
    found: Result = next(index for index in run["indexes"] if index["name"].startswith(name))
    return found


def _times(result: Result) -> str:
    scan = _index(result, "exact")["p50_ms"] / _index(result, "ours")["p50_ms"]
    native = result["qps_over_best_native"]
    return f"; {scan:.0f} ×; {native:.1f} ×" if native else f"; {scan:.0f} ×; –"


def _faster(encoder: Result) -> str:
    if "over_bf16" not in encoder:
        return "refused: its vectors moved too far"
    script = f", {encoder['over_naive_script']:.2f} × the script" if "over_naive_script" in encoder else ""
    return f"{encoder['over_bf16']:.2f} ×{script}, {encoder['retention_at_10']:.3f} of the neighbours stay"


def _gpu(encoder: str, words: str, goal: int) -> Line:
    def best(result: Result) -> Result:
        runs = [r for r in result["runs"] if r["encoder"] == encoder and "decoder" in r]
        return max(runs, key=lambda r: float(r["end_to_end_images_per_second"]))

    def figure(result: Result) -> str:
        run = best(result)
        rate, share = run["end_to_end_images_per_second"], run["end_to_end_over_ceiling"]
        return f"{rate:,.0f} images/s, {share:.2f} of the ceiling, --decoder {run['decoder']}"

    def met(result: Result) -> bool:
        run = best(result)
        share = run["end_to_end_over_ceiling"]
        return bool(run["end_to_end_images_per_second"] >= goal and share >= CEILING_GOALS["gpu"])

    beside = "the slower of decoding and model alone"
    return Line(f"embedding on a GPU: {words}, JPEG of 512 px", GPU, figure, beside, f"{goal:,}, .9", met)


def _start(name: str, words: str, goal: float) -> Line:
    def seconds(result: Result) -> float:
        return next(float(c["wall_seconds"]) for c in result["commands"] if c["name"].startswith(name))

    return Line(words, "start", lambda r: f"{seconds(r):.2f} s", "", f"{goal:g} s", lambda r: seconds(r) <= goal)


LINES = (
    Line(
        "embedding on a CPU: ViT-B/32 in bf16, JPEG of 512 px",
        "throughput",
        lambda r: f"{r['end_to_end_over_ceiling']:.2f} of the ceiling, {r['over_naive_script']:.1f} ×",
        "decoding and model alone; a script of 40 lines",
        f"{CEILING_GOALS['cpu']}, {NAIVE_GOAL} ×",
        lambda r: r["end_to_end_over_ceiling"] >= CEILING_GOALS["cpu"] and r["over_naive_script"] >= NAIVE_GOAL,
    ),
    _gpu("open_clip:ViT-B-32", "ViT-B/32 in bf16", 15_000),
    _gpu("open_clip:ViT-L-14", "ViT-L/14 in bf16", 2_500),
    Line(
        "embedding on a CPU in int8",
        "throughput-int8",
        lambda r: "; ".join(f"{name} {_faster(encoder)}" for name, encoder in r["encoders"].items()),
        "bf16, end to end; fp32's 10 nearest",
        "1.4 ×, ViT-B/32 1.6 × (script 2.5 ×), resnet50 1.7 ×; .95",
        lambda r: not r["missed"],
    ),
    Line(
        "pictures of 28 px in shards of 10, images a CPU second",
        "small",
        lambda r: f"{r['many_shards_over_few']:.2f}",
        "in large shards",
        ".9",
        lambda r: bool(r["many_shards_over_few"] >= 0.9),
    ),
    Line(
        "packing uncompressed DICOM, MB/s over those of copying",
        "pack",
        lambda r: f"{r['syntaxes']['uncompressed']['over_copy']:.2f}",
        "cp and fsync",
        "0.25",
        lambda r: not r["missed"],
    ),
    Line(
        "whole slides to tiles' vectors",
        "slides",
        lambda r: f"{r['end_to_end_over_ceiling']:.2f} of the ceiling",
        "reading, decoding and model alone",
        ".9",
        lambda r: bool(r["end_to_end_over_ceiling"] >= 0.9),
    ),
    Line(
        "decoding JPEG of 2,048 px to the encoder's square",
        "decode",
        lambda r: f"{r['jpeg_over_pillow']['2048']:.1f} ×",
        "Pillow",
        "4 ×",
        lambda r: bool(r["goals_met"]["JPEG 2048 px"]),
    ),
    _search("200,000 × 512 in clusters", "search-200000-clustered", 0.5),
    _search("200,000 × 512 overlapping", "search-200000-overlapping", 0.5),
    _search("1,000,000 × 512 overlapping", "search-1000000-overlapping", 1.0),
    Line(
        "10,000,000 × 512 built and searched with `--memory 4G`",
        "search-10000000-overlapping-4096M",
        lambda r: f"{r['peak_rss_bytes'] / 2**30:.2f} GiB, recall@10 {r['recall_at_10']:.3f}",
        "exact search of 512 queries",
        "4 GiB, .98",
        lambda r: r["peak_rss_bytes"] <= 4 * 2**30 and r["recall_at_10"] >= 0.98,
    ),
    Line(
        "all near-duplicates of 1,000,000 × 512 at .95",
        "duplicates-1000000-overlapping",
        lambda r: f"{r['seconds']:.0f} s, {r['peak_rss_bytes'] / 1e9:.2f} GB, {r['pairs_wrong']} pairs wrong",
        "brute force on a sample",
        "600 s, 3 GB, 0",
        lambda r: bool(r["met"]) and not r["pairs_wrong"],
    ),
    _start("search by key", "`indexer search --key`, cold, 1,000,000 rows", 0.5),
    _start("search by image", "`indexer search` of an image, cold", 2.0),
    Line(
        "linear probe with sweep and intervals, 100,000 × 512",
        "probe-100000",
        lambda r: f"{r['speedup_over_script']:.1f} ×, {r['peak_over_matrix']:.1f} × the matrix",
        "a scikit-learn script; memory",
        "5 ×, 3 ×",
        lambda r: (
            r["speedup_over_script"] >= r["goals"]["speedup_over_script"]
            and r["peak_over_matrix"] <= r["goals"]["peak_over_matrix"]
        ),
    ),
    Line(
        "Ray: two workers; the driver's commits",
        "cluster",
        lambda r: f"{r['efficiency_2_workers_over_1']:.2f}, {r['driver_rows_per_second']:,} rows/s",
        "one worker, twice",
        "none set; 50,000 rows/s",
        lambda r: bool(r["driver_rows_per_second"] >= 50_000),
    ),
    Line(
        "memory and time of 16 commands as tables grow",
        "scale",
        lambda r: f"{len(r['over_budget'])} over their budget",
        "a quarter of the rows",
        "0",
        lambda r: not r["over_budget"],
    ),
)


def table() -> list[str]:
    """Lines of Markdown."""
    lines = ["| what | measured | beside | goal | met | processor |", "|---|---|---|---|---|---|"]
    return lines + [_markdown(line, result) for line, result in _found()]


def _found() -> Iterator[tuple[Line, Result]]:
    for line in LINES:
        path = RESULTS / f"{line.file}.json"
        if path.exists():
            yield line, json.loads(path.read_text(encoding="utf-8"))


def _markdown(line: Line, result: Result) -> str:
    machine = result["machine"]
    met = "yes" if line.met(result) else "no"
    processor = ", ".join([*machine.get("gpus", []), machine["cpu"], f"{machine['cores']} cores"])
    cells = line.what, line.figure(result), line.beside, line.goal, met, processor
    return f"| {' | '.join(cells)} |"


def main() -> int:
    print("\n".join(table()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

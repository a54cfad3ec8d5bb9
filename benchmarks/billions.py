"""A paper page on tables of 100 million and a billion rows: `python -m benchmarks.billions [--commits N] [--json]`.

No machine here holds a billion vectors, so the page is made from three things, each said where it is used:

- a simulation of the writer's commits with the writer's own policy of merging (`store.writing.compaction`): fragments,
  merges, rows rewritten;
- a real table whose constants are scaled down by SCALE (8 rows a commit for 8,192, full fragments of 1,024 rows for
  1,048,576), written through the real writer: bytes of its manifests, seconds a commit. Its fragments must be exactly
  those of the simulation, or the benchmark ends with 1;
- bytes and seconds of small parts measured here, and the results of other benchmarks in benchmarks/results.

Writes benchmarks/results/scale.md, and the figures to benchmarks/results/billions.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import tracemalloc
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.provenance import RESULTS, provenance, write
from indexer.pipeline.options import RunOptions
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.store.writing import compaction
from indexer.store.writing.keys import KeySet, key_hashes
from indexer.store.writing.side_tables import LedgerEntry
from indexer.types import EmbeddingBatch, EmbeddingRow, EncoderSpec, PixelSpec, Place, Shard, ShardResult

SCALE = 1024
DIM = 512
SIZES = (100_000_000, 1_000_000_000)
SHARD_ROWS = 8_192
GPU_RATES = (1_000, 3_000, 10_000)  # images a second of one GPU, assumed: none was measured


@dataclass
class Commits:
    """What the writer's policy makes of a run."""

    rows: int
    commits: int = 0
    merges: int = 0
    rewritten: int = 0  # rows
    most_fragments: int = 0
    fragments: int = 0
    listed: int = 0  # fragments in all manifests that were written, one for each commit and merge


def simulated(rows: int, commit_rows: int, full_rows: int) -> tuple[Commits, list[int]]:
    """A run of one commit after the other, and the sizes of its fragments at the end."""
    found, sizes, tail = Commits(rows), list[int](), list[int]()  # full fragments, and those behind the last of them
    left = rows
    while left:
        own = min(commit_rows, left)
        left -= own
        tail.append(own)
        found.commits += 1
        found.most_fragments = max(found.most_fragments, len(sizes) + len(tail))
        found.listed += len(sizes) + len(tail)
        _merged(found, sizes, tail, compaction.COMPACT_FRAGMENTS, full_rows)
    _merged(found, sizes, tail, compaction.RUN_FRAGMENTS, full_rows)
    sizes += tail
    found.fragments = len(sizes)
    return found, sizes


def _merged(found: Commits, sizes: list[int], tail: list[int], most: int, full_rows: int) -> None:
    """As `compaction.compact_newest`: only the newest fragments are small in a run that only appends."""
    small = full_rows * compaction.SMALL_SHARE
    if sum(size < small for size in tail) <= most:
        return
    count = compaction.newest_run(tail)
    if not count:
        return
    total = sum(tail[-count:])
    del tail[-count:]
    parts = [min(full_rows, total - start) for start in range(0, total, full_rows)]
    tail += parts
    found.merges += 1
    found.rewritten += total
    found.listed += len(sizes) + len(tail)
    while tail and tail[0] >= small:
        sizes.append(tail.pop(0))


SPEC = EncoderSpec(
    name="stand-in", weights="random:0", pooling="pooled", dim=DIM, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
    precision="fp32", pixels=PixelSpec(224, 224),
)  # fmt: skip


def result(number: int, rows: int, vectors: Any, norms: Any) -> ShardResult:
    """One shard's rows with three fields of metadata."""
    shard = Shard(f"/archive/{number:06d}.tar", f"/archive/{number:06d}.tar", "1")
    made = tuple(
        EmbeddingRow(
            f"{number:06d}/{i:06d}", Place(shard.name, f"{i:06d}.jpg", 512 + 4096 * i, 4000, "jpg"),
            f"{number:032x}{i:032x}", {"patient": f"p{i // 4}", "age": i % 90, "sex": "FM"[i % 2]},
        )
        for i in range(rows)
    )  # fmt: skip
    return ShardResult(shard, (EmbeddingBatch(made, vectors[:rows], norms[:rows]),), (), rows)


def scaled_down(folder: Path, commits: int) -> dict[str, Any]:
    """The real writer with small constants. Raises SystemExit where its fragments are not the simulation's."""
    commit_rows, full_rows = SHARD_ROWS // SCALE, compaction.FULL_ROWS // SCALE
    vectors = np.random.default_rng(0).standard_normal((commit_rows, DIM)).astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1)
    unit = (vectors / norms[:, None]).astype(np.float16)
    usual, compaction.FULL_ROWS = compaction.FULL_ROWS, full_rows
    process, seconds, memory = psutil.Process(), list[float](), list[int]()
    store = EmbeddingStore.create(str(folder / "db"), "t", SPEC)
    try:
        with StoreWriter(store) as writer:
            for number in range(commits):
                start = time.perf_counter()
                writer.commit([result(number, commit_rows, unit, norms)])
                writer.tidy_when_due()
                seconds.append(time.perf_counter() - start)
                if number % max(1, commits // 100) == 0:
                    memory.append(process.memory_info().rss)
            writer.tidy()
    finally:
        compaction.FULL_ROWS = usual
    store.refresh()
    dataset = store._dataset
    real = [fragment.count_rows() for fragment in dataset.get_fragments()]
    expected, sizes = simulated(commits * commit_rows, commit_rows, full_rows)
    if real != sizes:
        raise SystemExit(f"the real table has fragments {real[:5]}…, the simulation {sizes[:5]}…")
    manifests = sorted(path.stat().st_size for path in (folder / "db" / "t.lance" / "_versions").glob("*.manifest"))
    tenth = max(1, commits // 10)
    return {
        "commits": commits,
        "rows": commits * commit_rows,
        "stands_for_rows": commits * SHARD_ROWS,
        "fragments": len(real),
        "fragments_as_simulated": True,
        "merges": expected.merges,
        "manifest_bytes_first": manifests[0],
        "manifest_bytes_last": manifests[-1],
        "bytes_of_a_fragment_in_a_manifest": (manifests[-1] - manifests[0]) / max(1, expected.most_fragments - 1),
        "commit_ms_first_tenth": 1e3 * float(np.median(seconds[:tenth])),
        "commit_ms_last_tenth": 1e3 * float(np.median(seconds[-tenth:])),
        "rss_growth_after_first_tenth": memory[-1] / max(memory[: len(memory) // 10 + 1]) - 1,
        "rows_stored": store.count(),
    }


def of_a_writer() -> dict[str, float]:
    """Bytes and seconds that a writer needs for each row or shard it knows."""
    n = 1_000_000
    keys = [f"archive/{i // 1000:06d}/{i:09d}" for i in range(n)]
    start = time.process_time()
    hashes = key_hashes(keys)
    seconds = time.process_time() - start
    known = KeySet()
    tracemalloc.start()
    known.add(keys)
    key_bytes = tracemalloc.get_traced_memory()[0] / n
    before = tracemalloc.get_traced_memory()[0]
    entries = {
        f"/archive/{i:09d}.tar": LedgerEntry(f"/archive/{i:09d}.tar", f"{i}-{i}", "done", 8192, 8192, 0, i)
        for i in range(20_000)
    }
    entry_bytes = (tracemalloc.get_traced_memory()[0] - before) / len(entries)
    tracemalloc.stop()
    assert len(hashes) == n
    return {"key_bytes": key_bytes, "key_hash_seconds": seconds / n, "ledger_entry_bytes": entry_bytes}


def at(rows: int, scaled: dict[str, Any], writer: dict[str, float], row_bytes: float) -> dict[str, Any]:
    """The figures of a table of so many rows."""
    found, _ = simulated(rows, RunOptions().commit_rows, compaction.FULL_ROWS)
    manifest = scaled["manifest_bytes_first"] + scaled["bytes_of_a_fragment_in_a_manifest"] * found.fragments
    written = (
        scaled["manifest_bytes_first"] * (found.commits + found.merges)
        + scaled["bytes_of_a_fragment_in_a_manifest"] * found.listed
    )
    index, throughput = _results("search-1000000-overlapping.json"), _results("throughput.json")
    ours = next(each for each in index["runs"][0]["indexes"] if each["name"] == "ours")
    codes = (ours["nbytes"] - index["rows"] * DIM * 2) / index["rows"]
    cluster = _results("cluster.json")
    per_core = 1 / throughput["cpu_seconds_per_image"]["end-to-end"]
    return asdict(found) | {
        "table_bytes": rows * row_bytes,
        "manifest_bytes": manifest,
        "manifests_bytes_written": written,
        "keys_ram_bytes": rows * writer["key_bytes"],
        "keys_learn_seconds": rows * writer["key_hash_seconds"],
        "ledger_ram_bytes": rows / SHARD_ROWS * writer["ledger_entry_bytes"],
        "index_settings": ours["settings"],
        "index_bytes_of_a_row": codes,
        "index_ram_bytes": rows * codes,
        "index_vectors_bytes": rows * DIM * 2,
        "index_build_hours": rows / index["rows"] * ours["build_seconds"] / 3600,
        "core_hours": rows / per_core / 3600,
        "decode_core_hours": rows * throughput["cpu_seconds_per_image"]["decode"] / 3600,
        "gpu_hours": {str(rate): rows / rate / 3600 for rate in GPU_RATES},
        "driver_rows_per_cpu_second": cluster["driver_rows_per_cpu_second"],
        "driver_hours": rows / cluster["driver_rows_per_cpu_second"] / 3600,
    }


def _results(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


def page(found: dict[str, Any]) -> str:
    """The paper page."""
    small, large = found["sizes"]
    scaled, writer = found["scaled"], found["writer"]

    def row(name: str, form: Any, source: str) -> str:
        return f"| {name} | {form(small)} | {form(large)} | {source} |"

    def nbytes(key: str) -> Any:
        return lambda each: _nbytes(each[key])

    lines = [
        "# A table of 100 million rows, and of a billion",
        "",
        f"Made by `python -m benchmarks.billions` on {found['machine']['cpu']}, {found['machine']['cores']} cores; "
        f"vectors of {DIM} numbers in float16, {RunOptions().commit_rows:,} rows a commit, shards of {SHARD_ROWS:,} "
        "images. Nothing of this size was stored: the column on the right says where each figure comes from.",
        "",
        f"**Checked:** the real writer with all constants divided by {SCALE:,} made {scaled['commits']:,} commits (in "
        f"the place of {scaled['stands_for_rows']:,} rows). Its {scaled['fragments']:,} fragments are exactly the "
        f"simulation's. A commit took {scaled['commit_ms_first_tenth']:.0f} ms in the first tenth and "
        f"{scaled['commit_ms_last_tenth']:.0f} ms in the last, and memory grew by "
        f"{scaled['rss_growth_after_first_tenth']:.0%} after the first tenth.",
        "",
        "| | 100 M | 1 B | from |",
        "|---|---|---|---|",
        row("commits", lambda e: f"{e['commits']:,}", "simulation"),
        row("merges of fragments", lambda e: f"{e['merges']:,}", "simulation"),
        row("each row is written", lambda e: f"{1 + e['rewritten'] / e['rows']:.2f} times", "simulation"),
        row("fragments at the end", lambda e: f"{e['fragments']:,}", "simulation"),
        row("most at once", lambda e: f"{e['most_fragments']:,}", "simulation"),
        row("the newest manifest", nbytes("manifest_bytes"), "simulation × bytes measured on the scaled table"),
        row("all manifests that were written", nbytes("manifests_bytes_written"), "the same; kept for a day"),
        row("rows on the disk", nbytes("table_bytes"), f"{found['row_bytes']:,.0f} bytes a row, measured"),
        row("writer's RAM for keys", nbytes("keys_ram_bytes"), f"{writer['key_bytes']:.1f} bytes a key, measured"),
        row("hashing all keys", lambda e: f"{e['keys_learn_seconds'] / 60:.1f} min", "measured on 1 M keys"),
        row("writer's RAM for the ledger", nbytes("ledger_ram_bytes"), "measured on 20,000 shards"),
        row("the driver's own work (Ray)", lambda e: f"{e['driver_hours']:.1f} CPU h", "results/cluster.json"),
        row("index in RAM", nbytes("index_ram_bytes"), f"{small['index_bytes_of_a_row']:.0f} bytes a row at 1 M"),
        row("its vectors, mapped from disk", nbytes("index_vectors_bytes"), "1,024 bytes a row"),
        row(
            "building it on 2 cores",
            lambda e: f"{e['index_build_hours']:.1f} h",
            f"1 M rows ({small['index_settings']}) extrapolated linearly: a lower bound",
        ),
        row("embedding on CPUs (ViT-B/32)", lambda e: f"{e['core_hours']:,.0f} core h", "results/throughput.json"),
        row("decoding alone (for GPUs)", lambda e: f"{e['decode_core_hours']:,.0f} core h", "results/throughput.json"),
        *(
            row(f"GPU hours at {rate:,} images/s", lambda e, r=str(rate): f"{e['gpu_hours'][r]:,.0f}", "rate assumed")
            for rate in GPU_RATES
        ),
        "",
        "## What breaks first, and the way past it",
        "",
        f"1. **The index does not fit in RAM.** At a billion rows its codes take {_nbytes(large['index_ram_bytes'])}, "
        f"at 100 million {_nbytes(small['index_ram_bytes'])}. Way past: `indexer build-ann --memory`, where the codes "
        "stay on the disk; or tables by year or site, each with its index, whose answers are merged by score.",
        f"2. **The writer's keys.** Every writer holds a hash of each key, {_nbytes(large['keys_ram_bytes'])} at a "
        "billion rows (twice that while two runs of hashes are merged), and reads all keys before its first rows: "
        f"hashing them alone takes {large['keys_learn_seconds'] / 60:.1f} minutes. Way past: fewer, longer runs; or "
        f"tables by year or site, whose writers hold {_nbytes(small['keys_ram_bytes'])} at 100 million rows.",
        f"3. **One committer.** It takes {large['driver_rows_per_cpu_second']:,} rows a second of one core, a billion "
        f"in {large['driver_hours']:.1f} hours: at 3,000 images a second and GPU it keeps "
        f"{large['driver_rows_per_cpu_second'] // 3000} GPUs busy, and more would wait. Way past: a table for each "
        "site, joined by `indexer merge` or searched one by one.",
        f"4. **Decoding.** {large['decode_core_hours']:,.0f} core hours at a billion images: a GPU of 3,000 images a "
        f"second needs {3000 * large['decode_core_hours'] * 3600 / large['rows']:.0f} cores beside it. Way past: "
        "`--decoder gpu` for JPEG, or smaller images stored once by `indexer pack`.",
        f"5. **Not the manifests.** {large['fragments']:,} fragments make a manifest of "
        f"{_nbytes(large['manifest_bytes'])}, written by each commit; a day's are kept, then dropped.",
        "",
    ]
    return "\n".join(lines)


def _nbytes(n: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n:.0f} B"


def row_bytes(folder: Path) -> float:
    """Bytes on the disk of a row that was written and merged."""
    rows = SHARD_ROWS
    vectors = np.random.default_rng(0).standard_normal((rows, DIM)).astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1)
    store = EmbeddingStore.create(str(folder / "bytes"), "t", SPEC)
    with StoreWriter(store) as writer:
        writer.commit([result(0, rows, (vectors / norms[:, None]).astype(np.float16), norms)])
    return sum(path.stat().st_size for path in (folder / "bytes" / "t.lance" / "data").iterdir()) / rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=3_000, help="of the table with constants scaled down")
    parser.add_argument("--folder", type=Path, help="where the small tables are made; default: a temporary one")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        found: dict[str, Any] = {**provenance(), "row_bytes": row_bytes(folder), "writer": of_a_writer()}
        found["scaled"] = scaled_down(folder, args.commits)
    found["sizes"] = [at(rows, found["scaled"], found["writer"], found["row_bytes"]) for rows in SIZES]
    write(RESULTS / "billions.json", found)
    (RESULTS / "scale.md").write_text(page(found))
    print(json.dumps(found) if args.json else page(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

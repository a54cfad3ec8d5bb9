"""Search against LanceDB's own indexes on the same table, and exact search: `python -m benchmarks.search --rows N`.

Every index is tuned the same way, to recall@10 ≥ .98 on queries that are no rows, and timed in this one run. The native
index we are compared with, in speed and in build time, is of those that reach the recall the one that answers the most
queries a second. Goals: 3 × its queries a second, half its build time, a single query under 2 ms; with a 2 % filter
recall 1 in under 30 ms. The longest part are native builds (IVF_HNSW_SQ and IVF_PQ take minutes at 200,000 rows):
`--build-limit` stops each after so many seconds, and says so in `not_built`.

`--table DB` measures on the vectors of a table of yours, a copy without the rows that are drawn as queries;
`python -m benchmarks.fashion DB` makes one of real images. `--memory 4G` bounds the build and the search, which then
run in a process of their own whose peak memory is shown; exact and filtered searches are left out where the vectors
are larger.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import native as lance_native
from benchmarks.native import K, Measured, Search, measured, native
from benchmarks.provenance import RESULTS, write
from benchmarks.vectors import BLOCK, KINDS, blocks
from indexer.ann.goal import Goal
from indexer.search.index_build import build_index
from indexer.search.options import SearchOptions
from indexer.search.searcher import Searcher
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.types import (
    EmbeddingBatch,
    EmbeddingRow,
    EncoderSpec,
    Float16,
    Float32,
    PixelSpec,
    Place,
    Shard,
    ShardResult,
)

RECALL = 0.98
SITES = 50  # a filter on one of them lets 2 % through
FILTERED, EXACT = 64, 64  # queries for what is slow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--data", choices=[*KINDS, "both"], default="both")
    parser.add_argument("--latency-ms", type=float, default=2.0)
    parser.add_argument("--native", default=",".join(lance_native.KINDS), help='comma-separated; "" for none')
    parser.add_argument("--build-limit", type=float, help="stop a native build after so many seconds")
    parser.add_argument("--table", help="a database: its vectors in place of made-up ones")
    parser.add_argument("--name", help="of the table in that database, where it has several")
    parser.add_argument("--memory", type=size, help="of the build and the search, as 400M or 4G")
    parser.add_argument("--folder", type=Path, help="where the tables are made and kept, and taken from the next time")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    given = stored(args) if args.table else None
    sources = [given] if given else [made(kind, args) for kind in (KINDS if args.data == "both" else [args.data])]
    runs = []
    for data in sources:
        with ExitStack() as stack:
            kept = args.folder and args.folder / f"{data.name}-{data.rows}x{data.dim}"
            runs.append(run(kept or Path(stack.enter_context(tempfile.TemporaryDirectory())), data, args))
    result = {
        "rows": sources[0].rows,
        "dim": sources[0].dim,
        "memory_bytes": args.memory,
        "build_limit": args.build_limit,
        **worst(runs),
        "runs": runs,
    }
    words = [
        str(sources[0].rows),
        given.name if given else args.data,
        *([f"{args.memory >> 20}M"] if args.memory else []),
    ]
    result = write(RESULTS / f"search-{'-'.join(words)}.json", result)
    if args.json:
        print(json.dumps(result))
    else:
        for done in runs:
            show(done)
        print({k: v for k, v in result.items() if k != "runs"})


def worst(runs: list[dict[str, Any]]) -> dict[str, float | None]:
    """The headline figures: of the data kinds the one that suits us least."""

    def over(name: str, pick: Callable[[list[float]], float]) -> float | None:
        values = [r[name] for r in runs if r[name] is not None]
        return pick(values) if values else None

    return {
        "recall_at_10": over("recall_at_10", min),
        "qps_over_best_native": over("qps_over_best_native", min),
        "p50_ms": over("p50_ms", max),
        "build_over_native": over("build_over_native", max),
        "filtered_recall_at_10": over("filtered_recall_at_10", min),
        "filtered_p50_ms": over("filtered_p50_ms", max),
        "peak_rss_bytes": over("peak_rss_bytes", max),
    }


@dataclass(frozen=True)
class Data:
    """What is searched, and with what."""

    name: str
    rows: int
    dim: int
    blocks: Callable[[], Iterator[Float16]]
    queries: Float32  # (q, dim), no rows of the table


def made(kind: str, args: argparse.Namespace) -> Data:
    queries = np.concatenate(list(blocks(kind, args.queries, args.dim, seed=1))).astype(np.float32)
    return Data(kind, args.rows, args.dim, lambda: blocks(kind, args.rows, args.dim, seed=0), queries)


def stored(args: argparse.Namespace) -> Data:
    """The vectors of a table, of which some are held out as queries."""
    store = EmbeddingStore.open(args.table, args.name)
    vectors = store.vectors().vectors
    picked = np.random.default_rng(0).permutation(len(vectors))[: min(args.queries, len(vectors) // 4)]
    rest = np.delete(vectors, picked, axis=0)

    def parts() -> Iterator[Float16]:
        for start in range(0, len(rest), BLOCK):
            yield rest[start : start + BLOCK]

    return Data(store.name, len(rest), store.dim, parts, vectors[picked].astype(np.float32))


def size(text: str) -> int:
    """Bytes of "400M" or "4G"."""
    units = {"K": 10, "M": 20, "G": 30}
    return int(float(text[:-1]) * 2 ** units[text[-1]]) if text[-1] in units else int(text)


def run(folder: Path, data: Data, args: argparse.Namespace) -> dict[str, Any]:
    store, queries = (
        kept(folder / "db", data.rows) or filled(folder / "db", data.name, data.blocks(), data.dim),
        data.queries,
    )
    exact = Searcher(store, exact=True, memory_bytes=args.memory or Goal.memory_bytes)
    truth = keys_from(exact)(queries)
    rows, filtered, nbytes = [], {}, data.rows * data.dim * 2
    fits = nbytes <= (args.memory or Goal.memory_bytes)
    if fits:
        rows = [measured("exact (FAISS)", keys_from(exact), queries[:EXACT], truth[:EXACT])]
        rows[0].nbytes = nbytes
    if args.memory:
        ours, report, peak = bounded(folder, store, queries, truth, args)
    else:
        (ours, report), peak = our_index(store, queries, truth, args.latency_ms), None
    if fits:
        filtered = filter_figures(store, exact, queries[:FILTERED])
    del exact
    asked = [name for name in args.native.split(",") if name]
    built = {name: native(folder / "db", name, queries, truth, recall=RECALL, limit=args.build_limit) for name in asked}
    others = [r for r in built.values() if r is not None]
    fit = [r for r in others if r.recall_at_10 >= RECALL]
    best = max(fit, key=lambda r: r.queries_per_second) if fit else None
    return {
        "data": data.name,
        "recall_at_10": ours.recall_at_10,
        "p50_ms": ours.p50_ms,
        "qps_over_best_native": ours.queries_per_second / best.queries_per_second if best else None,
        "build_over_native": ours.build_seconds / best.build_seconds if best else None,
        "best_native": best.name if best else None,
        "not_built": [name for name, r in built.items() if r is None],
        "peak_rss_bytes": peak,
        "filtered_recall_at_10": filtered.get("filtered_recall_at_10"),
        "filtered_p50_ms": filtered.get("filtered_p50_ms"),
        "indexes": [asdict(r) for r in [ours, *rows, *others]],
        "candidates": report,
    }


def fill(path: Path, kind: str, rows: int, dim: int) -> EmbeddingStore:
    """A table of made-up vectors."""
    return filled(path, kind, blocks(kind, rows, dim, seed=0), dim)


def kept(path: Path, rows: int) -> EmbeddingStore | None:
    """The table of an earlier run, if it is whole."""
    if not path.is_dir():
        return None
    store = EmbeddingStore.open(str(path), "vectors")
    if store.count() != rows:
        raise SystemExit(f"{path} is of a run that was stopped: remove it.")
    return store


def filled(path: Path, kind: str, vectors: Iterator[Float16], dim: int) -> EmbeddingStore:
    half = (0.5, 0.5, 0.5)
    spec = EncoderSpec(f"made-{kind}", "random:7", "pooled", dim, half, half, "fp32", PixelSpec(size=8, resize=8))
    store = EmbeddingStore.create(str(path), "vectors", spec)
    with StoreWriter(store) as writer:
        first = 0
        for block in vectors:
            name = f"s{first}"
            place = Place(name, "", 0, 0, "png")
            numbers = range(first, first + len(block))
            made = tuple(EmbeddingRow(f"k{i}", place, f"{i:064x}", {"site": i % SITES}) for i in numbers)
            batch = EmbeddingBatch(made, block, np.ones(len(block), np.float32))
            writer.commit([ShardResult(Shard(name, name, "1"), (batch,), (), len(block))])
            first += len(block)
        writer.optimize()
    return store


def bounded(
    folder: Path, store: EmbeddingStore, queries: Float32, truth: list[list[str]], args: argparse.Namespace
) -> tuple[Measured, list[dict[str, Any]], int]:
    """`our_index` in a process of its own, and the most memory that it had, pages of mapped files included."""
    np.save(folder / "queries.npy", queries)
    (folder / "truth.json").write_text(json.dumps(truth))
    facts = [store.uri, str(folder / "queries.npy"), str(folder / "truth.json"), str(args.latency_ms), str(args.memory)]
    command = [sys.executable, "-m", "benchmarks.bounded", *facts]
    got = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return Measured(**got["ours"]), got["candidates"], got["peak_rss_bytes"]


def our_index(
    store: EmbeddingStore,
    queries: Float32,
    truth: list[list[str]],
    latency_ms: float,
    memory_bytes: int = Goal.memory_bytes,
) -> tuple[Measured, list[dict[str, Any]]]:
    started = time.perf_counter()
    report = build_index(store, Goal(recall=RECALL, latency_ms=latency_ms, memory_bytes=memory_bytes))
    seconds = time.perf_counter() - started
    searcher = Searcher(store, memory_bytes=memory_bytes)
    got = measured("ours", keys_from(searcher), queries, truth)
    got.build_seconds = seconds
    got.nbytes = sum(f.nbytes for f in report.manifest.files.values())
    got.settings = f"{report.manifest.factory}, nprobe {report.manifest.settings.nprobe}, re-rank "
    got.settings += str(report.manifest.settings.rerank)
    return got, [asdict(c) for c in report.candidates]


def keys_from(searcher: Searcher) -> Search:
    return lambda queries: [[hit.key for hit in hits] for hits in searcher.by_vector(queries)]


def filter_figures(store: EmbeddingStore, exact: Searcher, queries: Float32) -> dict[str, float]:
    """A 2 % filter, another one for each query so that none is remembered."""
    searcher = Searcher(store)
    searcher.by_vector(queries[:1])  # warm, as a running service is
    times, right = [], 0
    for i, query in enumerate(queries):
        options = SearchOptions(where=f"site = {i % SITES} and key <> 'none{i}'")
        started = time.perf_counter()
        (hits,) = searcher.by_vector(query[None], options)
        times.append(time.perf_counter() - started)
        (true,) = exact.by_vector(query[None], options)
        right += len({h.key for h in hits} & {h.key for h in true})
    return {"filtered_recall_at_10": right / (K * len(queries)), "filtered_p50_ms": 1e3 * float(np.median(times))}


def show(done: dict[str, Any]) -> None:
    print(f"\n{done['data']}")
    print(f"{'index':<14}{'recall':>8}{'p50 ms':>9}{'p99 ms':>9}{'queries/s':>11}{'build s':>9}{'MiB':>8}  settings")
    for r in done["indexes"]:
        print(
            f"{r['name']:<14}{r['recall_at_10']:>8.3f}{r['p50_ms']:>9.2f}{r['p99_ms']:>9.2f}"
            f"{r['queries_per_second']:>11.0f}{r['build_seconds']:>9.1f}{r['nbytes'] / 2**20:>8.0f}  {r['settings']}"
        )


if __name__ == "__main__":
    main()

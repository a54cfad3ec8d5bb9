"""When is a refresh no longer as good as a rebuild? `python -m benchmarks.refresh`.

A refresh keeps the lists that were trained at the build. Here an index of N rows gets so many more, once like the old
ones and once unlike them (their dimensions rolled: an archive that takes in another organ), and is compared with one
whose lists are trained on all rows: rows scanned for recall@10 ≥ .98, and queries a second. The share from which
`indexer build-ann --refresh` rebuilds (indexer.search.index_build.REBUILD_SHARE) stands on this table.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from benchmarks.provenance import RESULTS, write
from benchmarks.vectors import KINDS, blocks
from indexer.ann.engines.kinds import ENGINES
from indexer.ann.engines.protocol import Trained
from indexer.ann.engines.routing import float_blocks, lists_for, train_centroids
from indexer.ann.index import Searchable
from indexer.ann.sampling import draw, floats_of, queries_of
from indexer.ann.tune import batch_seconds, truth_of, tune
from indexer.ann.vectors import Rows
from indexer.search.index_build import REBUILD_SHARE
from indexer.types import Float16, Float32, Float64

SHARES = (0.1, 0.2, 0.3, 0.5, 1.0)
RECALL = 0.98
ENGINE = ENGINES["ivf-fp16"]  # exact codes: what is lost is lost by the lists
MEMORY = 4 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = [
        compared(data, unlike, share, args.rows, args.dim)
        for data in KINDS
        for unlike in (False, True)
        for share in SHARES
    ]
    result = {
        "rows": args.rows, "dim": args.dim,
        "rebuild_share": REBUILD_SHARE, "scanned_over_rebuilt_at_share": worst(found, REBUILD_SHARE), "runs": found,
    }  # fmt: skip
    result = write(RESULTS / "refresh.json", result)
    print(json.dumps(result) if args.json else table(found))


def compared(data: str, unlike: bool, share: float, rows: int, dim: int) -> dict[str, Any]:
    """An index of the old rows' lists against one of all rows' lists, over the same rows and queries."""
    old = np.concatenate(list(blocks(data, rows, dim, seed=0)))
    more = np.concatenate(list(blocks(data, round(share * rows), dim, seed=2)))
    if unlike:
        more = np.roll(more, dim // 3, axis=1)
    both = np.concatenate([old, more])
    table = Rows(np.arange(len(both), dtype=np.int64), both)
    drawn = draw(len(table), dim, MEMORY, seed=0)
    truth = truth_of(table, *reversed(queries_of(table, drawn.queries)))
    out: dict[str, Any] = {"data": data, "unlike": unlike, "share": share}
    for name, trained_on in (("refreshed", old), ("rebuilt", both)):
        over = Searchable(filled(table, centroids_of(trained_on)), ENGINE, table)
        settings = tune(over, truth.half(0), RECALL)
        out[f"{name}_scanned"] = scanned(over, truth.queries, settings.nprobe)
        out[f"{name}_queries_per_second"] = len(truth.queries) / batch_seconds(over, truth.queries, settings)
    out["scanned_over_rebuilt"] = out["refreshed_scanned"] / out["rebuilt_scanned"]
    return out


def centroids_of(vectors: Float16) -> Float32:
    rows = Rows(np.arange(len(vectors), dtype=np.int64), vectors)
    return train_centroids(floats_of(rows, draw(len(rows), rows.dim, MEMORY, seed=0).training), lists_for(len(rows)))


def filled(rows: Rows, centroids: Float32) -> Any:
    index = ENGINE.build(rows.dim, Trained(centroids, centroids))
    ENGINE.add(index, float_blocks(rows, 16_384))
    return index


def scanned(over: Searchable, queries: Float64, nprobe: int) -> float:
    """Mean rows in the lists that a query looks into."""
    lists = over.index.quantizer.search(queries.astype(np.float32), nprobe)[1]
    sizes = np.array([over.index.invlists.list_size(i) for i in range(over.index.nlist)])
    return float(sizes[lists].sum(1).mean())


def worst(found: list[dict[str, Any]], share: float) -> float:
    return max(r["scanned_over_rebuilt"] for r in found if r["share"] <= share)


def table(found: list[dict[str, Any]]) -> str:
    lines = [f"{'data':<12}{'new rows':<9}{'share':>6}{'scanned / rebuilt':>19}{'queries/s':>11}{'rebuilt':>9}"]
    lines += [
        f"{r['data']:<12}{'unlike' if r['unlike'] else 'alike':<9}{r['share']:>6.0%}"
        f"{r['scanned_over_rebuilt']:>19.2f}{r['refreshed_queries_per_second']:>11.0f}"
        f"{r['rebuilt_queries_per_second']:>9.0f}"
        for r in found
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

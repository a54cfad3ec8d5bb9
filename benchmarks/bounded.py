"""One build and its searches within a memory limit, in a process of its own: `benchmarks.search --memory`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.search import our_index
from indexer.store.table import EmbeddingStore


def peak_rss_bytes() -> int:
    """The most memory that this process had, pages of mapped files included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def main(database: str, queries: str, truth: str, latency_ms: str, memory_bytes: str) -> None:
    keys = json.loads(Path(truth).read_text())
    store = EmbeddingStore.open(database)
    ours, candidates = our_index(
        store, np.load(queries, allow_pickle=False), keys, float(latency_ms), int(memory_bytes)
    )
    print(json.dumps({"ours": asdict(ours), "candidates": candidates, "peak_rss_bytes": peak_rss_bytes()}))


if __name__ == "__main__":
    main(*sys.argv[1:])

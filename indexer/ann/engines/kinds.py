"""The kinds of index, by name."""

from __future__ import annotations

from indexer.ann.engines.faiss_kinds import Flat, Graph, Lists
from indexer.ann.engines.protocol import IndexEngine
from indexer.ann.engines.rabitq import RabitqLists

EXACT: IndexEngine = Flat("exact", "SQfp16", 2, 8, removes=True)
# FastScan packs 32 entries to a block. Adding after a removal ORs new bits over those of the removed entry (FAISS
# 1.15), so nothing is removed: entries without a row are dropped in re-ranking and counted as stale.
CANDIDATES: tuple[IndexEngine, ...] = (
    Lists("ivf-fp16", "SQfp16", 2, 8, removes=True),
    Lists("ivf-sq8", "SQ8", 1, 8, removes=True),
    Lists("ivf-rabitq", "RaBitQfs", 1 / 8, 28, removes=False),
    RabitqLists(),
    Graph("hnsw-fp16", "HNSW32,SQfp16", 2, 280, removes=False),
)
ENGINES = {engine.name: engine for engine in (EXACT, *CANDIDATES)}

"""What a list of near-duplicate pairs was made from: it stands in the metadata of its Arrow schema and Parquet file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import pyarrow as pa

from indexer.duplicates.options import NearOptions
from indexer.store.table import EmbeddingStore

METADATA = b"indexer.near-duplicates"
COLUMNS = ("key_a", "key_b", "score", "cluster", "cluster_pairs", "same_bytes")  # of a list, beside group and split


@dataclass(frozen=True)
class PairsFacts:
    """The table and the options of one search for near-duplicates."""

    table: str
    identity: str  # of the table
    version: int
    commit: str  # that made the version
    fingerprint: str  # of the encoder
    threshold: float
    where: str | None
    group: str | None
    split: str | None


def facts_of(view: EmbeddingStore, options: NearOptions) -> PairsFacts:
    """Those of a search in this version."""
    state = view.state
    return PairsFacts(
        view.name, state.identity, state.version, state.commit, state.fingerprint,
        options.threshold, options.where, options.group, options.split,
    )  # fmt: skip


def with_facts(pairs: pa.Table, facts: PairsFacts) -> pa.Table:
    """The same pairs, whose schema names what they were made from."""
    return pairs.replace_schema_metadata({METADATA: json.dumps(asdict(facts)).encode()})


def stored_facts(schema: pa.Schema) -> PairsFacts | None:
    """None where the schema is not one of a list of pairs that names its table."""
    try:
        facts = PairsFacts(**json.loads((schema.metadata or {})[METADATA]))
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    own = (facts.where, facts.group, facts.split)
    if not isinstance(facts.threshold, float | int) or not all(isinstance(text, str | None) for text in own):
        return None
    named = [f"{name}_{side}" for name in (facts.group, facts.split) if name is not None for side in "ab"]
    return facts if set(COLUMNS) | set(named) <= set(schema.names) else None

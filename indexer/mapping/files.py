"""The file of a map: `<table>.map.parquet` beside the table, bound to the version that it was made from.

Columns `row_id`, `x`, `y`, with checksums of its pages; what the map is stands in the schema's metadata.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexer.errors import IndexFileError, StoreError
from indexer.output_file import written_whole
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Float32, Int64

FORMAT = 1
FACTS = b"indexer.map"
SCHEMA = pa.schema([pa.field("row_id", pa.int64()), pa.field("x", pa.float32()), pa.field("y", pa.float32())])
WAY_OUT = "Make it again with `indexer map`."
MOST_COMPARED = 50_000  # rows written since whose vectors are compared with the map's; of more all may have changed
STEP_ROWS = 8_192


@dataclass(frozen=True)
class MapFacts:
    """What a map was made from and how, and what it is worth."""

    table: str
    identity: str  # of the table
    version: int
    commit: str  # that made the version
    fingerprint: str  # of the encoder
    method: str
    seed: int
    rows: int  # on the map
    left_out: int  # rows whose vector is zero or not finite
    laid_out: int  # rows that the method itself placed; the others lie between the nearest of these
    explained: float  # share of the variance along the two principal axes
    neighbours_kept: float | None  # share of the k nearest neighbours that are so on the map; None for one row
    kept_by_chance: float | None
    k: int
    tested: int  # rows on which that was measured
    made_at: str  # ISO 8601, UTC
    seconds: float
    format: int = FORMAT

    def worth(self) -> str:
        """The sentence that stands under the map."""
        if self.neighbours_kept is None or self.kept_by_chance is None:
            return "One image: there are no neighbours to keep."
        kept, chance = (f"{100 * share:.2g} %" for share in (self.neighbours_kept, self.kept_by_chance))
        return (
            f"Of each image's {self.k} nearest neighbours {kept} are among its {self.k} nearest on the map "
            f"({self.tested:,} images tested; {chance} by chance)."
        )


@dataclass(frozen=True)
class Map:
    """Coordinates of rows; parallel arrays in ascending order of row ids."""

    facts: MapFacts
    row_ids: Int64  # (n,)
    places: Float32  # (n, 2)


@dataclass(frozen=True)
class Lag:
    """By what a map is behind a version of its table."""

    new: int  # rows without a place
    gone: int  # places without a row
    changed: int | None  # rows whose vectors changed since; None where the map's version is gone

    def sentence(self) -> str:
        """What a reader of the map must know; "" where it is up to date."""
        parts = [
            f"{n:,} {words}" for n, words in ((self.new, "newer rows are not on it"), (self.gone, "are gone")) if n
        ]
        if self.changed:
            parts.append(f"{self.changed:,} were written again and may lie elsewhere now")
        if self.changed is None:
            parts.append("its version was cleaned up, so that it is not known which rows were written again")
        return f"The map is older than the table: {'; '.join(parts)}. {WAY_OUT}" if parts else ""


def map_path(store: EmbeddingStore) -> Path:
    """Raises StoreError for a database in an object store."""
    if store.path is None:
        raise StoreError(f"a map beside {store.uri} needs a local directory. Copy the database.")
    return Path(store.uri) / f"{store.name}.map.parquet"


def write_map(store: EmbeddingStore, made: Map) -> None:
    """Replaces the table's map as a whole."""
    metadata = {FACTS: json.dumps(asdict(made.facts)).encode()}
    table = pa.table([made.row_ids, made.places[:, 0], made.places[:, 1]], SCHEMA.with_metadata(metadata))
    with written_whole(map_path(store)) as partial:
        pq.write_table(table, partial, write_page_checksum=True)


def read_map(store: EmbeddingStore) -> Map | None:
    """The table's map; None where none was made.

    Raises IndexFileError where the file is damaged, or of another table or encoder.
    """
    path = map_path(store)
    if not path.exists():
        return None
    try:
        table = pq.read_table(path, page_checksum_verification=True, partitioning=None)
        facts = MapFacts(**json.loads((table.schema.metadata or {})[FACTS]))
        row_ids = table.column("row_id").to_numpy()
        places = np.stack([table.column(axis).to_numpy() for axis in ("x", "y")], axis=1)
        _check(facts, row_ids, places)
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError, RecursionError) as error:
        raise IndexFileError(f"{path} is damaged ({str(error).splitlines()[0][:200]}). {WAY_OUT}") from error
    own = store.state
    if (facts.identity, facts.fingerprint) != (own.identity, own.fingerprint):
        raise IndexFileError(f"{path} is of another table of that name, or of another encoder. {WAY_OUT}")
    return Map(facts, row_ids, places)


def _check(facts: MapFacts, row_ids: Int64, places: Float32) -> None:
    """Raises ValueError."""
    if facts.format > FORMAT:
        raise ValueError(f"format {facts.format} is newer than this version's {FORMAT}")
    if row_ids.dtype != np.int64 or places.dtype != np.float32 or facts.rows != len(row_ids):
        raise ValueError("its columns are not those of a map")
    if (np.diff(row_ids) <= 0).any() or not np.isfinite(places).all():
        raise ValueError("its rows are not in order, or lie nowhere")
    shares = (facts.explained, facts.neighbours_kept, facts.kept_by_chance)
    if not all(share is None or (math.isfinite(share) and 0 <= share <= 1) for share in shares):
        raise ValueError("a share is not between 0 and 1")


def lag(view: EmbeddingStore, made: Map, row_ids: Int64) -> Lag:
    """Against the version that `view` holds, which has these `row_ids`."""
    facts = made.facts
    new = len(row_ids) - int(np.isin(row_ids, made.row_ids).sum()) - facts.left_out
    gone = int((~np.isin(made.row_ids, row_ids)).sum())
    try:
        updated = np.intersect1d(view.delta(facts.version, commit=facts.commit).updated, made.row_ids)
        then = view.at(facts.version, commit=facts.commit)
        changed = len(updated) if len(updated) > MOST_COMPARED else _changed(then, view, updated)
    except StoreError:
        return Lag(max(new, 0), gone, None)
    return Lag(max(new, 0), gone, changed)


def _changed(then: EmbeddingStore, now: EmbeddingStore, row_ids: Int64) -> int:
    """How many of these rows have another vector; a label, for one, is written without."""
    count = 0
    for start in range(0, len(row_ids), STEP_ROWS):
        part = row_ids[start : start + STEP_ROWS]
        found = [view.take(part, [], vectors=True) for view in (then, now)]
        if not all(mask.all() for mask, _ in found):
            raise StoreError(f"rows of table {now.name} were deleted meanwhile.")
        old, new = (np.concatenate([vector_block(batch) for batch in rows.to_batches()]) for _, rows in found)
        count += int((old != new).any(axis=1).sum())
    return count

"""Near-duplicate pairs: of files that `indexer near-duplicates --out` wrote beside a database, or computed now."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from indexer.duplicates.facts import COLUMNS, PairsFacts, facts_of, stored_facts
from indexer.duplicates.options import NearOptions
from indexer.errors import Busy, InputError, RowNotFound
from indexer.jsonable import jsonable
from indexer.serve.http.beside import files_beside, stamp_of
from indexer.serve.tables import ServedTable
from indexer.types import Bool, Int64

MOST_PAIRS = 200_000  # of a file that are shown
MOST_BYTES = 1 << 30  # of a file
MOST_COMPUTED = 20_000  # rows of a table in which a request may look for pairs
BATCH_ROWS = 16_384
ANY, GROUPS, SPLITS = "any", "groups", "splits"  # which pairs
_KEY = pa.dictionary(pa.int32(), pa.string())
KINDS = dict(zip(COLUMNS, (_KEY, _KEY, pa.float64(), pa.int64(), pa.int64(), pa.bool_()), strict=True))

_computing = threading.Lock()  # one search for pairs at a time takes all cores


@dataclass(frozen=True)
class Pairs:
    """Listed pairs and where they come from."""

    origin: str  # the file's name; "" where they were computed by the server
    facts: PairsFacts
    table: pa.Table  # at most MOST_PAIRS, largest clusters first
    total: int  # pairs in the file

    def across(self, which: str) -> Bool:
        """Mask (n,) of the pairs of two groups or two splits, both known. Raises InputError where none was named."""
        column = {GROUPS: self.facts.group, SPLITS: self.facts.split}.get(which)
        if which == ANY:
            return np.ones(self.table.num_rows, bool)
        if column is None:
            option = "--group" if which == GROUPS else "--split"
            raise InputError(f"these pairs were searched for without {option} COLUMN. Search again with it.")
        unlike = pc.not_equal(self.table.column(f"{column}_a"), self.table.column(f"{column}_b"))
        mask: Bool = np.asarray(pc.fill_null(unlike, False), bool)
        return mask


@dataclass(frozen=True)
class Shown:
    """Which pairs of a list."""

    across: str = ANY
    cluster: int | None = None  # None: of each cluster its closest pair
    limit: int = 24
    offset: int = 0


def files_of(served: ServedTable) -> list[tuple[Path, PairsFacts]]:
    """Files of pairs beside the database that are of this table, by name."""
    out = []
    for path in files_beside(served.store, "*.parquet", MOST_BYTES):
        facts = _facts(path)
        if facts is not None and facts.identity == served.store.state.identity and facts.table == served.store.name:
            out.append((path, facts))
    return out


def read_pairs(served: ServedTable, name: str) -> Pairs:
    """The pairs in the file of this name. Raises RowNotFound, InputError for a damaged file."""
    for path, facts in files_of(served):
        if path.name == name:
            pairs: Pairs = served.lists.of("file", stamp_of(path), partial(_read, path, facts))
            return pairs
    raise RowNotFound(f"no file of near-duplicate pairs of table {served.store.name} of that name beside the database.")


def may_compute(served: ServedTable) -> bool:
    """Whether the table is small enough."""
    return served.searcher.snapshot.count() <= MOST_COMPUTED


def computed_pairs(served: ServedTable, options: NearOptions) -> Pairs:
    """All pairs of a small table. Raises InputError, and Busy while another request computes."""
    view = served.searcher.snapshot.view
    if not may_compute(served):
        raise InputError(
            f"a server looks for near-duplicates among {MOST_COMPUTED:,} images at most. Run `indexer near-duplicates "
            "DB --out FILE.parquet` and put the file beside the database."
        )

    def make() -> Pairs:
        from indexer.duplicates.find import find_near_duplicates  # with scipy 20 MB, for those who ask

        if not _computing.acquire(blocking=False):
            raise Busy("near-duplicates are being computed for another request. Try again in a moment.")
        try:
            _, table = find_near_duplicates(view, options)
        finally:
            _computing.release()
        return Pairs("", facts_of(view, options), table.slice(0, MOST_PAIRS), table.num_rows)

    pairs: Pairs = served.lists.of(view.state.commit, options, make)
    return pairs


def page_of(served: ServedTable, pairs: Pairs, shown: Shown) -> dict[str, Any]:
    """A page of pairs, the closest first, as JSON types. Raises InputError."""
    snapshot = served.searcher.snapshot
    order = _order(pairs, shown)
    rows = pairs.table.take(pa.array(order[shown.offset : shown.offset + shown.limit])).to_pylist()
    closer = served.pairs(snapshot).share_closer(np.array([row["score"] for row in rows])).tolist()
    return {
        "table": served.store.name,
        "version": pairs.facts.version,
        "newest_version": snapshot.version,
        "origin": pairs.origin or "computed now",
        "made_from": asdict(pairs.facts),
        "listed": pairs.table.num_rows,
        "in_file": pairs.total,
        "count": len(order),
        "pairs": [_pair(row, share, pairs.facts) for row, share in zip(rows, closer, strict=True)],
    }


def _pair(row: dict[str, Any], share: float, facts: PairsFacts) -> dict[str, Any]:
    columns = [name for name in dict.fromkeys((facts.group, facts.split)) if name is not None]
    images = [{"key": row[f"key_{s}"], "columns": {name: row[f"{name}_{s}"] for name in columns}} for s in "ab"]
    own: dict[str, Any] = jsonable({
        "score": row["score"], "closer_pairs": share, "same_bytes": row["same_bytes"], "cluster": row["cluster"],
        "cluster_pairs": row["cluster_pairs"], "images": images,
    })  # fmt: skip
    return own


def _order(pairs: Pairs, shown: Shown) -> Int64:
    """Positions of the pairs to show, the closest first; of equal ones the first in the list."""
    found = np.flatnonzero(pairs.across(shown.across))
    clusters = pairs.table.column("cluster").to_numpy()[found]
    if shown.cluster is not None:
        found = found[clusters == shown.cluster]
    scores = pairs.table.column("score").to_numpy()[found]
    order: Int64 = found[np.argsort(-scores, kind="stable")]
    if shown.cluster is not None:
        return order
    _, first = np.unique(pairs.table.column("cluster").to_numpy()[order], return_index=True)
    return order[np.sort(first)]


def _facts(path: Path) -> PairsFacts | None:
    try:
        return stored_facts(pq.read_schema(path))
    except (OSError, pa.ArrowException):
        return None


def _read(path: Path, facts: PairsFacts) -> Pairs:
    extra = [f"{name}_{side}" for name in (facts.group, facts.split) if name is not None for side in "ab"]
    names = list(dict.fromkeys([*COLUMNS, *extra]))
    try:
        with pq.ParquetFile(path, read_dictionary=[name for name, kind in KINDS.items() if kind == _KEY]) as file:
            total, held, parts = file.metadata.num_rows, 0, []
            for batch in file.iter_batches(BATCH_ROWS, columns=names):
                parts.append(batch.slice(0, MOST_PAIRS - held))
                held += parts[-1].num_rows
                if held >= MOST_PAIRS:
                    break
            table = pa.Table.from_batches(parts) if parts else file.schema_arrow.empty_table().select(names)
        table = _checked(table, facts)
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:  # KeyError: of a nested column
        raise InputError(f"{path.name} cannot be read ({str(error).splitlines()[0][:200]}). Make it again.") from error
    return Pairs(path.name, facts, table, total)


def _checked(table: pa.Table, facts: PairsFacts) -> pa.Table:
    """Raises ValueError or ArrowException where a column holds what `indexer near-duplicates` does not write."""
    for name, kind in KINDS.items():
        column = table.column(name).cast(kind)
        if column.null_count or (kind == pa.float64() and not pc.all(pc.is_finite(column), min_count=0).as_py()):
            raise ValueError(f"column {name} lacks values")
        table = table.set_column(table.schema.get_field_index(name), name, column)
    for own in (facts.group, facts.split):
        if own is not None:
            pc.not_equal(table.column(f"{own}_a"), table.column(f"{own}_b"))
    return table

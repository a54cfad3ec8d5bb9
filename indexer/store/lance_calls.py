"""The writer's calls to Lance, which raise this package's errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa

from indexer.addresses import is_remote
from indexer.errors import StoreError
from indexer.store.filters import quoted
from indexer.store.holding.commits import committing
from indexer.store.lance_errors import first_line, writing
from indexer.store.mend import exists, mend, newest_damage

IN_LIST = 1000  # values in one SQL list


def open_or_create(path: str, schema: pa.Schema) -> Any:
    if is_remote(path):
        try:
            return lance.dataset(path)
        except (ValueError, OSError) as error:
            if "not found" not in str(error).lower():
                raise StoreError(f"{path} cannot be opened: {first_line(error)}") from error
    elif exists(Path(path)):
        return lance.dataset(path)
    with writing(path):
        return lance.write_dataset(schema.empty_table(), path, schema=schema)


def append(dataset: Any, table: pa.Table) -> Any:
    with committing(dataset):
        return lance.write_dataset(table, dataset, mode="append")


def require_whole(path: Path, whole: set[str] | None = None) -> None:
    """Raise StoreError, and roll the newest version back, where one of its files is truncated.

    Lance does not notice every failed write: on a full disk or past a limit of file size it may commit a version
    with a truncated file. Each step is therefore checked before the next. `whole` holds the names of files that were
    checked before.
    """
    cause = newest_damage(path, whole)
    if cause is not None:
        mend(path)
        raise StoreError(
            f"{path} could not be written whole ({cause}): no space left on the disk, or a limit of file size? "
            "Fix the cause and run the same command again; what is stored stays."
        )


def delete(dataset: Any, column: str, values: Sequence[str], also: str = "TRUE") -> bool:
    """Delete the rows whose column has one of the values; returns whether there were any."""
    deleted = False
    for chunk in chunks(values):
        where = f"({also}) AND {column} IN ({', '.join(map(quoted, chunk))})"
        if dataset.count_rows(filter=where):  # an empty delete would still add a version
            with committing(dataset):
                dataset.delete(where, conflict_retries=0)
            deleted = True
    return deleted


def update_columns(dataset: Any, values: Callable[[Any], pa.Table]) -> int:
    """Give rows new values in columns that are there, in one commit; how many rows got any. No other column is written.

    `values` gives, of a fragment, `key` and the new values of the rows that get some.
    """
    fragments, fields, rows, matched = [], set[int](), {}, 0
    for fragment in dataset.get_fragments():
        table = values(fragment)
        if table.num_rows:
            metadata, changed, offsets = fragment.update_columns(table, "key", "key", with_offsets=True)
            fragments.append(metadata)
            fields.update(changed)
            rows[fragment.fragment_id] = offsets
            matched += table.num_rows
    if fragments:
        operation = lance.LanceOperation.Update(
            updated_fragments=fragments,
            fields_modified=sorted(fields),
            update_mode="rewrite_columns",
            updated_fragment_offsets=rows,
        )
        with committing(dataset):
            lance.LanceDataset.commit(dataset, operation, read_version=dataset.version)
    return matched


def chunks(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (values[i : i + IN_LIST] for i in range(0, len(values), IN_LIST))

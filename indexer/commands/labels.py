"""`indexer labels`: joins label columns to the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from indexer.errors import InputError
from indexer.options import emit, json_option, table_option


@click.command("labels", short_help="Join label columns from CSV or Parquet to the rows.")
@click.argument("db")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--on", default="key", show_default=True, help="Column of FILE and of the table that names the row.")
@table_option
@json_option
def command(db: str, file: Path, on: str, table: str | None, as_json: bool) -> None:
    """Join the columns of FILE (CSV or Parquet) to the rows of DB. No vector is rewritten.

    With --on patient, every row of a patient gets the patient's labels. Rows that FILE does not name keep their
    values; an empty cell clears the row's value. A column keeps its type.
    """
    from indexer.store.label_file import read_labels
    from indexer.store.labels import add_columns
    from indexer.store.table import EmbeddingStore

    store = EmbeddingStore.open(db, table)
    labels = read_labels(file, on)
    if on != "key" and on not in store.columns():
        raise InputError(f"table {store.name} has no column {on!r}; it has: key, {', '.join(store.columns())}.")
    rows = add_columns(store, labels, on=on)
    facts: dict[str, Any] = {
        "table": store.name,
        "columns": [c for c in labels.column_names if c != on],
        "labels": labels.num_rows,
        "rows_labelled": rows,
        "rows_without": store.count() - rows,
    }
    emit(facts, as_json=as_json)

"""`indexer labels`: joins label columns to the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from indexer.errors import InputError
from indexer.options import emit, json_option, plain, table_option


@click.command(
    "labels",
    short_help="Join label columns from CSV or Parquet to the rows.",
    epilog="CSV may be divided by comma, semicolon, TAB or bar, in UTF-8, or UTF-16 with a byte order mark. A column "
    'name that is not plain is stored as one: "Patient ID" as patient_id. Blank, NA, N/A, n/a, NaN, NULL, None, <NA> '
    "and #N/A are missing. A number that no column of numbers holds exactly stays text: 007, 19 digits, 1E10.",
)
@click.argument("db")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--on", default="key", show_default=True, metavar="[COLUMN=]COLUMN",
    help="Column of FILE and of DB that names the row; with =, FILE's and then DB's.",
)  # fmt: skip
@click.option("--columns", metavar="A,B=NEW", help="Columns of FILE to join, with new names. Default: all.")
@click.option(
    "--hash",
    "hashed",
    metavar="COLUMN",
    help="DB's column of --on holds hashed identifiers, and FILE plain ones: hash those as `indexer pack` did.",
)
@click.option("--secret", type=click.Path(path_type=Path), help="File with the hashes' key, as for `indexer pack`.")
@click.option("--site", "sites", multiple=True, metavar="NAME", help="Issuer of patient ids, where there was one.")
@click.option("--encoding", metavar="NAME", help="Of a CSV file, e.g. cp1252. Default: UTF-8, or by its first bytes.")
@table_option
@json_option
def command(
    *,
    db: str,
    file: Path,
    on: str,
    columns: str | None,
    hashed: str | None,
    secret: Path | None,
    sites: tuple[str, ...],
    encoding: str | None,
    table: str | None,
    as_json: bool,
) -> None:
    """Join the columns of FILE (CSV or Parquet) to the rows of DB. No vector is rewritten.

    With --on patient, every row of a patient gets the patient's labels. Rows that FILE does not name keep what
    they had; an empty cell empties the row's value. A column keeps its type: text does not become a number's.
    A name without a row of that name is also looked for without its folder, image ending, letter case and Unicode
    form, and taken where one row alone answers. With --on PatientID=patient --hash patient, plain patient ids join a
    table packed from DICOM, and only their hashes are stored.
    """
    if (secret or sites) and hashed is None:
        raise click.UsageError("--secret and --site say how to hash: give them with --hash COLUMN.")
    from indexer.store.labelling.file import Choice, parse_columns, read_labels
    from indexer.store.labelling.join import join_labels
    from indexer.store.table import EmbeddingStore

    store = EmbeddingStore.open(db, table)
    own, _, other = on.rpartition("=") if "=" in on else (on, "", on)
    stored = store.columns()
    if other != "key" and other not in stored:
        raise InputError(
            f"table {store.name} has no column {other!r}; it has: {', '.join(['key', *stored])}. Name one with --on."
        )
    if hashed not in (None, own, other):
        raise InputError(f"--hash {hashed} is not the column by which rows are named: say --on COLUMN={hashed} too.")
    choice = Choice(own, other, parse_columns(columns) if columns is not None else (), encoding)
    labels = read_labels(file, choice, stored)
    given = labels.table
    if hashed is not None:
        from indexer.upkeep.pseudonyms import Pseudonyms, hashed_names

        given = hashed_names(store, given, other, Pseudonyms.load(secret, sites, database=db))
    joined = join_labels(store, given, other)
    facts: dict[str, Any] = {
        "table": store.name,
        "columns": labels.table.column_names[1:],
        "labels": labels.table.num_rows,
        "labels_without_row": joined.unused,
        "rows_labelled": joined.rows,
        "rows_without": store.count() - joined.rows,
        "notes": [*labels.notes, *joined.notes()],
    }
    emit(facts, as_json=as_json, text=_text)


def _text(facts: dict[str, Any]) -> str:
    return "\n".join([plain({name: value for name, value in facts.items() if name != "notes"}), *facts["notes"]])

"""`indexer labels`: joins label columns to the rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from indexer.errors import InputError
from indexer.options import emit, json_option, patient_pattern_option, plain, say, table_option

if TYPE_CHECKING:
    from indexer.store.labelling.choices import Choices
    from indexer.store.table import EmbeddingStore


@click.command(
    "labels",
    short_help="Join label columns from CSV or Parquet to the rows.",
    epilog="CSV may be divided by comma, semicolon, TAB or bar, in UTF-8, or UTF-16 with a byte order mark. A column "
    'name that is not plain is stored as one: "Patient ID" as patient_id. Blank, NA, N/A, n/a, NaN, NULL, None, <NA> '
    "and #N/A are missing. A number that no column of numbers holds exactly stays text: 007, 19 digits, 1E10.",
)
@click.argument("db")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--on", metavar="[COLUMN=]COLUMN",
    help="Column of FILE and of DB that names the row; with =, FILE's and then DB's.  [default: key]",
)  # fmt: skip
@click.option("--columns", metavar="A,B=NEW", help="Columns of FILE to join, with new names. Default: all.")
@click.option("--without", multiple=True, metavar="COLUMN", help="Column of FILE to leave out. Repeatable.")
@click.option("--preset", metavar="NAME", help="The options for a public data set, e.g. chexpert; they are printed.")
@click.option("--from-key", metavar="REGEX", help="First make columns of the named groups found in DB's keys.")
@click.option("--rewrite", nargs=2, metavar="REGEX TEXT", help="Change FILE's names of rows by a regular expression.")
@click.option("--split-values", multiple=True, metavar="[COLUMN=]MARK", help="A list such as A|B becomes 0/1 columns.")
@click.option("--one-hot", multiple=True, metavar="A,B,C=NAME", help="0/1 columns become one column of classes.")
@click.option("--uncertain", multiple=True, metavar="[COLUMN:]VALUE=MEANING", help="Meaning: missing, 0, 1 or class.")
@click.option("--grades", multiple=True, metavar="COLUMN=A<B<C", help="Words become the grades 0, 1, 2, …")
@click.option(
    "--repeated", type=click.Choice(["error", "same", "first", "max", "mean", "majority"]),
    help="For several rows of one name. same: they must agree.  [default: error]",
)  # fmt: skip
@click.option(
    "--hash",
    "hashed",
    metavar="COLUMN",
    help="DB's column of --on holds hashed identifiers, and FILE plain ones: hash those as `indexer pack` did.",
)
@click.option("--secret", type=click.Path(path_type=Path), help="File with the hashes' key, as for `indexer pack`.")
@click.option("--site", "sites", multiple=True, metavar="NAME", help="Issuer of patient ids, where there was one.")
@patient_pattern_option("The part of patient ids that counts, as for `indexer pack`.")
@click.option("--encoding", metavar="NAME", help="Of a CSV file, e.g. cp1252. Default: UTF-8, or by its first bytes.")
@table_option
@json_option
def command(
    *,
    db: str,
    file: Path | None,
    columns: str | None,
    hashed: str | None,
    secret: Path | None,
    sites: tuple[str, ...],
    patient_pattern: str,
    encoding: str | None,
    table: str | None,
    preset: str | None,
    as_json: bool,
    **typed: Any,
) -> None:
    """Join the columns of FILE (CSV or Parquet, also .gz) to the rows of DB. No vector is rewritten.

    With --on patient, every row of a patient gets the patient's labels. Rows that FILE does not name keep what
    they had; an empty cell empties the row's value. A column keeps its type: text does not become a number's.
    A name without a row of that name is also looked for without its folder, image ending, letter case and Unicode
    form, and taken where one row alone answers. With --on PatientID=patient --hash patient, plain patient ids join a
    table packed from DICOM, and only their hashes are stored.
    """
    if (secret or sites or patient_pattern) and hashed is None:
        raise click.UsageError("--secret, --site and --patient-pattern say how to hash: give them with --hash COLUMN.")
    from indexer.store.labelling.choices import with_preset

    given = {
        name.replace("_", "-"): value if isinstance(value, tuple) else (value,)
        for name, value in typed.items()
        if value
    }
    choices, notes = with_preset(preset, given | ({"columns": (columns,)} if columns is not None else {}))
    if file is None and (set(choices) != {"from-key"} or encoding or hashed):
        raise click.UsageError("name the FILE of labels; --from-key alone needs none.")
    from indexer.store.table import EmbeddingStore

    store = EmbeddingStore.open(db, table)
    for note in notes if not as_json else []:
        say(note, err=True)
    if "from-key" in choices:
        from indexer.store.labelling.from_key import label_from_keys

        notes.append(label_from_keys(store, choices["from-key"][0]))
    if file is None:
        emit({"table": store.name, "notes": notes}, as_json=as_json, text=_text)
        return
    emit(
        _joined(store, db, file, choices, encoding, (hashed, secret, sites, patient_pattern), notes),
        as_json=as_json,
        text=_text,
    )


def _joined(
    store: EmbeddingStore, db: str, file: Path, choices: Choices, encoding: str | None,
    hashing: tuple[str | None, Path | None, tuple[str, ...], str], notes: list[str],
) -> dict[str, Any]:  # fmt: skip
    """Read, reshape and join the labels; the facts to print."""
    from indexer.store.labelling.choices import reshaping
    from indexer.store.labelling.file import Choice, parse_columns, read_labels
    from indexer.store.labelling.join import join_labels
    from indexer.store.labelling.reshape import reshaped

    hashed, secret, sites, pattern = hashing
    on = choices.get("on", ("key",))[0]
    own, _, other = on.rpartition("=") if "=" in on else (on, "", on)
    stored = store.columns()
    if other != "key" and other not in stored:
        raise InputError(
            f"table {store.name} has no column {other!r}; it has: {', '.join(['key', *stored])}. Name one with --on."
        )
    if hashed not in (None, own, other):
        raise InputError(f"--hash {hashed} is not the column by which rows are named: say --on COLUMN={hashed} too.")
    plan = reshaping(choices)
    chosen = parse_columns(choices["columns"][0]) if "columns" in choices else ()
    labels = read_labels(file, Choice(own, other, chosen, encoding, choices.get("without", ())), stored)
    names = None
    if hashed is not None:
        from indexer.upkeep.pseudonyms import Pseudonyms, hashed_names

        pseudonyms = Pseudonyms.load(secret, sites, pattern, database=db)
        names = partial(hashed_names, store, on=other, pseudonyms=pseudonyms)
    given, said = reshaped(labels.table, plan, names)
    joined = join_labels(store, given, other)
    return {
        "table": store.name,
        "columns": given.column_names[1:],
        "labels": given.num_rows,
        "labels_without_row": joined.unused,
        "rows_labelled": joined.rows,
        "rows_without": store.count() - joined.rows,
        "notes": [*notes, *labels.notes, *said, *joined.notes()],
    }


def _text(facts: dict[str, Any]) -> str:
    return "\n".join([plain({name: value for name, value in facts.items() if name != "notes"}), *facts["notes"]])

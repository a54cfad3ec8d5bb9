"""Migrates a table and its side tables to the current format, in place, under the writer's lock.

Every step is one Lance commit, and a second call continues from the state after any step, so a kill between two steps
does no harm; no vector is read or rewritten. The steps from format 1: columns whose names format 2 reserves are
renamed; the table gets its identity; its side tables are marked with it; `part` is computed from `frame`; `frame` is
dropped; the format number is raised. Hence a table of format 1 with an identity is one whose migration was interrupted,
and an unmarked side table beside a table of format 2 belongs to a table that was dropped by hand.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa

from indexer.disk import DiskSync
from indexer.store.formats.format import (
    FORMAT,
    UNMARKED,
    TableFacts,
    facts_of,
    new_facts,
    new_identity,
    package_version,
)
from indexer.store.holding.commits import committing
from indexer.store.lance_errors import writing
from indexer.store.mend import exists, mend
from indexer.store.schema import FAILURE_SCHEMA, LEDGER_SCHEMA, UNREADABLE, default_of, side_schema

SIDES = {"shards": LEDGER_SCHEMA, "failures": FAILURE_SCHEMA}  # `write_text` marks the text vectors, which it rewrites
PART = "coalesce(nullif(CAST(frame AS string), '0'), '')"  # the same as `opened.part_of`
OWN = "own_"  # prefix of renamed columns


def migrate(uri: str, name: str) -> dict[str, str]:
    """Migrate table `name` to the current format; returns the renamed columns, old name → new.

    Does nothing where all tables have the current format, or the table is missing or of another program. Raises
    NewerFormat before anything is written, and StoreError.
    """
    stem = f"{uri.rstrip('/')}/{name}"
    with writing(f"table {name} in {uri}, whose format was to be raised,"):
        main = _open(f"{stem}.lance")
        facts = None if main is None else facts_of(main.schema.metadata, name)
        if main is None or facts is None or facts.encoder is None:
            return {}
        sides = {kind: side for kind in SIDES if (side := _open(f"{stem}.{kind}.lance")) is not None}
        marks = {kind: facts_of(side.schema.metadata, f"{name}.{kind}") for kind, side in sides.items()}
        before = main.version
        unmarked = not facts.identity
        renamed = _rename(main, [*_unreadable(main), *(_taken(main) if unmarked else [])])
        if unmarked:
            facts = replace(facts, identity=new_identity())
            with committing(main):
                main.update_schema_metadata(facts.to_metadata())
        for kind, side in sides.items():
            _migrate_side(side, marks[kind] or UNMARKED, SIDES[kind], facts)
        if facts.format < FORMAT:
            _to_parts(main, facts)
        _sync(main, before)
    return renamed


def _to_parts(main: Any, facts: TableFacts) -> None:
    """Replace `frame` by `part`, then raise the format number."""
    if "part" not in main.schema.names:
        with committing(main):
            main.add_columns({"part": PART})
    if "frame" in main.schema.names:
        with committing(main):
            main.drop_columns(["frame"])
    with committing(main):
        raised = replace(facts, format=FORMAT, package=package_version(), migrated_at=main.version)
        main.update_schema_metadata(raised.to_metadata())


def _unreadable(main: Any) -> list[str]:
    return [name for name in main.schema.names if name in UNREADABLE]


def _taken(main: Any) -> list[str]:
    """Metadata and label columns of format 1 whose names format 2 reserves."""
    return [name for name in main.schema.names if name == "part" or name.startswith("part_")]


def _rename(main: Any, names: list[str]) -> dict[str, str]:
    """Rename these columns, with the prefix OWN; returns old name → new."""
    renamed: dict[str, str] = {}
    for name in names:
        new = OWN + name.lstrip("_")
        while new in main.schema.names:
            new += "_"
        with committing(main):
            main.alter_columns({"path": name, "name": new})
        renamed[name] = new
    return renamed


def _migrate_side(side: Any, facts: TableFacts, columns: pa.Schema, main: TableFacts) -> None:
    """Mark a side table with the main table's identity, and add its missing columns.

    A side table of another table, which was dropped by hand, is emptied: its rows are about other shards.
    """
    before = side.version
    if facts.identity != main.identity and not (facts.identity == "" and main.format < FORMAT):
        with committing(side):
            side = lance.write_dataset(side_schema(columns, main.identity).empty_table(), side, mode="overwrite")
        facts = new_facts(main.identity)
    missing = pa.schema([field for field in columns if field.name not in side.schema.names])
    if len(missing):
        with committing(side):
            side.add_columns(_blank(missing), read_columns=[side.schema.names[0]])
    if facts.format < FORMAT:
        with committing(side):
            side.update_schema_metadata(new_facts(main.identity).to_metadata())
    _sync(side, before)


def _blank(columns: pa.Schema) -> Any:
    """A Lance UDF that adds these columns with their default values."""

    def blank(batch: pa.RecordBatch) -> pa.RecordBatch:
        arrays = [pa.repeat(default_of(field.type), batch.num_rows) for field in columns]
        return pa.RecordBatch.from_arrays(arrays, schema=columns)

    return lance.batch_udf(output_schema=columns)(blank)


def _sync(dataset: Any, before: int) -> None:
    """Sync the files of versions newer than `before` to the disk."""
    if dataset.version != before and "://" not in dataset.uri:
        DiskSync().sync(Path(dataset.uri))


def _open(path: str) -> Any:
    """The dataset, after a rollback of damaged versions; None where there is no such table."""
    if "://" not in path:
        mend(Path(path))
        return lance.dataset(path) if exists(Path(path)) else None
    try:
        return lance.dataset(path)
    except (ValueError, OSError) as error:
        if "not found" in str(error).lower():
            return None
        raise

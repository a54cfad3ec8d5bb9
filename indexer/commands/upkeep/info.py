"""`indexer info`: prints what a table holds and which encoder made it."""

from __future__ import annotations

from collections import Counter

import click

from indexer.options import counted, emit, json_option, say, table_option

SHOWN = ("first", "last", "positions", "spacing")  # of a group without positions too


@click.command("info", short_help="What a table holds and which encoder made it.")
@click.argument("db")
@click.option("--by", metavar="COLUMN", help="List the groups of this column (series, study, patient) instead.")
@click.option("--flagged", is_flag=True, help="With --by: only groups with a flaw.")
@table_option
@json_option
def command(db: str, by: str | None, flagged: bool, table: str | None, as_json: bool) -> None:
    """Print what DB holds: rows, shards, failures, columns, and the encoder that made the vectors.

    With --by, the groups of a column: their rows, and for series of slices the positions along the normal (mm, from
    orientation and position; `part_z`, by which their rows are in order), the spacing between them, and flaws by name:
    positions missing or doubled, gaps, uneven spacing, several orientations, echoes, phases, acquisitions, times or
    patients, gantry tilt, spacing that contradicts the header's.
    """
    if flagged and not by:
        raise click.UsageError("--flagged is of groups: give --by COLUMN too.")
    if by:
        _list_groups(db, table, by, flagged=flagged, as_json=as_json)
        return
    from indexer.pipeline.run_record import runs
    from indexer.store.names import table_names
    from indexer.store.table import EmbeddingStore

    names = [table] if table else table_names(db)
    if not names:
        say(f"{db} holds no table. `indexer index` makes one.", err=True)
    stores = [EmbeddingStore.open(db, name) for name in names]
    facts = []
    for store in stores:
        ledger = store.ledger()  # one row for each shard
        statuses = Counter(ledger.column("status").to_pylist())
        last = next(iter(runs(store)[::-1]), None)
        spec = store.spec
        facts.append(
            {
                "table": store.name,
                "rows": store.count(),
                "shards": ledger.num_rows,
                "shards_partial": statuses["partial"],
                "shards_begun": statuses["begun"],
                "failures": store.count_failures(),
                "version": store.version,
                "format": store.format,
                "keys": store.keys,
                "tiles": store.tiles or "none: rows are of whole images",
                "identity": store.state.identity or "none yet: a table of format 1",
                "encoder": spec.name,
                "weights": spec.weights + (" (random: the vectors mean nothing)" if spec.random else ""),
                "fingerprint": spec.fingerprint,
                "dim": spec.dim,
                "pooling": spec.pooling,
                "precision": spec.precision,
                "pixels": spec.pixels,
                "licence": spec.licence,
                "last_run": f"{last['started_at']}: {last['status']}" if last else "none recorded",
                "columns": {name: str(kind) for name, kind in store.columns().items()},
            }
        )
    if as_json:
        emit(facts, as_json=True)
    else:
        for number, fact in enumerate(facts):
            if number:
                say("")
            emit(fact, as_json=False)


def _list_groups(db: str, table: str | None, by: str, *, flagged: bool, as_json: bool) -> None:
    from indexer.groups.listing import listed_groups
    from indexer.progress.terminal import Terminal
    from indexer.store.table import EmbeddingStore

    found, flaws, count = [], Counter[str](), 0
    for group in listed_groups(EmbeddingStore.open(db, table), by, progress=Terminal()):
        own = group.geometry.flags if group.geometry else ()
        flaws.update(own)
        count += 1
        if own or not flagged:
            placed = vars(group.geometry) if group.geometry else dict.fromkeys(SHOWN)
            found.append({by: group.group, "rows": group.rows, **placed, "flags": list(own)})
    found.sort(key=lambda one: str(one[by]))
    if as_json:
        emit({"by": by, "count": count, "flags": flaws, "groups": found}, as_json=True)
        return
    if found:
        emit(found, as_json=False)
    words = ", ".join(f"{name} {n}" for name, n in sorted(flaws.items())) or "none"
    say(f"{counted(count, 'group')}; flaws: {words}", err=True)

"""`indexer info`: prints what a table holds and which encoder made it."""

from __future__ import annotations

from collections import Counter

import click

from indexer.options import emit, json_option, say, table_option


@click.command("info", short_help="What a table holds and which encoder made it.")
@click.argument("db")
@table_option
@json_option
def command(db: str, table: str | None, as_json: bool) -> None:
    """Print what DB holds: rows, shards, failures, columns, and the encoder that made the vectors."""
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

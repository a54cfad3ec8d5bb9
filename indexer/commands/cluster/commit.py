"""`indexer commit`: adds the shards that parts of a run left beside a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from indexer.options import counted, emit, json_option, table_option
from indexer.pipeline.options import RunOptions

if TYPE_CHECKING:
    from indexer.pipeline.parts.commit import CommitReport


@click.command("commit", short_help="Add what the parts of a run left beside a table.")
@click.argument("database", metavar="DB")
@table_option
@json_option
@click.pass_context
def command(ctx: click.Context, *, database: str, table: str | None, as_json: bool) -> None:
    """Add to a table every shard that waits beside it, each once.

    They were embedded with `indexer index SHARDS DB --part I/N --no-commit`, or by a part that was stopped before its
    turn. Run it again after a stop. Exit code 1 where shards are to be embedded again.
    """
    from indexer.commands.index_report import command_line
    from indexer.pipeline.parts.commit import commit_pending
    from indexer.pipeline.run_record import recorded
    from indexer.progress.terminal import Terminal
    from indexer.store.pending.place import pending_place
    from indexer.store.table import EmbeddingStore
    from indexer.store.writer import StoreWriter

    store = EmbeddingStore.open(database, table)
    with StoreWriter(store) as writer, recorded(store, command_line(), {"committed": "pending shards"}) as record:
        place, beside = pending_place(store), record.beside
        report = commit_pending(writer, place, Terminal(), rows=RunOptions.commit_rows, beside=beside)
        writer.tidy()
    emit(report, as_json=as_json, text=commit_text)
    ctx.exit(0 if report.whole else 1)


def commit_text(report: CommitReport) -> str:
    """The report as text."""
    lines = [
        f"committed to table {report.table}: {counted(report.shards, 'shard')}, {counted(report.rows, 'row')}, "
        f"{counted(report.failed, 'failure')}"
    ]
    if report.before:
        lines.append(f"{counted(report.before, 'shard')} were in the table already")
    if report.adopted:
        lines.append(f"{counted(report.adopted, 'image')} adopted: the table has them under another shard")
    lines += [f"failed: {n} x {reason}" for reason, n in report.reasons.items()]
    again = "run the same parts again, which embed it anew"
    lines += [f"not added: {name} was indexed by another run since it was embedded; {again}" for name in report.stale]
    lines += [f"not added: {name}; {again}" for name in report.damaged]
    lines += [f"note: {words}" for words in report.notes]
    return "\n".join(lines)

"""`indexer failures`: lists the inputs that could not be embedded, with reasons; --retry reads them again."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import click

from indexer.options import (
    device_option,
    download_option,
    emit,
    frames_option,
    json_option,
    pictures_option,
    plain,
    say,
    table_option,
    time_option,
)
from indexer.pipeline.options import RunOptions

if TYPE_CHECKING:
    from indexer.store.table import EmbeddingStore

LISTED = ("shard", "key", "stage", "reason", "detail")


@click.command("failures", short_help="What could not be embedded, and why; --retry reads just those again.")
@click.argument("db")
@click.argument("shards", nargs=-1)
@table_option
@click.option("--summary", is_flag=True, help="Count by stage and reason.")
@click.option("--retry", "again", is_flag=True, help="Decode and embed the failed samples again.")
@click.option("--weights", metavar="FILE", help="With --retry: where the encoder's weights file is now.")
@pictures_option
@download_option
@frames_option(RunOptions.frames)
@time_option(RunOptions.time)
@device_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    db: str,
    shards: tuple[str, ...],
    table: str | None,
    summary: bool,
    again: bool,
    weights: str | None,
    pictures_from: tuple[str, ...],
    download: bool,
    frames: str,
    time: str,
    device: str,
    as_json: bool,
) -> None:
    """List each input of DB that did not become a row: shard, key, stage, reason, detail; and of packed shards the
    path of the file that was packed, where the list in their folder's .pack is at hand.

    With --retry give --frames and --time as they were given to `indexer index`, and SHARDS that were addressed by a
    command (pipe:) or with a query: such addresses are not stored.
    """
    if shards and not again:
        raise click.UsageError("SHARDS are read again: give them with --retry.")
    from indexer.store.table import EmbeddingStore

    store = EmbeddingStore.open(db, table)
    if again:
        from indexer.commands.index_report import command_line, print_report
        from indexer.encoders import load_spec
        from indexer.pipeline.drive import Hooks
        from indexer.pipeline.retry import retry
        from indexer.progress.terminal import Terminal

        encoder = load_spec(store.spec, weights=weights, device=device, download=download)
        options = RunOptions(frames=frames, time=time, command=command_line())
        report = retry(store, encoder, options, Hooks(Terminal()), sources=shards, roots=pictures_from)
        print_report(report, as_json=as_json)
        ctx.exit(130 if report.interrupted else 0)
    if not store.count_failures() and not as_json:
        say(f"no failures in table {store.name}", err=True)
    elif summary:
        emit(_counted(store), as_json=as_json)
    else:
        _listed(store, as_json=as_json)


def _counted(store: EmbeddingStore) -> list[dict[str, object]]:
    """Numbers of failures by stage and reason, most frequent first."""
    counts: Counter[tuple[str, str]] = Counter()
    for batch in store.scan_failures(["stage", "reason"]):
        counts.update(zip(batch.column("stage").to_pylist(), batch.column("reason").to_pylist(), strict=True))
    return [{"count": n, "stage": stage, "reason": reason} for (stage, reason), n in counts.most_common()]


def _listed(store: EmbeddingStore, *, as_json: bool) -> None:
    """Print each failure as it is read: all of them may not fit into memory."""
    from indexer.upkeep.pack_paths import paths_of_failures

    printed = False
    paths = paths_of_failures(store)
    for batch in store.scan_failures(LISTED):
        for row in batch.to_pylist():
            if paths or as_json:
                row["path"] = paths.get((row["shard"], row["key"]))
            if as_json:
                say(", " if printed else "[", nl=False)
                say(json.dumps(row, ensure_ascii=False), nl=False)
            else:
                say(plain([row]) if not printed else plain([row]).split("\n", 1)[1])
            printed = True
    if as_json:
        say("]" if printed else "[]")

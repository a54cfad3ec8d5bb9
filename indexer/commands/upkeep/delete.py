"""`indexer delete`: images that must go, as where consent is withdrawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from indexer.disk import read_bounded
from indexer.errors import InputError
from indexer.options import counted, emit, json_option, say, table_option

if TYPE_CHECKING:
    from indexer.upkeep.delete import DeleteReport

MOST_BYTES = 1 << 30  # of a file of keys


@click.command("delete", short_help="Delete images for good (withdrawn consent), with a receipt.")
@click.argument("database", metavar="DB")
@click.option("--where", metavar="SQL", help="Every image for which this holds, e.g. \"patient = 'a1b2'\".")
@click.option(
    "--keys",
    "keys_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Every image that FILE names, one key a line.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@table_option
@json_option
def command(
    *, database: str, where: str | None, keys_file: Path | None, yes: bool, table: str | None, as_json: bool
) -> None:
    """Delete images of DB: their rows and failures, the index, the map, pooled vectors, and the
    probes' copies of vectors.

    Searches no longer find them at once. `indexer index` never embeds them again: a receipt in <table>.deleted keeps
    the hashes of their keys, and `indexer failures` lists them by hash. The shards themselves are not touched. Then
    run `indexer optimize DB --purge`, which removes old versions, and `indexer build-ann DB`. In a bucket that keeps
    versions of its objects, the old ones stay until the bucket's own rules remove them.
    """
    if (where is None) == (keys_file is None):
        raise click.UsageError("say what to delete: give --where SQL or --keys FILE")
    from indexer.commands.index_report import command_line
    from indexer.store.table import EmbeddingStore
    from indexer.upkeep.delete import delete

    def confirm(images: int, rows: int) -> None:
        if not yes:
            _ask(f"delete {counted(images, 'image')} ({counted(rows, 'row')}) for good?")

    keys = _keys(keys_file) if keys_file else set()
    store = EmbeddingStore.open(database, table)
    emit(delete(store, where=where, keys=keys, command=command_line(), confirm=confirm), as_json=as_json, text=_text)


def _ask(question: str) -> None:
    """Raise InputError where the answer is no, or where nobody can answer."""
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort as stop:  # click's, for Ctrl-C and for the end of the input
        if isinstance(stop.__context__, EOFError):
            say("", err=True)
            raise InputError(
                "nothing was deleted: the question was not answered. Add --yes where nobody can."
            ) from None
        raise
    if not agreed:
        raise InputError("nothing was deleted, as answered.")


def _keys(path: Path) -> set[str]:
    try:
        lines = read_bounded(path, MOST_BYTES).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text. Give one key a line.") from error
    except ValueError as error:
        raise InputError(f"{error}. Give a file of one key a line, in several parts where it is large.") from error
    return {line.removesuffix("\r") for line in lines} - {""}


def _text(report: DeleteReport) -> str:
    from indexer.upkeep.delete import NEXT

    lines = [
        f"deleted from table {report.table}: {counted(report.images, 'image')} ({counted(report.rows, 'row')}), and "
        f"{report.failures:,} of the failures"
    ]
    if report.not_found:
        lines.append(f"{counted(report.not_found, 'key')} not found, first {', '.join(report.first_not_found)}")
    if report.index_removed:
        lines.append("the index was removed, since it held their vectors: `indexer build-ann DB` builds it again")
    if report.copies_removed:
        lines.append("the probes' copies of vectors were removed; the next probe makes them again")
    if report.map_removed:
        lines.append("the map was removed, since it has a place for them: `indexer map DB` makes it again")
    if report.pooled_removed:
        lines.append("the pooled vectors were removed, since they hold their sums: `indexer pool DB` makes them again")
    return "\n".join([*lines, f"receipt: {report.receipt}", NEXT])

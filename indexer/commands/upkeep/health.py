"""`indexer health`: checks a table and its index."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from indexer.options import SEED, emit, json_option, plain, table_option

if TYPE_CHECKING:
    from indexer.upkeep.health import HealthReport


@click.command("health", short_help="Check a table and its index by measuring them.")
@click.argument("database", metavar="DB")
@click.option("--strict", is_flag=True, help="Exit 1 if anything is wrong.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the sampled rows.")
@table_option
@json_option
def command(*, database: str, strict: bool, seed: int, table: str | None, as_json: bool) -> None:
    """Read every row once and search with some of them: counts, coverage of the index, recall against exact search.
    A sample of the images is read back from where they were indexed.

    Problems are listed with their remedies. Nothing is changed.
    """
    from indexer.store.table import EmbeddingStore
    from indexer.upkeep.health import health

    report = health(EmbeddingStore.open(database, table), seed=seed)
    emit(report, as_json=as_json, text=_text)
    if strict and report.problems:
        sys.exit(1)


def _text(report: HealthReport) -> str:
    facts = {k: v for k, v in vars(report).items() if k not in ("problems", "index", "sources")}
    lines = [plain(facts), "index"]
    lines += ["  " + line for line in plain(report.index or "none: searches scan every row").splitlines()]
    if report.sources is not None:
        lines += ["sources", *("  " + line for line in plain(report.sources).splitlines())]
    lines += [f"problem: {p}" for p in report.problems] or ["no problems found"]
    return "\n".join(lines)

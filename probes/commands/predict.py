"""`probes predict`: applies a fitted probe to rows of a table or to new images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from indexer.options import emit, json_option, say, table_option, where_option

if TYPE_CHECKING:
    from probes.runs.predict import Unread


@click.command("predict", short_help="Apply a fitted probe to rows of a table or to new images.")
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("db")
@click.option("--images", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Image files instead of the table's rows. Repeatable.")  # fmt: skip
@click.option("--write", metavar="NAME", help="Also write columns pred_NAME and pred_NAME_p_CLASS into the table.")
@click.option("--threshold", "thresholds", multiple=True, metavar="[CLASS=]P",
              help="Least probability of a positive row. Default: the operating point. Repeatable.")  # fmt: skip
@click.option("--weights", metavar="FILE", help="The encoder's weights file, for --images.")
@where_option
@table_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    *,
    bundle: Path,
    db: str,
    images: tuple[Path, ...],
    write: str | None,
    thresholds: tuple[str, ...],
    weights: str | None,
    where: str | None,
    table: str | None,
    as_json: bool,
) -> None:
    """Apply the probe in folder BUNDLE to DB's rows, or to --images, which a child process embeds.

    Of two classes, and of labels, a row is positive from the operating point on that was chosen with the probe; of more
    classes the most probable is called, and those that reach their own operating point are listed as above it. A probe
    of numbers gives the number, one of survival the log hazard ratio and the probability of survival up to a horizon.
    Only a table of the same encoder fingerprint is accepted. Not for clinical use.
    """
    if images and (where or write):
        raise click.UsageError("--images are not rows of the table: leave --where and --write out.")
    from indexer.store.labelling.join import add_columns
    from indexer.store.table import EmbeddingStore
    from probes.runs.bundle import read_bundle
    from probes.runs.decision import decision
    from probes.runs.predict import (
        as_columns,
        check_column_name,
        estimates,
        estimates_as_columns,
        horizon_of_bundle,
        predict_images,
        predict_table,
        predictions,
        refuse_images_of_cases,
    )

    if write is not None:  # before the work
        check_column_name(write)
    probe = read_bundle(bundle)
    if write or images:
        refuse_images_of_cases(probe)
    target = probe.facts.request.target
    if target != "classes" and thresholds:
        raise click.UsageError("--threshold is of classes: this probe predicts a number. Leave it out.")
    by = decision(probe.facts, thresholds)
    store = EmbeddingStore.open(db, table)
    unread: list[Unread] = []
    scored = predict_table(probe, store, where)
    if images:
        keys, p, unread = predict_images(probe, store, images, weights)
        scored = iter([(keys, p)])
    if target != "classes":
        found = [row for keys, p in scored for row in estimates(probe, keys, p)]
        columns = estimates_as_columns(write, found) if write and found else None
        horizon = horizon_of_bundle(probe)
        facts: dict[str, object] = {"rows": found} | ({} if horizon is None else {"horizon": horizon})
        shown: object = found
        line = f"predicted: {', '.join(probe.facts.request.labels)}"
        line += "" if horizon is None else f"; survival up to {probe.facts.request.labels[0]} {horizon:g}"
    else:
        rows = [row for keys, p in scored for row in predictions(probe, keys, p, by)]
        columns = as_columns(write, rows) if write and rows else None
        facts = {"rows": rows, "decided_by": by}
        shown = [{"key": r.key, "called": r.called, **r.probabilities, "above": r.above} for r in rows]
        line = f"positive: {by}"
    written = add_columns(store, columns) if columns is not None else 0
    emit(facts | {"unread": unread, "written": written} if as_json else shown, as_json=as_json)
    if not as_json:
        say(line, err=True)
        for file in unread:
            say(f"not read: {file.key} ({file.reason})", err=True)
        if write:
            say(f"{written} rows now have pred_ columns", err=True)
    ctx.exit(1 if unread else 0)

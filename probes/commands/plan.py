"""`probes plan`: the number of patients for an interval of a wished width."""

from __future__ import annotations

import click

from indexer.options import FiniteRange, emit, json_option

OPEN = FiniteRange(0, 1, min_open=True, max_open=True)


@click.command("plan", short_help="Patients that an interval of a wished width takes.")
@click.option("--prevalence", type=OPEN, required=True, help="Share of positive patients.")
@click.option("--width", type=OPEN, default=0.1, show_default=True, help="Wished width of the 95 % interval.")
@click.option("--auc", type=FiniteRange(0.5, 1, max_open=True), help="The AUC that is expected.")
@click.option("--sensitivity", type=OPEN, help="The sensitivity that is expected.")
@click.option("--specificity", type=OPEN, help="The specificity that is expected.")
@click.option("--images", type=FiniteRange(1, 10_000), default=1.0, show_default=True,
              help="Mean images a patient.")  # fmt: skip
@click.option("--likeness", type=FiniteRange(0, 1), default=0.5, show_default=True,
              help="How alike images of a patient score: share of the variance.")  # fmt: skip
@json_option
def command(
    *,
    prevalence: float,
    width: float,
    auc: float | None,
    sensitivity: float | None,
    specificity: float | None,
    images: float,
    likeness: float,
    as_json: bool,
) -> None:
    """Say how many test patients give 95 % intervals of at most --width, before labels are made.

    Name what is expected: --auc, --sensitivity, --specificity, or several. No database is read.
    """
    from probes.evaluation.certainty.plan import Study, plan_area, plan_rate

    if auc is None and sensitivity is None and specificity is None:
        raise click.UsageError("nothing to plan: give --auc, --sensitivity or --specificity.")
    study = Study(prevalence, images, likeness)
    found = [] if auc is None else [plan_area(auc, width, study)]
    rates = (("sensitivity", sensitivity), ("specificity", specificity))
    found += [plan_rate(name, rate, width, study) for name, rate in rates if rate is not None]
    emit(found, as_json=as_json)

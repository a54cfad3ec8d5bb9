"""`probes plan`: the number of patients for an interval of a wished width."""

from __future__ import annotations

import click

from indexer.options import FiniteRange, emit, json_option

OPEN = FiniteRange(0, 1, min_open=True, max_open=True)
POSITIVE = FiniteRange(0, min_open=True)
WIDTH = 0.1  # of shares, where none is wished


@click.command("plan", short_help="Patients that an interval of a wished width takes.")
@click.option("--width", type=POSITIVE, help=f"Wished width of the 95 % interval. Default: {WIDTH} of shares.")
@click.option("--prevalence", type=OPEN, help="Share of positive patients, of the next three.")
@click.option("--auc", type=FiniteRange(0.5, 1, max_open=True), help="The AUC that is expected.")
@click.option("--sensitivity", type=OPEN, help="The sensitivity that is expected.")
@click.option("--specificity", type=OPEN, help="The specificity that is expected.")
@click.option("--concordance", type=FiniteRange(0.5, 0.95, min_open=True), help="The C of times that is expected.")
@click.option("--events", type=OPEN, help="With --concordance: the share of patients with the event.")
@click.option("--mae", type=POSITIVE, help="The mean absolute error of numbers that is expected.")
@click.option("--limits", type=POSITIVE, metavar="SD",
              help="For limits of agreement: the expected SD of predicted minus true.")  # fmt: skip
@click.option("--images", type=FiniteRange(1, 10_000), default=1.0, show_default=True,
              help="Mean images a patient.")  # fmt: skip
@click.option("--likeness", type=FiniteRange(0, 1), default=0.5, show_default=True,
              help="How alike images of a patient score: share of the variance.")  # fmt: skip
@json_option
def command(
    *,
    width: float | None,
    prevalence: float | None,
    auc: float | None,
    sensitivity: float | None,
    specificity: float | None,
    concordance: float | None,
    events: float | None,
    mae: float | None,
    limits: float | None,
    images: float,
    likeness: float,
    as_json: bool,
) -> None:
    """Say how many test patients give 95 % intervals of at most --width, before labels are made.

    Name what is expected: --auc, --sensitivity, --specificity (with --prevalence), --concordance (with --events; a
    patient counts as one row), or --mae and --limits, whose --width is in the unit of the number. No database is read.
    """
    from probes.evaluation.certainty.plan import Study, plan_area, plan_rate
    from probes.evaluation.targets.plan import plan_concordance, plan_limits, plan_mae

    shares = {"auc": auc, "sensitivity": sensitivity, "specificity": specificity}
    of_classes = any(value is not None for value in shares.values())
    of_numbers = mae is not None or limits is not None
    wrong = (
        (not of_classes and not of_numbers and concordance is None,
         "nothing to plan: give --auc, --sensitivity, --specificity, --concordance, --mae or --limits."),
        (of_classes and prevalence is None, "--auc, --sensitivity and --specificity need --prevalence."),
        (not of_classes and prevalence is not None, "--prevalence is of --auc, --sensitivity and --specificity."),
        ((concordance is None) != (events is None), "--concordance and --events go together."),
        (of_numbers and (of_classes or concordance is not None),
         "--mae and --limits have a --width in the unit of the number: plan them in a call of their own."),
        (of_numbers and width is None, "--mae and --limits need --width, in the unit of the number."),
        (not of_numbers and width is not None and width >= 1, "--width of a share must be below 1."),
    )  # fmt: skip
    for holds, text in wrong:
        if holds:
            raise click.UsageError(text)
    wished = WIDTH if width is None else width
    study = Study(images=images, likeness=likeness) if prevalence is None else Study(prevalence, images, likeness)
    found = [] if auc is None else [plan_area(auc, wished, study)]
    found += [
        plan_rate(name, rate, wished, study) for name, rate in shares.items() if rate is not None and name != "auc"
    ]
    found += [] if concordance is None or events is None else [plan_concordance(concordance, wished, events)]
    found += [] if mae is None else [plan_mae(mae, wished, study)]
    found += [] if limits is None else [plan_limits(limits, wished, study)]
    emit(found, as_json=as_json)

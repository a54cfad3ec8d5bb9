"""Limitations of a result (D17), listed at the end of reports and reporting items."""

from __future__ import annotations

from probes.runs.result import ProbeResult

FEW_GROUPS = 30
LIMITS = (
    "The numbers hold for these images, labels and groups; another site's may differ.",
    "The encoder was not trained here; what it saw may overlap with these images.",
    "Intervals cover the sampling of groups, not the choice of labels, readers or the site.",
    "A perfect score has no spread under resampling: its interval is a bound from the number of groups.",
)


def limits(result: ProbeResult) -> tuple[str, ...]:
    """The limitations of a result, with that of a small test split."""
    own = []
    if result.review is None or result.review.external is None:
        own.append("No external data were scored: name some with --test-db or --test-where.")
    if result.review is not None and result.review.examples is not None:
        own.append("Suspect labels are suggestions of this probe: a person decides, and not by the probe alone.")
    if result.test.groups < FEW_GROUPS:
        own.append(
            f"The held-out rows are of {result.test.groups} groups: n is too small for more than a rough answer."
        )
    if result.split.level == "image":
        own.append("Rows of one patient may be on both sides of the split, and intervals take rows as independent.")
    return (*LIMITS, *own)

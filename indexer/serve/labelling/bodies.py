"""The bodies of labelling requests."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from indexer.serve.http.bodies import Key, QueryBody, Strict
from indexer.serve.labelling.labels import MOST_LETTERS, RANDOM
from indexer.serve.labelling.session import NewLabel

MOST_LABELS = 1_000  # of one request
MOST_SHOWN = 100  # of one page
MOST_SKIPPED = 10_000

Group = Annotated[
    str | None, Field(max_length=512, description="Column of groups that stand on one side together, e.g. patient.")
]


class LabelBody(Strict):
    """One label."""

    key: Key
    label: str | None = Field(max_length=MOST_LETTERS, description="The class; null takes the label away.")
    shown: Literal["search", "random"] = Field(description="How /labels/next said that the image was chosen.")

    def label_of(self) -> NewLabel:
        """As the session takes it."""
        return NewLabel(self.key, self.label, self.shown == RANDOM)


class LabelsBody(Strict):
    """Labels to write in one commit."""

    labels: list[LabelBody] = Field(min_length=1, max_length=MOST_LABELS)
    by: str = Field(min_length=1, max_length=MOST_LETTERS, pattern=r"\S", description="Who gave them.")
    group: Group = None


class NextBody(Strict):
    """Which images to label next."""

    limit: int = Field(default=20, ge=1, le=MOST_SHOWN)
    skipped: list[Key] = Field(default=[], max_length=MOST_SKIPPED, description="Keys not to be shown.")
    query: QueryBody | None = Field(default=None, description="Order by this search in place of the probe.")
    group: Group = None

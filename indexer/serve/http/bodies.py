"""The bodies of API requests, as pydantic models: they are the schema of /openapi.json."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

import numpy as np
from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from indexer.errors import InputError
from indexer.search.blend import Blend
from indexer.search.images import QueryImage
from indexer.search.options import SearchOptions
from indexer.search.queries import Query as Asked

MOST_EXAMPLES = 1_000
MOST_HITS = 1_000  # of one page
MOST_QUERIES = 1_000  # of one batch
MOST_OFFSET = 10_000_000

Offset = Annotated[int, Query(ge=0, le=MOST_OFFSET)]

Key = Annotated[str, Field(min_length=1, max_length=4096)]


class Strict(BaseModel):
    """A body with an unknown field is refused: a misspelt filter must not be ignored."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class QueryBody(Strict):
    """What to search for. Stored images, an image and a text may be combined; a vector stands alone."""

    positive: list[Key] = Field(default=[], max_length=MOST_EXAMPLES, description="Keys of images to be like.")
    negative: list[Key] = Field(default=[], max_length=MOST_EXAMPLES, description="Keys of images to be unlike.")
    text: str | None = Field(default=None, min_length=1, max_length=2_000)
    image: str | None = Field(default=None, description="The bytes of an image or DICOM file, base64. Never stored.")
    groups: list[Key] = Field(default=[], max_length=MOST_EXAMPLES, description="Stored values of the column `by`.")
    vector: list[float] | None = Field(default=None, max_length=65_536, description="A vector of the table's encoder.")

    def query(self) -> Asked:
        """Raises InputError."""
        if self.groups:
            if self.positive or self.negative or self.text or self.image or self.vector:
                raise InputError("groups cannot be combined with other examples.")
            return Asked(groups=tuple(self.groups))
        if self.vector is not None:
            if self.positive or self.negative or self.text or self.image:
                raise InputError("a vector cannot be combined with other examples.")
            return Asked(vectors=np.array([self.vector], np.float64), names=("the vector",))
        images = () if self.image is None else (_image(self.image),)
        texts = () if self.text is None else (self.text,)
        if len(self.positive) == 1 and not (self.negative or images or texts):
            return Asked(keys=tuple(self.positive))
        if images and not (self.positive or self.negative or texts):
            return Asked(images=images)
        if texts and not (self.positive or self.negative or images):
            return Asked(texts=texts)
        return Asked(blends=(Blend(tuple(self.positive), tuple(self.negative), images, texts),))

    @property
    def embeds(self) -> bool:
        """Whether the encoder must run."""
        return self.text is not None or self.image is not None


class SearchBody(Strict):
    """One search."""

    query: QueryBody
    filter: str | None = Field(default=None, max_length=20_000, description="SQL over the columns, as --where.")
    limit: int = Field(default=SearchOptions.k, ge=1, le=MOST_HITS)
    offset: int = Field(default=0, ge=0, le=MOST_OFFSET)
    score_threshold: float | None = Field(default=None, ge=-1, le=1, description="Lowest cosine.")
    group_by: str | None = Field(default=None, max_length=512, description="One hit for each value of this column.")
    by: str | None = Field(
        default=None, max_length=512, description="The hits are values of this column, e.g. series; see `indexer pool`."
    )
    exclude_same: str | None = Field(
        default=None, max_length=512, description="Leave out rows with the query's value in this column, e.g. patient."
    )
    region: str | None = Field(
        default=None, max_length=16_000, description="Only images inside this polygon of the map."
    )
    with_vector: bool = False

    def options(self, columns: tuple[str, ...]) -> SearchOptions:
        """Raises InputError."""
        where = self.filter.strip() if self.filter else None
        return SearchOptions(
            self.limit,
            where or None,
            self.exclude_same,
            self.group_by,
            self.score_threshold,
            self.offset,
            columns,
            self.by,
        )


class BatchBody(Strict):
    """Several searches; the answer has one JSON document a line (NDJSON), in order."""

    searches: list[SearchBody] = Field(min_length=1, max_length=MOST_QUERIES)


class EmbedBody(Strict):
    """An image or a text to embed."""

    image: str | None = Field(default=None, description="base64")
    text: str | None = Field(default=None, min_length=1, max_length=2_000)

    def example(self) -> Blend:
        """Raises InputError."""
        if (self.image is None) == (self.text is None):
            raise InputError("give either an image or a text to embed.")
        return Blend(texts=(self.text,)) if self.text is not None else Blend(images=(_image(self.image or ""),))


def _image(text: str) -> QueryImage:
    """Raises InputError."""
    try:
        return QueryImage("the image", base64.b64decode(text, validate=True), "")
    except (binascii.Error, ValueError) as error:
        raise InputError("`image` is not base64 of an image file.") from error

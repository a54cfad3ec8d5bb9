"""A query made of several examples: more like these, less like those."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from indexer.errors import InputError
from indexer.search.images import QueryImage, image_vectors, unit
from indexer.types import Float64


@dataclass(frozen=True)
class Blend:
    """Examples of one query. Raises InputError where none is positive."""

    like: tuple[str, ...] = ()  # keys of stored images
    unlike: tuple[str, ...] = ()  # keys of stored images, to move away from
    images: tuple[QueryImage, ...] = ()  # positive, as are the texts
    texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.like or self.images or self.texts):
            raise InputError("a query needs a key, image or text to be like; it cannot only be unlike something.")

    @property
    def keys(self) -> tuple[str, ...]:
        """Of all stored examples, none of which is a hit."""
        return self.like + self.unlike

    @property
    def label(self) -> str:
        positive = [*self.like, *(image.name for image in self.images), *map(repr, self.texts)]
        return "like " + ", ".join(positive) + (f"; unlike {', '.join(self.unlike)}" if self.unlike else "")


def embedded_examples(blend: Blend, encoder: Any) -> Float64:
    """Unit vectors (e, dim) of the examples that are not stored. The encoder is asked for only where there are some."""
    parts = [image_vectors(blend.images, encoder())] if blend.images else []
    if blend.texts:
        parts.append(unit(encoder().embed_text(list(blend.texts)), [repr(text) for text in blend.texts]))
    return np.concatenate(parts) if parts else np.empty((0, 0))


def direction(blend: Blend, stored: Float64, embedded: Float64) -> Float64:
    """The unit vector (1, dim) to search with, from the unit vectors of the stored examples (like, then unlike).

    With positive examples alone their mean p; with negative ones of mean n, 2p - n: Rocchio's relevance feedback
    (1971) without an original query, so that the distance from p to n is gone once more away from n.
    """
    like = stored[: len(blend.like)]
    positive = np.concatenate([like, embedded.reshape(-1, stored.shape[1])]).mean(0)
    negative = stored[len(blend.like) :]
    return unit((2 * positive - negative.mean(0) if len(negative) else positive)[None], [blend.label])

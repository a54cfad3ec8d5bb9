"""Pictures of queries and hits, read back from the shards; a reason in place of each that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from indexer.archive.roots import named, remembered
from indexer.errors import IndexerError
from indexer.search.images import QueryImage
from indexer.search.queries import Query
from indexer.search.results import Pictures, QueryHits, Thumbnail
from indexer.store.rows import PLACE_COLUMNS, place_of
from indexer.store.table import EmbeddingStore, identity_of
from indexer.types import Int64, PixelSpec, Place

SIDE = 224  # pixels of a picture's square


def pictures_of(
    view: EmbeddingStore, query: Query, own: Int64, answers: Sequence[QueryHits], roots: Sequence[str] = ()
) -> Pictures:
    """Read and decode the pictures of a result; `own` are the row ids of queries that are keys.

    Stored images are read only from the roots from which this user indexed the table (`archive.roots`), and `roots`.
    """
    # Decoded as for the table, but without the encoder's crop, so that the whole image is shown.
    spec = replace(view.spec.pixels, size=SIDE, resize=SIDE, fit="pad")
    row_ids = np.unique(np.array([hit.row_id for a in answers for hit in a.hits], np.int64))
    allowed = (*remembered(identity_of(view)), *named(roots))
    stored = _stored(view, np.union1d(row_ids, own).astype(np.int64), spec, allowed)
    queries = [Thumbnail(None, label) for label in query.labels]
    if query.images:
        queries = [_query_image(image, spec) for image in query.images]
    elif query.keys:
        queries = [stored[int(row_id)] for row_id in own]
    return Pictures(queries, {int(row_id): stored[int(row_id)] for row_id in row_ids})


def _stored(view: EmbeddingStore, row_ids: Int64, spec: PixelSpec, roots: Sequence[str]) -> dict[int, Thumbnail]:
    urls = view.urls()
    found, rows = view.take(row_ids, [*PLACE_COLUMNS, "content"])
    out = {int(row_id): Thumbnail(None, "row is gone") for row_id in row_ids[~found]}
    for row in rows.to_pylist():
        place = place_of(row)
        out[row["_rowid"]] = _place(urls.get(place.shard), place, row["content"], spec, roots)
    return out


def _place(url: str | None, place: Place, content: str, spec: PixelSpec, roots: Sequence[str]) -> Thumbnail:
    from indexer.archive.reader import around, read_place
    from indexer.pixels import decode_part

    if url is None:
        return Thumbnail(None, f"shard {place.shard} is not in the ledger")
    try:
        pixels = decode_part(read_place(url, place, content, roots=roots), place.suffix, spec, place.part).pixels
        return Thumbnail(pixels, around=around(url, place, SIDE, roots=roots))
    except IndexerError as error:
        return Thumbnail(None, str(error))


def _query_image(image: QueryImage, spec: PixelSpec) -> Thumbnail:
    from indexer.pixels import decode

    try:
        (picture,) = decode(image.data, image.suffix, replace(spec, channels=1), frames="middle")
        return Thumbnail(picture.pixels)
    except IndexerError as error:
        return Thumbnail(None, str(error))

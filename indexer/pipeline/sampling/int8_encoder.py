"""The int8 encoder of a table: the one it was made with, or for a new table one calibrated on its own images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.addresses import is_remote, join
from indexer.encoders.loading import ready
from indexer.errors import InputError
from indexer.pipeline.sampling.archive_sample import sample_pictures
from indexer.store.names import check_table_name, checked_uri, network_folder, table_names
from indexer.store.table import EmbeddingStore
from indexer.types import EncoderSpec, Shard

if TYPE_CHECKING:
    from indexer.encoders.encoder import LoadedEncoder
    from indexer.encoders.families.definition import EncoderDefinition


def int8_encoder(
    definition: EncoderDefinition,
    spec: EncoderSpec,
    shards: Sequence[Shard] | None,
    database: str,
    table: str,
    say: Callable[[str], None],
) -> LoadedEncoder:
    """The encoder `spec` in int8 for a table, which is not created here; a new one's is calibrated on `shards`.

    With None no new table's is calibrated. Raises InputError for a database in an object store, for a new table without
    shards or a readable image, and EncoderError.
    """
    from indexer.encoders.int8.calibrate import SAMPLE, calibrate, stay

    uri = checked_uri(database)
    check_table_name(table)
    if is_remote(uri):
        raise InputError(f"--precision int8 keeps its network beside the table, in a folder, not in {uri}.")
    if Path(uri).is_dir() and table in table_names(uri):
        store = EmbeddingStore.open(uri, table)
        known = replace(spec, calibration=store.spec.calibration, network=store.spec.network)
        store.require(known)
        return ready(definition, known, "auto", compiled=False)
    if shards is None:
        raise InputError(
            f"there is no table {table} in {uri} yet, and each part would calibrate an int8 encoder of its own. Index "
            "some of the shards without --part first."
        )
    pictures, images = sample_pictures(shards, spec.pixels, SAMPLE)
    made = calibrate(definition, spec, pictures, images, Path(network_folder(join(uri, f"{table}.lance"))), say)
    say(
        f"int8 on {made.agreement.images} pictures of other images against fp32: {stay(made.agreement)}; "
        f"{made.layers} of {made.of_layers} layers in int8"
    )
    return ready(definition, made.spec, "auto", compiled=False)

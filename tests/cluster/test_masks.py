"""The tissue of slides is kept beside the run's record, whoever embeds them."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

from indexer.archive.slides.find import SlideOptions, find_slides
from indexer.pipeline.drive import Hooks
from indexer.pipeline.engines.ray_worker import ShardWorker, WorkerOptions
from indexer.pipeline.in_flight import Before, Planned
from indexer.pipeline.options import RunOptions
from indexer.pipeline.parts.dealt import Part, PartOptions
from indexer.pipeline.parts.embed import index_part
from indexer.pipeline.run import index, threads_for
from indexer.store.table import EmbeddingStore
from indexer.types import Shard, TileRule
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.slides import aperio, section

RULE = TileRule(256, 1.0)


def slide(folder: Path) -> list[Shard]:
    aperio(folder / "a.svs", section())
    return find_slides([str(folder / "a.svs")], SlideOptions()).shards


def masks(database: Path) -> list[bytes]:
    return [path.read_bytes() for path in database.glob("fake.runs/*/a.svs.tissue.png")]


def test_the_tissue_of_a_slide_is_the_same_from_one_process_from_a_part_and_from_a_ray_worker(tmp_path) -> None:
    shards, encoder, options = slide(tmp_path), FakeEncoder(workers=1), RunOptions()
    index(shards, EmbeddingStore.create(str(tmp_path / "one"), "fake", encoder.spec, tiles=RULE), encoder, options)
    (truth,) = masks(tmp_path / "one")
    for commit in (True, False):
        database = tmp_path / f"part{commit}"
        store = EmbeddingStore.create(str(database), "fake", encoder.spec, tiles=RULE)
        index_part(threads_for(encoder, options), shards, store, options, PartOptions(Part(0, 1), commit), Hooks())
        if not commit:
            assert masks(database) == []
            assert call("indexer", "commit", database).code == 0
        assert masks(database) == [truth]
    worker, kept = ShardWorker(WorkerOptions(FakeEncoder, 1, "all", 64)), list[tuple[str, bytes]]()
    planned = Planned(replace(shards[0], tiles=RULE))
    step = worker.begin(planned, Before())
    while True:
        step = pickle.loads(pickle.dumps(step))  # as Ray sends it
        kept += step.files
        if step.facts is not None:
            break
        step = worker.step()
    assert kept == [("a.svs.tissue.png", truth)]

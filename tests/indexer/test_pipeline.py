"""index() through its public door, against a fake encoder and plain numpy."""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import lance
import lancedb
import numpy as np
import pytest

from indexer.archive.shards import find_shards
from indexer.errors import EncoderMismatch, ShardChanged, StoreLocked, TooManyFailures
from indexer.pipeline.options import RunOptions
from indexer.pipeline.retry import retry
from indexer.pipeline.run import Hooks, index
from indexer.pixels import decode
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.store.writing.side_tables import Ledger
from indexer.types import Part, ShardResult
from tests.archives import archive, png, shard, write_tar
from tests.decoding import decode_by
from tests.fakes import FakeEncoder
from tests.progress import Recorder


def run(source, db, encoder=None, options=None, hooks=None, sources=()):
    encoder = encoder or FakeEncoder()
    store = EmbeddingStore.create(str(db), "t", encoder.spec)
    return index(find_shards([str(source), *map(str, sources)]).shards, store, encoder, options, hooks)


def rows(db):
    store = EmbeddingStore.open(str(db))
    got = store.vectors(columns=["key", "n", "content", "norm"])
    table = got.columns.to_pydict()
    return {
        key: (vector, n, content, norm)
        for key, vector, n, content, norm in zip(
            table["key"], got.vectors, table["n"], table["content"], table["norm"], strict=True
        )
    }


def test_each_image_becomes_one_row_with_its_unit_vector_norm_hash_and_metadata(tmp_path):
    report = run(archive(tmp_path), tmp_path / "db")
    encoder = FakeEncoder()
    got = rows(tmp_path / "db")
    assert (report.images, report.embedded, report.failed, report.shards_done) == (30, 30, 0, 3)
    for seed in range(30):
        vector, n, content, norm = got[f"im{seed}"]
        data = png(seed)
        (pic,) = decode(data, "png", encoder.spec.pixels)
        raw = encoder.embed(pic.pixels[None])[0].astype(np.float64)
        assert n == seed
        assert content == hashlib.sha256(data).hexdigest()
        assert norm == pytest.approx(np.linalg.norm(raw), rel=1e-6)
        np.testing.assert_allclose(vector.astype(float), raw / np.linalg.norm(raw), atol=5e-4)


def test_a_second_run_skips_what_is_done_and_embeds_nothing(tmp_path):
    source = archive(tmp_path)
    run(source, tmp_path / "db")
    encoder = FakeEncoder()
    report = run(source, tmp_path / "db", encoder)
    assert (report.shards_done, report.shards_skipped, report.images, encoder.calls) == (0, 3, 0, 0)
    assert len(rows(tmp_path / "db")) == 30


def test_a_corrupt_image_in_the_middle_is_named_and_the_others_are_stored(tmp_path):
    whole = png(1)
    path = write_tar(tmp_path / "s.tar", [("a.png", png(0)), ("b.png", whole[:60]), ("c.png", png(2))])
    report = run(path, tmp_path / "db")
    store = EmbeddingStore.open(str(tmp_path / "db"))
    (failure,) = store.failures().to_pylist()
    assert (report.images, report.embedded, report.failed) == (3, 2, 1)
    assert (failure["key"], failure["stage"]) == ("b", "decode")
    assert path.read_bytes()[failure["offset"] :][: failure["nbytes"]] == whole[:60]


def test_the_same_key_twice_gives_one_row_and_one_failure(tmp_path):
    shard(tmp_path / "a.tar", [1, 2])
    write_tar(tmp_path / "b.tar", [("im2.png", png(9)), ("im3.png", png(3))])
    report = run(tmp_path / "a.tar", tmp_path / "db", sources=[tmp_path / "b.tar"])
    (failure,) = EmbeddingStore.open(str(tmp_path / "db")).failures().to_pylist()
    assert (report.embedded, report.reasons) == (3, {"duplicate key": 1})
    assert (failure["key"], failure["shard"]) == ("im2", str(tmp_path / "b.tar"))
    assert sorted(rows(tmp_path / "db")) == ["im1", "im2", "im3"]


def test_a_key_is_a_duplicate_across_runs_too(tmp_path):
    run(write_tar(tmp_path / "a.tar", [("im1.png", png(1)), ("im2.png", png(2))]), tmp_path / "db")
    report = run(write_tar(tmp_path / "b.tar", [("im2.png", png(9)), ("im3.png", png(3))]), tmp_path / "db")
    assert (report.embedded, report.failed, report.adopted) == (1, 1, 0)


def test_a_changed_shard_is_refused_then_replaced_and_same_bytes_keep_their_vectors(tmp_path):
    path = shard(tmp_path / "s.tar", [1, 2, 3])
    run(path, tmp_path / "db")
    before = rows(tmp_path / "db")
    shard(path, [2, 3, 4, 5])
    with pytest.raises(ShardChanged, match=r"--changed replace"):
        run(path, tmp_path / "db")
    assert rows(tmp_path / "db").keys() == before.keys()
    encoder = FakeEncoder()
    report = run(path, tmp_path / "db", encoder, RunOptions(changed="replace"))
    after = rows(tmp_path / "db")
    assert (report.embedded, report.reused) == (4, 2)
    assert encoder.pictures == encoder.batch_size  # one padded batch holds the two new images
    assert sorted(after) == ["im2", "im3", "im4", "im5"]
    np.testing.assert_array_equal(after["im2"][0], before["im2"][0])
    assert EmbeddingStore.open(str(tmp_path / "db")).ledger().num_rows == 1


def test_a_cut_shard_stores_its_whole_samples_and_is_done_only_when_it_came_whole(tmp_path):
    whole = shard(tmp_path / "w.tar", [1, 2, 3, 4]).read_bytes()
    path = tmp_path / "s.tar"
    path.write_bytes(whole[: len(whole) // 2])
    report = run(path, tmp_path / "db")
    assert report.shards_partial == 1
    assert report.reasons == {"shard is cut or damaged": 1}
    assert 0 < report.embedded < 4
    again = run(path, tmp_path / "db")
    assert (again.shards_partial, again.shards_done, again.images) == (1, 0, 0)
    path.write_bytes(whole)
    last = run(path, tmp_path / "db")
    assert (last.shards_done, last.shards_partial, last.embedded, last.reused) == (1, 0, 4, report.embedded)
    assert sorted(rows(tmp_path / "db")) == ["im1", "im2", "im3", "im4"]
    assert EmbeddingStore.open(str(tmp_path / "db")).failures().num_rows == 0


def test_shards_that_are_empty_zeros_or_no_tar_are_named_and_lose_nothing(tmp_path):
    source = archive(tmp_path, shards=1)
    (source / "zeros.tar").write_bytes(b"\0" * 10240)
    (source / "text.tar").write_bytes(b"hello " * 1000)
    (source / "none.tar").write_bytes(b"")
    report = run(source, tmp_path / "db")
    assert report.embedded == 10
    assert report.reasons == {"not a tar archive": 2}
    assert (report.shards_done, report.shards_partial) == (2, 2)
    assert any("zeros.tar holds no sample" in w for w in report.warnings)


def test_more_workers_than_shards_and_many_tiny_shards_store_the_same(tmp_path):
    one = shard(tmp_path / "one.tar", list(range(60)))
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(60):
        shard(folder / f"{i:03d}.tar", [i])
    run(one, tmp_path / "db1", options=RunOptions(workers=7))
    report = run(folder, tmp_path / "db2", options=RunOptions(workers=2))
    a, b = rows(tmp_path / "db1"), rows(tmp_path / "db2")
    assert report.shards_done == 60
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[k][0], b[k][0]) for k in a)


def test_rows_stand_in_the_shards_order_whichever_worker_was_faster(tmp_path):
    turns = iter(range(10**6))
    gate = threading.Event()

    def uneven(vectors):
        if next(turns) % 3 == 0:
            gate.wait(0.02)
        return vectors

    encoder = FakeEncoder(batch_size=4, workers=4, change=uneven)
    run(archive(tmp_path, shards=4, images=25), tmp_path / "db", encoder)
    keys = EmbeddingStore.open(str(tmp_path / "db")).vectors(columns=["key"]).columns.column("key").to_pylist()
    assert keys == [f"im{i}" for i in range(100)]


@pytest.mark.parametrize(
    ("bad", "reason"), [(0.0, "zero vector"), (np.nan, "vector not finite"), (np.inf, "vector not finite")]
)
def test_a_vector_that_is_zero_or_not_finite_becomes_a_failure(tmp_path, bad, reason):
    def spoil(vectors):
        vectors = vectors.copy()
        vectors[1] = bad
        return vectors

    encoder = FakeEncoder(change=spoil, batch_size=4, workers=1)
    report = run(shard(tmp_path / "s.tar", [0, 1, 2, 3]), tmp_path / "db", encoder)
    assert (report.embedded, report.reasons) == (3, {reason: 1})
    assert np.isfinite(EmbeddingStore.open(str(tmp_path / "db")).vectors().vectors).all()


def test_a_collapsed_encoder_is_reported(tmp_path):
    encoder = FakeEncoder(change=lambda v: v * 1e-9 + 1)
    report = run(archive(tmp_path), tmp_path / "db", encoder)
    assert any("collapsed" in w for w in report.warnings)
    assert not any("collapsed" in w for w in run(tmp_path / "shards", tmp_path / "db2").warnings)


def test_another_encoders_table_is_refused_before_any_work(tmp_path):
    run(archive(tmp_path), tmp_path / "db")
    other = FakeEncoder(seed=1)
    with pytest.raises(EncoderMismatch, match="random:0 / random:1"):
        run(tmp_path / "shards", tmp_path / "db", other)
    assert other.calls == 0


def test_too_many_failures_stop_the_run_early_and_keep_what_was_embedded(tmp_path):
    members = [(f"{i:05d}.png", png(i) if i % 4 == 0 else b"\x89PNG\r\n\x1a\nbroken") for i in range(3000)]
    for s in range(30):
        write_tar(tmp_path / f"{s:02d}.tar", members[s * 100 : (s + 1) * 100])
    with pytest.raises(TooManyFailures, match=r"--max-failures 0\.5, most often: corrupt image"):
        run(tmp_path / "*.tar", tmp_path / "db", options=RunOptions(commit_rows=10))
    store = EmbeddingStore.open(str(tmp_path / "db"))
    assert 0 < store.count() < 700
    entries = store.ledger().to_pylist()
    assert all(e["embedded"] + e["failed"] == e["samples"] for e in entries if e["status"] != "begun")
    run(tmp_path / "*.tar", tmp_path / "db", options=RunOptions(max_failures=1.0))
    store.refresh()
    assert (store.count(), store.failures().num_rows) == (750, 2250)
    assert {(e["status"], e["samples"], e["embedded"], e["failed"]) for e in store.ledger().to_pylist()} == {
        ("done", 100, 25, 75)
    }


def test_a_run_leaves_the_collector_of_cycles_as_it_was(tmp_path):
    frozen = []
    hooks = Hooks(Recorder(lambda _: frozen.append(gc.get_freeze_count())))
    gc.unfreeze()  # what another test may have left
    run(archive(tmp_path), tmp_path / "db", hooks=hooks)
    assert min(frozen) > 1000
    assert (gc.get_freeze_count(), gc.isenabled()) == (0, True)


def test_what_a_program_makes_after_it_froze_its_objects_is_still_freed(tmp_path):
    class Node:
        pass

    gc.freeze()
    try:
        before, node = gc.get_freeze_count(), Node()
        node.itself, freed = node, weakref.ref(node)
        run(archive(tmp_path), tmp_path / "db")
        assert gc.get_freeze_count() <= before  # some of these are freed
        del node
        gc.collect()
        assert freed() is None
    finally:
        gc.unfreeze()


def test_a_stop_commits_the_finished_shards_and_the_next_run_goes_on(tmp_path):
    source = archive(tmp_path, shards=160, images=2)  # more than may wait for the writer

    left = [signal.SIGINT]  # once: a second one, before the run has ended, is not for it any more

    def stop(counts):
        if counts["shards"] >= 3 and left:
            os.kill(os.getpid(), left.pop())

    options = RunOptions(commit_rows=8)
    report = run(source, tmp_path / "db", FakeEncoder(workers=1), options, Hooks(Recorder(stop)))
    assert report.interrupted
    assert 3 <= report.shards_done < 160
    again = run(source, tmp_path / "db")
    assert again.shards_skipped == report.shards_done
    assert sorted(rows(tmp_path / "db")) == sorted(f"im{i}" for i in range(320))


def test_rows_that_a_crash_left_without_a_ledger_row_are_done_again(tmp_path, monkeypatch):
    source = archive(tmp_path)

    def crash(*args, **kwargs):
        raise KeyboardInterrupt  # nothing below catches it, as nothing catches a kill

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "put", crash)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "db")
    store = EmbeddingStore.open(str(tmp_path / "db"))
    assert (store.count(), store.ledger().num_rows) == (30, 0)
    report = run(source, tmp_path / "db")
    assert any("30 rows of a run that died" in w for w in report.warnings)
    assert (report.embedded, report.failed) == (30, 0)
    assert len(rows(tmp_path / "db")) == 30


def test_two_writers_on_one_table_are_told_of_each_other(tmp_path):
    source = archive(tmp_path)
    run(source, tmp_path / "db")
    with (
        StoreWriter(EmbeddingStore.open(str(tmp_path / "db"))),
        pytest.raises(StoreLocked, match=f"process {os.getpid()}"),
    ):
        run(source, tmp_path / "db")


def test_a_new_metadata_field_becomes_a_column_and_a_value_of_another_type_stays_in_meta(tmp_path):
    run(shard(tmp_path / "a.tar", [1]), tmp_path / "db")
    report = run(shard(tmp_path / "b.tar", [2, 3], {"site": "A", "n": "three", "key": "mine"}), tmp_path / "db")
    store = EmbeddingStore.open(str(tmp_path / "db"))
    assert store.count("site = 'A'") == 2
    assert store.count("n IS NULL") == 2
    assert report.columns_skipped == {"n: not int64": 2, "key: name is taken by the table": 2}
    (meta,) = {r["meta"] for b in store.scan(["meta"], "key = 'im2'") for r in b.to_pylist()}
    assert '"n": "three"' in meta


def test_parts_of_one_file_become_rows_of_their_own(tmp_path):
    import io

    from PIL import Image

    from tests.archives import picture

    buffer = io.BytesIO()
    frames = [Image.fromarray(picture(i)) for i in range(5)]
    frames[0].save(buffer, "TIFF", save_all=True, append_images=frames[1:])
    path = write_tar(tmp_path / "s.tar", [("a.tif", buffer.getvalue()), ("b.png", png(9))])
    report = run(path, tmp_path / "db", FakeEncoder(batch_size=2))
    assert report.embedded == 6
    keys = EmbeddingStore.open(str(tmp_path / "db")).vectors(columns=["key", "part"]).columns.to_pydict()
    assert keys == {"key": ["a", "a#1", "a#2", "a#3", "a#4", "b"], "part": ["0", "1", "2", "3", "4", ""]}
    run(path, tmp_path / "db2", options=RunOptions(frames="middle"))
    assert EmbeddingStore.open(str(tmp_path / "db2")).count() == 2


def test_whole_parts_before_a_damaged_one_are_stored_with_their_shard(tmp_path, monkeypatch):
    from indexer.errors import PixelError

    first = write_tar(tmp_path / "1.tar", [("volume.png", png(0))])
    second = write_tar(tmp_path / "2.tar", [("after.png", png(1))])
    committed = threading.Event()

    def damaged_in_the_third_part(data, suffix, spec, *, frames, stored, **_):
        (picture,) = decode(data, suffix, spec, frames=frames)
        if data == png(1):
            assert committed.wait(600)  # the first shard is committed while the batch is far from full
            yield picture
            return
        yield picture
        yield replace(picture, part=Part("1"))
        raise PixelError("corrupt image")

    decode_by(monkeypatch, damaged_in_the_third_part)
    hooks = Hooks(Recorder(lambda counts: counts["shards"] and committed.set()))
    options = RunOptions(workers=1, commit_rows=0)
    report = run(first, tmp_path / "db", FakeEncoder(batch_size=64), options, hooks, sources=[second])
    assert (report.embedded, report.failed) == (3, 1)
    store = EmbeddingStore.open(str(tmp_path / "db"))
    assert sorted(k for b in store.scan(["key"]) for k in b.column("key").to_pylist()) == [
        "after",
        "volume",
        "volume#1",
    ]


def test_retry_embeds_what_now_decodes_and_leaves_the_rest(tmp_path, monkeypatch):
    from indexer.errors import PixelError

    path = tmp_path / "s.tar"
    members = [("a.png", png(0)), ("b.png", png(1)), ("b.json", b'{"n": 7}'), ("c.png", b"\x89PNG\r\n\x1a\nno")]
    write_tar(path, members)

    def weak(data, suffix, spec, *, frames, stored, **_):
        if data == png(1):
            raise PixelError("decoder missing")
        return decode(data, suffix, spec, frames=frames)

    with monkeypatch.context() as patched:
        decode_by(patched, weak)
        report = run(path, tmp_path / "db")
    assert (report.embedded, report.failed) == (1, 2)
    store = EmbeddingStore.open(str(tmp_path / "db"))
    report = retry(store, FakeEncoder())
    assert (report.embedded, report.failed) == (1, 1)
    assert store.count("n = 7") == 1
    assert [f["key"] for f in store.failures().to_pylist()] == ["c"]
    (entry,) = store.ledger().to_pylist()
    assert (entry["embedded"], entry["failed"], entry["samples"]) == (2, 1, 3)


def test_a_retry_names_what_it_does_not_try_again(tmp_path):
    (tmp_path / "images").mkdir()
    for name, data in (("a.png", png(0)), ("b.png", b""), ("c.png", b"\x89PNG\r\n\x1a\nno")):
        (tmp_path / "images" / name).write_bytes(data)
    assert run(tmp_path / "images", tmp_path / "db").failed == 2
    store = EmbeddingStore.open(str(tmp_path / "db"))
    report = retry(store, FakeEncoder())
    assert (report.embedded, report.failed) == (0, 1)
    assert report.warnings == (
        "not tried again: 1 x empty file. Replaced files are taken by `index --changed replace`",
    )
    assert sorted(f["reason"] for f in store.failures().to_pylist()) == ["corrupt image", "empty file"]
    (tmp_path / "images" / "b.png").write_bytes(png(1))
    assert run(tmp_path / "images", tmp_path / "db", options=RunOptions(changed="replace")).embedded == 1
    assert store.refresh() or [f["reason"] for f in store.failures().to_pylist()] == ["corrupt image"]


def test_the_precision_check_gets_real_pictures_and_its_cosine_is_reported(tmp_path):
    seen = []

    def check(pictures):
        seen.append(pictures.shape)
        return 0.9995

    report = run(archive(tmp_path), tmp_path / "db", hooks=Hooks(precision_check=check))
    assert report.precision_cosine == 0.9995
    assert len(seen) == 1
    assert seen[0][1:] == (16, 16, 3)
    assert not report.warnings


def test_a_precision_that_moves_vectors_far_is_said_aloud(tmp_path):
    report = run(archive(tmp_path), tmp_path / "db", hooks=Hooks(precision_check=lambda _: 0.951))
    assert ["0.951" in w and "--precision fp32" in w for w in report.warnings] == [True]


def test_a_plain_lancedb_session_opens_what_was_written(tmp_path):
    run(archive(tmp_path), tmp_path / "db")
    table = lancedb.connect(tmp_path / "db").open_table("t")
    vector = EmbeddingStore.open(str(tmp_path / "db")).vectors("key = 'im7'").vectors[0]
    assert table.count_rows("sex = 'F'") == 15
    assert table.search(vector.astype(np.float32)).limit(1).to_list()[0]["key"] == "im7"


def test_a_shard_that_could_not_be_opened_is_read_by_the_next_run_though_it_did_not_change(tmp_path):
    source = archive(tmp_path)
    found = find_shards([str(source)]).shards
    encoder = FakeEncoder()
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", encoder.spec)
    lost = source / "001.tar"
    lost.rename(tmp_path / "aside")  # listed, then gone
    report = index(found, store, encoder)
    assert (report.embedded, report.reasons) == (20, {"shard cannot be opened": 1})
    (tmp_path / "aside").rename(lost)
    report = index(found, store, encoder)
    assert (report.embedded, report.shards_partial, len(rows(tmp_path / "db"))) == (10, 0, 30)
    assert store.failures().num_rows == 0


@pytest.mark.parametrize("begins", ["", "head -c 2000 {0}; sleep 0.2; "])
def test_a_shard_whose_program_failed_is_read_by_the_next_run(tmp_path, begins):
    path = write_tar(tmp_path / "s.tar", [("a.png", png(1)), ("b.png", png(2))])
    ready = tmp_path / "network"
    (pipe,) = find_shards([f"pipe:test -e {ready} && exec cat {path}; {begins.format(path)}exit 7"]).shards
    encoder = FakeEncoder()
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", encoder.spec)
    report = index([pipe], store, encoder)
    assert (report.shards_partial, report.reasons) == (1, {"shard cannot be opened": 1})
    ready.touch()
    report = index([pipe], store, encoder)
    assert (report.embedded, report.shards_partial, len(keys(tmp_path / "db"))) == (2, 0, 2)
    assert store.failures().num_rows == 0


def broken_then_whole(tmp_path):
    """A shard with a broken image beside a second image of the same sample, and the same shard with both whole."""
    second = ("a.png", b"second")
    whole = [("a.jpg", png(1)), second, ("a.json", b"{}"), ("b.png", png(2))]
    path = write_tar(tmp_path / "s.tar", [("a.jpg", b"x" * len(png(1))), *whole[1:]])
    return path, write_tar(tmp_path / "whole.tar", whole)


def mend(path, whole):
    times = path.stat()
    path.write_bytes(whole.read_bytes())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_retry_drops_the_failure_that_it_mended_and_keeps_the_others_of_the_same_sample(tmp_path):
    path, whole = broken_then_whole(tmp_path)
    run(path, tmp_path / "db")
    store = EmbeddingStore.open(str(tmp_path / "db"))
    before = {f["reason"] for f in store.failures().to_pylist()}
    mend(path, whole)
    report = retry(store, FakeEncoder())
    assert (report.embedded, before) == (1, {"not an image", "second image in one sample"})
    assert [f["reason"] for f in store.failures().to_pylist()] == ["second image in one sample"]


def test_a_retry_finds_shards_that_were_told_apart_by_their_bytes(tmp_path):
    path, _ = broken_then_whole(tmp_path)
    encoder = FakeEncoder()
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", encoder.spec)
    index(find_shards([str(path)], hash_content=True).shards, store, encoder)
    report = retry(store, encoder)
    assert report.failed == 1
    assert not any("changed since" in text for text in report.warnings)
    write_tar(path, [("a.jpg", png(3))])
    assert any("1 shard with failures changed" in text for text in retry(store, encoder).warnings)


@pytest.mark.parametrize("steps", [["append"], ["delete"], ["append", "delete"]], ids="then".join)
def test_a_retry_that_dies_between_two_writes_loses_no_name_and_the_ledger_still_counts(tmp_path, monkeypatch, steps):
    path, whole = broken_then_whole(tmp_path)
    run(path, tmp_path / "db")
    mend(path, whole)
    store = EmbeddingStore.open(str(tmp_path / "db"))

    def dies(*_, **__):
        raise KeyboardInterrupt

    whole_delete, whole_put, gone = lance.LanceDataset.delete, Ledger.put, []

    def delete(*args, **how):
        gone.append(args)
        return whole_delete(*args, **how)

    def put(*args):
        return dies() if gone else whole_put(*args)

    for step in steps:
        with monkeypatch.context() as patched:
            if step == "append":  # rows are in, the failures are not yet touched
                patched.setattr("lance.LanceDataset.delete", dies)
            else:  # the failures are gone, the ledger does not know
                patched.setattr("lance.LanceDataset.delete", delete)
                patched.setattr(Ledger, "put", put)
            with pytest.raises(KeyboardInterrupt):
                retry(store, FakeEncoder())
    retry(store, FakeEncoder())
    (entry,) = store.ledger().to_pylist()
    assert (entry["embedded"], entry["failed"], len(keys(tmp_path / "db"))) == (2, 1, 2)
    assert [f["reason"] for f in store.failures().to_pylist()] == ["second image in one sample"]


def test_stored_vectors_are_read_while_another_thread_commits(tmp_path):
    source = archive(tmp_path, shards=4)
    run(source, tmp_path / "db")
    first, *others = find_shards([str(source)]).shards
    store = EmbeddingStore.open(str(tmp_path / "db"))
    found, ended = [], threading.Event()
    with StoreWriter(store) as writer, ThreadPoolExecutor(1) as pool:

        def read():
            while not ended.is_set():
                found.append(len(writer.vectors_by_content(first.name)))

        reading = pool.submit(read)
        try:
            for _ in range(3):
                for other in others:
                    writer.commit([ShardResult(other, (), (), 0, replaces=True)])
        finally:
            ended.set()
        reading.result()
    assert set(found) == {10}


def weak_decoder(*broken):
    """`decode`, but for images of these bytes."""
    from indexer.errors import PixelError

    def weak(data, suffix, spec, *, frames, stored, **_):
        if data in broken:
            raise PixelError("decoder missing")
        return decode(data, suffix, spec, frames=frames)

    return weak


def test_a_retried_image_whose_key_another_image_has_stays_a_failure(tmp_path, monkeypatch):
    first = write_tar(tmp_path / "1.tar", [("k.png", png(1))])
    second = write_tar(tmp_path / "2.tar", [("k.png", png(2)), ("y.png", png(3)), ("z.png", png(4)), ("y.png", png(5))])
    with monkeypatch.context() as patched:
        decode_by(patched, weak_decoder(png(2), png(3), png(5)))
        run(first, tmp_path / "db", sources=[second])
    store = EmbeddingStore.open(str(tmp_path / "db"))
    report = retry(store, FakeEncoder())
    assert (report.embedded, report.failed, report.reasons) == (1, 2, {"duplicate key": 2})
    assert sorted((f["key"], f["reason"]) for f in store.failures().to_pylist()) == [
        ("k", "duplicate key"),
        ("y", "duplicate key"),
    ]
    assert [(e["samples"], e["embedded"], e["failed"]) for e in store.ledger().to_pylist()] == [(1, 1, 0), (4, 2, 2)]


def test_retries_of_a_cut_shard_name_its_cut_once(tmp_path):
    whole = write_tar(tmp_path / "s.tar", [("a.png", b"no image"), ("b.png", png(1)), ("c.png", png(2))]).read_bytes()
    (tmp_path / "s.tar").write_bytes(whole[: 4 * 512 + len(png(1))])
    run(tmp_path / "s.tar", tmp_path / "db")
    store = EmbeddingStore.open(str(tmp_path / "db"))
    before = store.failures().to_pylist()
    for _ in range(2):
        report = retry(store, FakeEncoder())
        assert report.reasons == {"not an image": 1, "shard is cut or damaged": 1}
    assert sorted(map(str, store.failures().to_pylist())) == sorted(map(str, before))


def test_a_retry_leaves_shards_alone_that_were_in_hand_when_a_run_died(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "s.tar", [("a.png", b"no image")])

    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "put", dies)
        with pytest.raises(KeyboardInterrupt):
            run(path, tmp_path / "db")
    store = EmbeddingStore.open(str(tmp_path / "db"))
    assert retry(store, FakeEncoder()).images == 0
    assert run(path, tmp_path / "db").failed == 1


def keys(db):
    return EmbeddingStore.open(str(db)).vectors(columns=["key"]).columns.column("key").to_pylist()


def test_a_thousand_tiny_shards_are_stored_each_once_in_few_commits(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(1000):
        shard(folder / f"{i:04d}.tar", [i])
    report = run(folder, tmp_path / "db")
    store = EmbeddingStore.open(str(tmp_path / "db"))
    assert (report.shards_done, report.embedded, report.failed) == (1000, 1000, 0)
    keys = store.vectors(columns=["key"]).columns.column("key").to_pylist()
    assert keys == [f"im{i}" for i in range(1000)]
    assert store.ledger().num_rows == 1000
    assert store.fragments() < 10


class SlowEncoder(FakeEncoder):
    """Reads its pictures again and again before it answers: a buffer refilled meanwhile would be seen."""

    def __init__(self, **options):
        super().__init__(**options)
        self.torn = 0

    def embed(self, pictures):
        before = hashlib.sha256(pictures.tobytes()).digest()
        vectors = super().embed(pictures)
        for _ in range(20):
            os.sched_yield()
            self.torn += hashlib.sha256(pictures.tobytes()).digest() != before
        return vectors


def test_shards_with_fewer_images_than_a_batch_never_fill_the_room_for_good(tmp_path):
    many = archive(tmp_path / "many", shards=120, images=1)
    report = run(many, tmp_path / "db", FakeEncoder(batch_size=256))
    assert (report.embedded, report.shards_done) == (120, 120)
    empty = tmp_path / "empty"
    empty.mkdir()
    shard(empty / "000.tar", [1])
    for number in range(1, 120):
        write_tar(empty / f"{number:03d}.tar", [])
    report = run(empty, tmp_path / "db2")
    assert (report.embedded, report.shards_done) == (1, 120)


def test_no_picture_is_overwritten_while_a_slow_encoder_still_reads_it(tmp_path):
    encoder = SlowEncoder(batch_size=4, workers=5)
    run(archive(tmp_path, shards=6, images=25), tmp_path / "db", encoder)
    assert encoder.torn == 0
    plain = FakeEncoder()
    for key, (vector, n, *_) in rows(tmp_path / "db").items():
        (pic,) = decode(png(n), "png", plain.spec.pixels)
        raw = plain.embed(pic.pixels[None])[0].astype(np.float64)
        assert key == f"im{n}"
        np.testing.assert_allclose(vector.astype(float), raw / np.linalg.norm(raw), atol=5e-4)


@pytest.mark.parametrize("workers", [1, 3, 16])
def test_no_more_batches_are_computed_at_once_than_there_are_workers(tmp_path, workers):
    lock, now, most = threading.Lock(), 0, 0

    def counted(vectors):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.002)
        with lock:
            now -= 1
        return vectors

    encoder = FakeEncoder(batch_size=2, workers=workers, change=counted)
    run(archive(tmp_path, shards=4, images=20), tmp_path / "db", encoder)
    assert 1 <= most <= workers
    assert len(rows(tmp_path / "db")) == 80


def test_decoding_and_embedding_in_a_worker_use_one_core_and_the_caller_keeps_its_own_setting(tmp_path, monkeypatch):
    import torch

    seen = {"decode": set(), "encode": set()}

    def noted(data, suffix, spec, *, frames, stored, **_):
        seen["decode"].add(torch.get_num_threads())
        return decode(data, suffix, spec, frames=frames)

    def change(vectors):
        seen["encode"].add(torch.get_num_threads())
        return vectors

    decode_by(monkeypatch, noted)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run(archive(tmp_path), tmp_path / "db", FakeEncoder(change=change))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == {"decode": {1}, "encode": {1}}

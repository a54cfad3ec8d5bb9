"""--decoder gpu, with the CPU as the GPU: what goes which way, the comparison at the start, and the order of calls."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import threading
from dataclasses import replace
from multiprocessing.connection import Connection

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from indexer.archive.shards import find_shards
from indexer.commands.index import command as index_command
from indexer.encoders import load
from indexer.encoders.backends import device as encoder_device
from indexer.errors import EncoderError
from indexer.pipeline.engines import threads
from indexer.pipeline.engines.lent import LentDecoder, Seats, SharedBatches, Terms, serve, shared_file
from indexer.pipeline.options import RunOptions
from indexer.pipeline.run import index
from indexer.pixels import decode
from indexer.store.table import EmbeddingStore
from indexer.types import PixelSpec
from tests.archives import picture, png, write_tar
from tests.fakes import FakeEncoder

pytest.importorskip("torchcodec", reason="the gpu extra is not installed")
from indexer.pixels.jpeg import gpu as gpu_decoder
from indexer.pixels.jpeg.gpu import GpuDecoder

SPEC = PixelSpec(32, 36, "bicubic", "crop")
CPU = torch.device("cpu")


def jpeg(seed, size=(48, 40), **options):
    buffer = io.BytesIO()
    image = Image.fromarray(picture(seed, 64)).resize(size)
    image.convert(options.pop("mode", "RGB")).save(buffer, "JPEG", quality=92, **options)
    return buffer.getvalue()


def turned(seed):
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(seed, exif=exif.tobytes())


def on_cpu(data, spec=SPEC):
    return next(decode(data, "jpg", spec)).pixels


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_plain_jpegs_become_the_squares_of_the_cpus_way(fit):
    spec = replace(SPEC, fit=fit, resize=36 if fit == "crop" else 32)
    images = [jpeg(0), jpeg(1, (60, 41)), jpeg(2, (33, 70)), jpeg(3, mode="L"), jpeg(4, progressive=True)]
    for square, data in zip(GpuDecoder([CPU], spec).squares(images), images, strict=True):
        np.testing.assert_array_equal(square, on_cpu(data, spec))


def test_what_is_no_plain_jpeg_is_left_to_the_worker():
    whole = jpeg(0)
    others = [
        png(1),
        turned(2),
        jpeg(3, mode="CMYK"),
        whole[: len(whole) // 2],
        b"",
        b"\xff\xd8\xff",
        jpeg(4, (400, 20)),
    ]
    squares = GpuDecoder([CPU], SPEC).squares([whole, *others])
    np.testing.assert_array_equal(squares[0], on_cpu(whole))
    assert squares[1:] == [None] * len(others)


def damaged(seed):
    data = bytearray(jpeg(seed))
    at = data.index(b"\xff\xc4")  # a Huffman table: without it nothing can be decoded
    data[at + 4 : at + 20] = b"\xff" * 16
    return bytes(data)


def test_one_damaged_file_does_not_cost_the_others_their_batch(monkeypatch):
    calls = []
    real = gpu_decoder.decode_jpeg

    images, bad = [jpeg(i) for i in range(7)], jpeg(9)

    def refusing(batch, **options):
        calls.append(len(batch))
        if bad in batch:
            raise RuntimeError("nvJPEG decoding failed")  # for all of them
        return real(batch, **options)

    monkeypatch.setattr(gpu_decoder, "decode_jpeg", refusing)
    decoder = GpuDecoder([CPU], SPEC)
    decoder.squares(images[:1])
    calls.clear()
    squares = decoder.squares([*images[:5], bad, *images[5:]])
    assert squares[5] is None
    for square, data in zip(squares[:5] + squares[6:], images, strict=True):
        np.testing.assert_array_equal(square, on_cpu(data))
    assert calls == [8, 4, 4, 2, 1, 1, 2]  # halved where it failed


def test_a_gpu_without_memory_for_a_batch_decodes_smaller_ones(monkeypatch):
    real, freed = gpu_decoder.decode_jpeg, []

    def small(images, **options):
        if len(images) > 2:
            raise torch.OutOfMemoryError("pretended")
        return real(images, **options)

    monkeypatch.setattr(gpu_decoder, "decode_jpeg", small)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(1))
    images = [jpeg(i) for i in range(8)]
    for square, data in zip(GpuDecoder([CPU], SPEC).squares(images), images, strict=True):
        np.testing.assert_array_equal(square, on_cpu(data))
    assert freed


def test_a_batch_on_the_gpu_is_bounded_by_its_decoded_bytes(monkeypatch):
    monkeypatch.setattr(gpu_decoder, "BATCH_BYTES", 3 * 48 * 40 * 3)
    assert list(gpu_decoder._batches({i: (40, 48) for i in range(8)})) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert list(gpu_decoder._batches({0: (4000, 4000), 1: (40, 48)})) == [[0], [1]]


def test_the_first_pictures_are_compared_with_the_cpus_way(monkeypatch):
    images = [jpeg(i) for i in range(3)]
    decoder = GpuDecoder([CPU], SPEC)
    assert decoder.difference is None
    decoder.squares([png(0)])
    assert decoder.difference is None  # nothing to compare yet
    decoder.squares(images)
    assert decoder.difference == 0  # the same decoder stands for the GPU's
    real = gpu_decoder.decode_jpeg
    monkeypatch.setattr(gpu_decoder, "decode_jpeg", lambda s, **o: [p ^ 1 for p in real(s, **o)])
    decoder = GpuDecoder([CPU], SPEC)
    decoder.squares(images)
    assert 0.1 < decoder.difference <= 1
    monkeypatch.setattr(gpu_decoder, "decode_jpeg", lambda s, **o: [255 - p for p in real(s, **o)])
    with pytest.raises(EncoderError, match=r"differs from the CPU's way by .* grey levels"):
        GpuDecoder([CPU], SPEC).squares(images)


def test_pictures_that_come_out_in_two_ways_stop_the_run(monkeypatch):
    """As where a decoder overwrites memory that is still read."""
    real, turn = gpu_decoder.decode_jpeg, iter(range(100))

    def unsteady(images, **options):
        planes = real(images, **options)
        planes[0] += next(turn) % 2
        return planes

    monkeypatch.setattr(gpu_decoder, "decode_jpeg", unsteady)
    with pytest.raises(EncoderError, match="in two ways"):
        GpuDecoder([CPU], SPEC).squares([jpeg(0), jpeg(1)])


def test_the_stream_is_drained_before_each_call_and_nothing_is_queued_after_it(monkeypatch):
    log = []

    class Stream:
        def __init__(self, device):
            log.append(f"stream on {device}")

        def synchronize(self):
            log.append("drained")

    @contextlib.contextmanager
    def entered(what):
        log.append("entered" if isinstance(what, Stream) else f"on {what}")
        yield

    def pretended(images, *, mode, device):
        log.append(f"decode {len(images)} on {device}")
        return real(images, mode=mode, device="cpu")

    real = gpu_decoder.decode_jpeg
    monkeypatch.setattr(gpu_decoder, "decode_jpeg", pretended)
    for name, stand_in in (("Stream", Stream), ("device", entered), ("stream", entered)):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(gpu_decoder, "CALLERS", 1)
    decoder = GpuDecoder([torch.device("cuda", 1)], SPEC)
    decoder.squares([jpeg(0), jpeg(1)])
    call = ["drained", "on cuda:1", "entered", "decode 2 on cuda:1"]
    assert log == ["stream on cuda:1", *call * 3]  # twice to compare


def encoder_with_gpu():
    encoder = FakeEncoder()
    encoder.device = "cuda:0"
    encoder.spec = replace(encoder.spec, pixels=replace(encoder.spec.pixels, decoder="gpu-1"))
    return encoder


def members():
    broken = jpeg(3)
    return [
        ("a.jpg", jpeg(0)), ("b.png", png(1)), ("c.jpg", turned(2)), ("d.jpg", broken[: len(broken) // 2]),
        ("e.jpg", damaged(5)), ("f.jpg", jpeg(6, (900, 700))),
    ]  # fmt: skip


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_with_it_stores_the_rows_and_failures_of_a_run_without(tmp_path, monkeypatch, processes):
    write_tar(tmp_path / "s.tar", members())
    write_tar(tmp_path / "t.tar", [(f"t{i}.jpg", jpeg(20 + i)) for i in range(11)])  # two batches and a half
    found = find_shards([str(tmp_path / "*.tar")]).shards
    without = EmbeddingStore.create(str(tmp_path / "a"), "t", FakeEncoder().spec)
    index(found, without, FakeEncoder())
    encoder = encoder_with_gpu()
    store = EmbeddingStore.create(str(tmp_path / "b"), "t", encoder.spec)
    monkeypatch.setattr(threads, "decoder_of", lambda e: GpuDecoder([CPU], e.spec.pixels))
    report = index(found, store, encoder, RunOptions(processes=processes))
    assert report.decoder_difference is not None
    a, b = (s.vectors(columns=["key"]) for s in (without, store))
    a, b = (dict(zip(s.columns.column("key").to_pylist(), s.vectors, strict=True)) for s in (a, b))
    assert a.keys() == b.keys() == {"a", "b", "c", "f", *(f"t{i}" for i in range(11))}
    for key in a.keys() - {"f"}:
        np.testing.assert_array_equal(a[key], b[key])
    assert a["f"].astype(float) @ b["f"].astype(float) > 0.99  # the CPU shrinks it while decoding
    names = [[(f["key"], f["reason"]) for f in s.failures().to_pylist()] for s in (without, store)]
    assert names[0] == names[1]
    assert {key for key, _ in names[0]} == {"d", "e"}


def test_its_table_is_refused_on_a_machine_without_a_gpu(tmp_path):
    path = write_tar(tmp_path / "s.tar", members())
    encoder = encoder_with_gpu()
    encoder.device = "cpu"
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", encoder.spec)
    with pytest.raises(EncoderError, match=r"decoded on a GPU \(gpu-1\).*--table"):
        index(find_shards([str(path)]).shards, store, encoder)
    assert store.count() == 0


def test_it_is_refused_without_cuda_and_without_torchcodec(monkeypatch, tmp_path):
    path = write_tar(tmp_path / "s.tar", members())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for where in ("auto", "cpu", "openvino"):
        asked = CliRunner().invoke(
            index_command, [str(path), str(tmp_path / "db"), "--decoder", "gpu", "--device", where]
        )
        assert isinstance(asked.exception, EncoderError)
        assert "needs an NVIDIA GPU" in str(asked.exception)
    assert not (tmp_path / "db").exists()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(encoder_device, "find_spec", lambda _: None)
    with pytest.raises(EncoderError, match=r"embedding-indexer\[gpu\]"):
        load("timm:test_vit", weights="random", decoder="gpu")


def test_the_decoder_is_in_the_fingerprint_and_a_query_needs_no_gpu():
    from indexer.encoders import load_spec

    spec = load("timm:test_vit", weights="random", device="cpu").spec
    theirs = replace(spec, pixels=replace(spec.pixels, decoder="gpu-1"))
    assert theirs.fingerprint != spec.fingerprint
    assert load_spec(theirs, device="cpu").spec == theirs


class Counting(GpuDecoder):
    """Writes down how many files come at once."""

    def __init__(self):
        super().__init__([CPU], SPEC)
        self.asked = []

    def squares_of(self, images, plain):
        self.asked.append(len(images))
        return super().squares_of(images, plain)


def lent(decoder, batch_size):
    """A decoder that borrows this one by shared memory."""
    spec = replace(FakeEncoder().spec, pixels=SPEC)
    terms = Terms(spec, batch_size, "cuda:0", 1)
    file = shared_file(terms.nbytes)
    batches = [SharedBatches(terms, file) for _ in range(2)]
    os.close(file)
    own, other = (Connection(end.detach()) for end in socket.socketpair())
    threading.Thread(target=serve, args=(FakeEncoder(), decoder, batches[0], 0, own), daemon=True).start()
    return LentDecoder(terms, Seats(batches[1], [other])), other


def test_files_that_another_process_decodes_come_back_in_their_places():
    decoder = Counting()
    room = 3 * 8 * 32 * 32  # bytes, of eight squares
    images = [
        jpeg(0),
        png(1),
        jpeg(2),
        b"",
        *(jpeg(i, (64, 64)) for i in range(3, 20)),
        turned(21),
        jpeg(22, (1200, 900)),
    ]
    assert len(images[-1]) > room
    borrowed, connection = lent(decoder, 8)
    squares = borrowed.squares(images)
    for i, (square, data) in enumerate(zip(squares, images, strict=True)):
        if i in (1, 3, 21, 22):  # no JPEG, no file, not upright, too large
            assert square is None
        else:
            np.testing.assert_array_equal(square, on_cpu(data))
    assert sum(decoder.asked) == 19
    assert 3 <= len(decoder.asked) <= 8
    connection.close()


def test_what_the_owner_of_the_gpu_meets_is_told_to_the_borrower():
    class Gone(Counting):
        def squares_of(self, images, plain):  # noqa: ARG002 - the protocol's
            raise EncoderError("the GPU is gone.")

    borrowed, connection = lent(Gone(), 8)
    with pytest.raises(EncoderError, match=r"^the GPU is gone\.$"):
        borrowed.squares([jpeg(0)])
    connection.close()

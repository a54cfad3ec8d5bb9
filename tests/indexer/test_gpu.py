"""On a real GPU, where there is one: vectors, memory that runs out, decoding, and whole runs."""

from __future__ import annotations

import io
from dataclasses import replace

import lance
import numpy as np
import pytest
import torch
from PIL import Image

from indexer.archive.shards import find_shards
from indexer.encoders import load, precision_check
from indexer.encoders.backends.cuda import CudaLane
from indexer.encoders.backends.slots import SlottedBackend
from indexer.encoders.families import weights
from indexer.encoders.loading import GPU_DECODER, find
from indexer.pipeline.options import RunOptions
from indexer.pipeline.run import index
from indexer.pixels import decode
from indexer.store.table import EmbeddingStore
from tests.archives import picture, write_tar

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible here"),
    pytest.mark.filterwarnings("ignore"),
]

MODEL = "open_clip:ViT-B-32"


def noise(n, size=224):
    return np.random.default_rng(n).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def cosines(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("name", [MODEL, "torchvision:resnet50", "open_clip:RN50"])
@pytest.mark.parametrize("compiled", [False, True])
def test_vectors_are_those_of_the_cpu_in_fp32(name, compiled):
    gpu = load(name, weights="random", device="cuda", compiled=compiled)
    cpu = load(name, weights="random", device="cpu", precision="fp32")
    pictures = noise(4)
    assert cosines(gpu.embed(pictures), cpu.embed(pictures)).min() > 0.999
    assert precision_check(gpu, pictures) > 0.999


def test_fp32_is_fp32_and_not_of_ten_bits():
    gpu, cpu = (load("torchvision:resnet50", weights="random", device=d, precision="fp32") for d in ("cuda", "cpu"))
    a, b = (encoder.embed(noise(4)) for encoder in (gpu, cpu))
    assert np.abs(a - b).max() / np.abs(b).max() < 1e-5  # TF32 gives some 1e-3


def test_a_vector_does_not_depend_on_what_else_is_in_its_batch():
    gpu = load(MODEL, weights="random", device="cuda", compiled=False)
    pictures = noise(gpu.batch_size)
    whole = gpu.embed(pictures)
    np.testing.assert_array_equal(whole, gpu.embed(pictures))
    np.testing.assert_array_equal(whole[:5], gpu.embed(pictures[:5]))
    np.testing.assert_array_equal(np.roll(whole, 3, 0), gpu.embed(np.roll(pictures, 3, 0)))


def test_a_gpu_that_runs_out_of_memory_takes_smaller_batches_and_gives_the_same_vectors():
    definition = find(MODEL, weights.parse("random"))
    spec = replace(definition.spec, precision="fp32")
    pictures = noise(24)

    def backend(largest):
        lane = CudaLane(definition.build(), spec, torch.device("cuda", 0), channels_last=False, compiled=False)
        return SlottedBackend([lane], dim=spec.dim, largest=largest)

    wanted = backend(32).embed(pictures)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + (1500 << 20)) / total)
    try:
        small = backend(4096)  # 600 MB of weights leave no room for it
        assert small.batch_size < 4096
        found = small.embed(pictures)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert cosines(found, wanted).min() > 0.99999


def jpeg(seed, size=(300, 260)):
    buffer = io.BytesIO()
    Image.fromarray(picture(seed, 64)).resize(size).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def test_jpegs_decoded_by_the_gpu_are_nearly_those_of_the_cpu():
    gpu_decoder = pytest.importorskip("indexer.pixels.jpeg.gpu", reason="the gpu extra is not installed")
    spec = find(MODEL, weights.parse("random")).spec.pixels
    images = [jpeg(i, size) for i, size in enumerate([(300, 260), (512, 512), (224, 224), (640, 333), (512, 512)])]
    bad = bytearray(images[1])
    bad[len(bad) // 2 :] = b"\0" * (len(bad) - len(bad) // 2)
    decoder = gpu_decoder.GpuDecoder([torch.device("cuda", 0)], spec)
    squares = decoder.squares([*images, bytes(bad)])
    for square, data in zip(squares, images, strict=False):
        wanted = next(decode(data, "jpg", spec)).pixels.astype(int)
        assert np.abs(square.astype(int) - wanted).mean() < 2
    assert decoder.difference < 2


@pytest.mark.parametrize("decoder", ["cpu", "gpu"])
def test_processes_that_decode_for_a_gpu_store_what_one_process_stores(tmp_path, decoder):
    if decoder == "gpu":
        pytest.importorskip("torchcodec", reason="the gpu extra is not installed")
    for shard in range(4):
        write_tar(tmp_path / f"{shard}.tar", [(f"{shard}-{i}.jpg", jpeg(10 * shard + i)) for i in range(9)])
    encoder = load(MODEL, weights="random", device="cuda", compiled=False)
    if decoder == "gpu":
        encoder = encoder.with_pixels(replace(encoder.spec.pixels, decoder=GPU_DECODER))
    tables = []
    for processes in (1, 2):
        store = EmbeddingStore.create(str(tmp_path / f"db{processes}"), "t", encoder.spec)
        report = index(find_shards([str(tmp_path / "*.tar")]).shards, store, encoder, RunOptions(processes=processes))
        assert (report.embedded, report.failed) == (36, 0)
        rows = lance.dataset(tmp_path / f"db{processes}" / "t.lance").to_table(columns=["key", "vector"]).to_pylist()
        tables.append({row["key"]: row["vector"] for row in rows})
    assert tables[0] == tables[1]

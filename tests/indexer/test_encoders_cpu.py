"""The CPU's own ways in bf16: attention in parts, and linear layers packed with their activations."""

from __future__ import annotations

import copy
import threading

import numpy as np
import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from indexer.encoders import load
from indexer.encoders.backends import cpu_attention
from indexer.encoders.backends.cpu_attention import AttentionInParts
from indexer.encoders.rewritings.apply import packed
from indexer.encoders.rewritings.packed import can_pack

SIZE = 64
needs_packing = pytest.mark.skipif(not can_pack(), reason="this processor has no products of bf16")


def drawn(*shapes, dtype=torch.bfloat16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator).to(dtype) for shape in shapes]


@pytest.fixture
def parts(monkeypatch):
    """One entry for each attention that is computed in parts and not by torch."""
    entries, attend = [], cpu_attention.attend

    def noted(*tensors, **options):
        entries.append(tensors)
        return attend(*tensors, **options)

    monkeypatch.setattr(cpu_attention, "attend", noted)
    return entries


def exactly(q, k, v, scale=None):
    """Attention by its formula, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    return (q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)).softmax(-1) @ v


@pytest.mark.parametrize(
    ("queries", "keys", "values"),
    [
        ((3, 2, 50, 16), (3, 2, 50, 16), (3, 2, 50, 16)),
        ((3, 2, 1, 16), (3, 2, 50, 16), (3, 2, 50, 16)),  # one query, as of a class token
        ((2, 5, 400, 8), (2, 5, 400, 8), (2, 5, 400, 24)),  # heads in several parts, wider values
        ((1, 2, 1100, 8), (1, 2, 1100, 8), (1, 2, 1100, 8)),  # one head's scores in several parts
    ],
)
def test_attention_in_parts_equals_the_formula_as_closely_as_torch_does(parts, queries, keys, values):
    q, k, v = drawn(queries, keys, values)
    q = q * 4  # a few keys take nearly all the weight: scores rounded to bf16 would be off by a multiple of torch's
    wanted = exactly(q, k, v)
    theirs = F.scaled_dot_product_attention(q, k, v)
    with AttentionInParts():
        ours = F.scaled_dot_product_attention(q, k, v)
    assert len(parts) == 1  # or torch's own was compared with itself
    assert ours.shape == theirs.shape
    assert ours.dtype == torch.bfloat16
    errors = [float((got.double() - wanted).pow(2).mean().sqrt()) for got in (ours, theirs)]
    assert errors[0] <= 2 * errors[1]


def test_the_heads_of_one_product_and_a_scale_of_the_callers_own_are_taken_as_they_lie(parts):
    (joint,) = drawn((2, 30, 3, 4, 16))
    q, k, v = joint.permute(2, 0, 3, 1, 4)
    with AttentionInParts():
        ours = F.scaled_dot_product_attention(query=q, key=k, value=v, scale=0.3)
    assert len(parts) == 1
    torch.testing.assert_close(ours.double(), exactly(q, k, v, 0.3), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    "options",
    [
        {"attn_mask": torch.arange(9).expand(9, 9) % 2 == 0},
        {"is_causal": True},
        {"enable_gqa": True},
        {"dtype": torch.float32},
        {"one": True},
    ],
    ids=["masked", "causal", "grouped", "fp32", "without heads"],
)
def test_any_other_attention_is_left_to_torch(parts, options):
    options = dict(options)
    shape = (2, 9, 8) if options.pop("one", False) else (2, 4, 9, 8)
    q, k, v = drawn(shape, shape, shape, dtype=options.pop("dtype", torch.bfloat16))
    if options.get("enable_gqa"):
        k, v = k[:, :2], v[:, :2]
    wanted = F.scaled_dot_product_attention(q, k, v, **options)
    with AttentionInParts():
        assert torch.equal(F.scaled_dot_product_attention(q, k, v, **options), wanted)
    assert parts == []


def test_other_threads_keep_torchs_attention(parts):
    q, k, v = drawn(*[(2, 4, 90, 16)] * 3)
    wanted, got = F.scaled_dot_product_attention(q, k, v), []
    thread = threading.Thread(target=lambda: got.append(F.scaled_dot_product_attention(q, k, v)))
    with AttentionInParts():
        thread.start()
        thread.join()
    assert torch.equal(got[0], wanted)
    assert parts == []


class OneBlock(nn.Module):
    """A picture's mean colour through two layers with an activation between them."""

    def __init__(self, activation):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(3, 96), activation, nn.Linear(96, 40))

    def forward(self, x):
        return self.mlp(x.mean((2, 3)))


class Gated(nn.Module):
    """One of timm's blocks that declare an activation behind a layer to which it does not belong, or not as a whole."""

    def __init__(self, block):
        super().__init__()
        self.block = block(3, 96, 40)
        self.shift = nn.Parameter(torch.zeros(40))

    def forward(self, x):
        return self.block(x.mean((2, 3))) + self.shift


def linears(network):
    return [m for m in network.modules() if type(m) is nn.Linear]


def bf16(network):
    torch.manual_seed(2)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return network.eval().requires_grad_(False).to(torch.bfloat16)


def packed_and_in_fp32(network):
    """Vectors of 32 pictures by the packed network, and by its weights in fp32."""
    pictures = drawn((32, 3, SIZE, SIZE))[0] * 20
    with torch.inference_mode():
        wanted = copy.deepcopy(network).float()(pictures.float())
        packed(network, SIZE)
        ours = network(pictures)
    assert not linears(network)
    return ours.float(), wanted


def assert_close(ours, wanted):
    torch.testing.assert_close(ours, wanted, rtol=0.02, atol=0.02 * float(wanted.abs().max()))


@needs_packing
@pytest.mark.parametrize(
    ("activation", "fused"),
    [
        (nn.GELU(), True),
        (nn.GELU(approximate="tanh"), True),
        (timm.layers.GELUTanh(), True),
        (nn.SiLU(), True),
        (nn.Tanh(), False),
    ],
)
def test_packed_layers_give_the_vectors_of_the_layers_they_replace(activation, fused):
    network = bf16(OneBlock(activation))
    ours, wanted = packed_and_in_fp32(network)
    assert isinstance(network.mlp[1], nn.Identity) == fused
    assert_close(ours, wanted)


@needs_packing
def test_an_activation_goes_into_the_layer_before_in_timms_plain_blocks():
    network = bf16(Gated(timm.layers.Mlp))
    ours, wanted = packed_and_in_fp32(network)
    assert isinstance(network.block.act, nn.Identity)
    assert_close(ours, wanted)


@needs_packing
@pytest.mark.parametrize("block", [timm.layers.SwiGLU, timm.layers.SwiGLUPacked, timm.layers.GluMlp])
def test_gated_blocks_are_packed_without_their_activation_though_one_large_output_hides_a_mistake(block):
    network = bf16(Gated(block))
    network.shift[0] = 500.0
    ours, wanted = packed_and_in_fp32(network)
    assert_close(ours[:, 1:], wanted[:, 1:])


class ReadsWeights(OneBlock):
    """Its second layer never runs: the block takes the weight from it."""

    def forward(self, x):
        return F.linear(self.mlp[0](x.mean((2, 3))), self.mlp[2].weight)


@needs_packing
def test_a_layer_whose_weight_a_block_reads_itself_stays_and_the_others_are_packed():
    network = bf16(ReadsWeights(nn.Tanh()))
    last = network.mlp[2]
    packed(network, SIZE)
    assert linears(network) == [last]
    assert torch.isfinite(network(drawn((2, 3, SIZE, SIZE))[0])).all()


@needs_packing
def test_the_weights_of_torchs_own_attention_stay():
    class Attends(OneBlock):
        def __init__(self):
            super().__init__(nn.GELU())
            self.attention = nn.MultiheadAttention(40, 2, batch_first=True)

        def forward(self, x):
            tokens = super().forward(x)[:, None]
            return self.attention(tokens, tokens, tokens)[0][:, 0]

    mixed = bf16(Attends())
    packed(mixed, SIZE)
    assert not linears(mixed)
    assert isinstance(mixed.attention.out_proj, nn.Linear)


@needs_packing
def test_a_loaded_encoder_has_packed_its_image_tower_and_counts_every_parameter():
    packed_one = load("open_clip:ViT-S-32-alt", weights="random", precision="bf16", device="cpu")
    plain = open_clip.create_model("ViT-S-32-alt").to(torch.bfloat16)
    whole = sum(t.nbytes for t in (*plain.parameters(), *plain.buffers()))
    assert not linears(packed_one._towers.vision)
    assert abs(packed_one.parameter_bytes / whole - 1) < 0.01
    assert linears(packed_one._towers.module)  # those of text


def embedded_in_a_thread(encoder, pictures):
    got: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: got.append(encoder.embed(pictures)))
    thread.start()
    thread.join()
    return got[0]


@pytest.mark.parametrize("model", ["open_clip:ViT-S-32-alt", "timm:vit_tiny_patch16_224"])
def test_a_picture_has_the_same_bits_in_every_thread_and_wherever_in_the_batch_it_lies(model):
    encoder = load(model, weights="random", precision="bf16", device="cpu")
    size, n = encoder.spec.pixels.size, encoder.batch_size
    pictures = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    vectors = embedded_in_a_thread(encoder, pictures)
    assert np.array_equal(encoder.embed(pictures), vectors)  # here, with every core
    order = np.random.default_rng(1).permutation(n)
    assert np.array_equal(embedded_in_a_thread(encoder, pictures[order]), vectors[order])

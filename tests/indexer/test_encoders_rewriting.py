"""Networks rewritten for speed: the same vectors as the library's own network, or no rewriting at all."""

from __future__ import annotations

import copy

import open_clip
import pytest
import timm
import torch
from torch import nn

from indexer.encoders.families.openclip import REWRITINGS
from indexer.encoders.rewritings import apply as rewriting

SIZE = 64


def rewritten(network, size):
    """As open_clip's networks are, which may hold one of timm."""
    return rewriting.rewritten(network, size, *REWRITINGS)


def vision(**changes):
    """open_clip's vision transformer, small, with weights in which every token and block matters."""
    torch.manual_seed(3)
    config = {"image_size": SIZE, "patch_size": 16, "width": 64, "layers": 3, "heads": 2, "mlp_ratio": 4.0}
    network = open_clip.transformer.VisionTransformer(**{**config, "output_dim": 32, **changes}).eval()
    return spread(network)


def spread(network):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def passes(network, pictures):
    """The modules that ran, and rows of tokens that each saw."""
    rows = []
    hooks = [
        m.register_forward_hook(lambda m, x, _: rows.append((type(m).__name__, x[0].numel() // x[0].shape[-1])))
        for m in network.modules()
        if isinstance(m, (nn.Linear, nn.GELU, nn.LayerNorm))
        and not isinstance(m, nn.modules.linear.NonDynamicallyQuantizableLinear)
    ]
    with torch.inference_mode():
        network(pictures)
    for hook in hooks:
        hook.remove()
    return rows


def test_pixels_that_no_patch_covers_are_left_out_as_a_convolution_leaves_them_out():
    network = vision(patch_size=14)
    pictures = torch.randn(2, 3, SIZE, SIZE)
    fast = rewritten(copy.deepcopy(network), SIZE)
    assert not isinstance(fast.conv1, nn.Conv2d)
    with torch.inference_mode():
        torch.testing.assert_close(fast(pictures), network(pictures), rtol=1e-4, atol=1e-5)


def test_a_transformer_that_gives_its_tokens_too_keeps_them():
    network = vision(output_tokens=True)
    pictures = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        vector, tokens = network(pictures)
        fast_vector, fast_tokens = rewritten(network, SIZE)(pictures)
    torch.testing.assert_close(fast_vector, vector, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast_tokens, tokens, rtol=1e-4, atol=1e-5)


class ReadsASecondToken(nn.Module):
    """Its vector is made of two tokens, though the transformer inside says that one is read."""

    def __init__(self):
        super().__init__()
        self.inside = vision(pool_type="tok")
        self.inside._global_pool = lambda x: (x[:, 0] + x[:, 1], x)

    def forward(self, x):
        return self.inside(x)


def test_a_rewriting_without_which_the_network_cannot_run_is_taken_back_too():
    network = ReadsASecondToken()
    last = network.inside.transformer.resblocks[-1]
    pictures = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        wanted = network(pictures)
        fast = rewritten(network, SIZE)
        assert fast.inside.transformer.resblocks[-1] is last
        assert not isinstance(fast.inside.conv1, nn.Conv2d)
        torch.testing.assert_close(fast(pictures), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pool_type": "avg"},
        {"ls_init_value": 0.7},
        {"final_ln_after_pool": True},
        {"act_layer": open_clip.transformer.QuickGELU},
        {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 2},
    ],
)
def test_a_rewritten_vision_transformer_gives_the_same_vectors(changes):
    network = vision(**changes)
    pictures = torch.randn(5, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    fast = rewritten(copy.deepcopy(network), SIZE)
    with torch.inference_mode():
        torch.testing.assert_close(fast(pictures), network(pictures), rtol=1e-4, atol=1e-5)


def of_type(network, kind):
    return [m for m in network.modules() if isinstance(m, kind)]


def test_attention_among_a_pictures_tokens_is_rewritten_and_that_of_a_pooler_stays():
    assert not of_type(rewritten(vision(), SIZE), nn.MultiheadAttention)
    pooled = rewritten(vision(attentional_pool=True, attn_pooler_queries=5, attn_pooler_heads=2), SIZE)
    assert of_type(pooled, nn.MultiheadAttention) == [pooled.attn_pool.attn]


def test_quick_gelu_becomes_silu_and_is_itself_again_where_that_changes_the_vector():
    quick = open_clip.transformer.QuickGELU
    fast = rewritten(vision(act_layer=quick), SIZE)
    assert (len(of_type(fast, quick)), len(of_type(fast, nn.SiLU))) == (0, 3)

    network = vision(act_layer=quick)
    mlp = network.transformer.resblocks[0].mlp
    mlp.forward = lambda x: mlp.gelu(x)  # whatever it is by then; the layers around it do not run
    was = copy.deepcopy(mlp.state_dict())
    fast = rewritten(network, SIZE)
    assert (len(of_type(fast, quick)), len(of_type(fast, nn.SiLU))) == (3, 0)
    assert all(torch.equal(was[name], parameter) for name, parameter in mlp.state_dict().items())


def test_the_last_block_computes_the_class_token_alone_where_no_other_is_read():
    pictures = torch.randn(2, 3, SIZE, SIZE)
    tokens = 2 * 17
    whole = [("LayerNorm", tokens), ("Linear", tokens), ("GELU", tokens), ("Linear", tokens)]
    assert passes(rewritten(vision(), SIZE), pictures)[-5:] == [
        ("LayerNorm", 2), ("Linear", 2), ("GELU", 2), ("Linear", 2), ("LayerNorm", 2),
    ]  # fmt: skip
    assert passes(rewritten(vision(pool_type="avg"), SIZE), pictures)[-5:] == [*whole, ("LayerNorm", tokens)]


@pytest.mark.parametrize(("pool", "rows"), [("token", 2), ("avg", 2 * 50)])
def test_the_same_holds_for_transformers_of_timm(pool, rows):
    torch.manual_seed(5)
    how = {"embed_dim": 64, "depth": 2, "num_heads": 2, "num_classes": 0, "img_size": 112, "init_values": 0.5}
    network = spread(timm.create_model("vit_tiny_patch16_224", qk_norm=True, global_pool=pool, **how).eval())
    pictures = torch.randn(2, 3, 112, 112)
    with torch.inference_mode():
        wanted = network(pictures)
        fast = rewritten(network, 112)
        torch.testing.assert_close(fast(pictures), wanted, rtol=1e-4, atol=1e-5)
    assert [n for name, n in passes(fast, pictures) if name == "GELU"] == [2 * 50, rows]


@pytest.mark.parametrize(
    "model",
    [
        "vit_tiny_patch16_224",
        "resnet10t.c3_in1k",
        "vit_small_patch14_dinov2.lvd142m",
        "deit_tiny_distilled_patch16_224",
    ],
)
def test_rewritten_networks_of_timm_give_the_same_vectors(model):
    size = {"num_classes": 0} | ({} if "resnet" in model else {"img_size": 112})
    torch.manual_seed(4)
    network = spread(timm.create_model(model, **size).eval())
    pictures = torch.randn(3, 3, 112, 112)
    fast = rewritten(copy.deepcopy(network), 112)
    convolutions = [sum(isinstance(m, (nn.Conv2d, nn.BatchNorm2d)) for m in n.modules()) for n in (network, fast)]
    assert convolutions[1] < convolutions[0]
    with torch.inference_mode():
        wanted = network(pictures)
        torch.testing.assert_close(fast(pictures), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


class NormFirst(nn.Module):
    """Declares its layers in another order than it runs them."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 3, 8, stride=8)
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.norm.running_mean, self.norm.running_var = torch.randn(3), torch.rand(3) + 0.5

    def forward(self, x):
        return self.conv(self.norm(self.patches(x))).flatten(1)


def test_a_rewriting_that_would_change_the_vector_is_taken_back_and_the_others_stay():
    network = spread(NormFirst().eval())
    conv, norm, weight = network.conv, network.norm, network.conv.weight
    pictures = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        wanted = network(pictures)
        fast = rewritten(network, SIZE)
        assert (fast.conv, fast.norm, fast.conv.weight is weight, fast.conv.bias) == (conv, norm, True, None)
        assert not isinstance(fast.patches, nn.Conv2d)
        torch.testing.assert_close(fast(pictures), wanted, rtol=1e-4, atol=1e-5)

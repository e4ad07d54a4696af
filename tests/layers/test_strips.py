# SPDX-License-Identifier: Apache-2.0
"""Blocks that go through the map in strips give what they give on the whole map."""

import pytest
import torch

from tests.closed_form import fill_, tensor
from vitdet_d2.backbones import ViT
from vitdet_d2.layers import attend, attend_tiled, onednn, strips
from vitdet_d2.layers.strips import map_strips, worth_strips

KINDS = {
    "windows": {"window_size": 3, "window_block_indexes": (0, 1)},
    "global": {},
    "shifted": {"window_size": 4, "cross_window": "shifted"},
    "convolution": {"window_size": 3, "cross_window": "conv"},
    "shared biases": {"window_size": 3, "window_block_indexes": (0,), "rel_pos_bias": "shared"},
    "rotary": {"window_size": 3, "window_block_indexes": (0,), "rope": "half"},
    "gated": {"mlp": "swiglu", "window_size": 3, "window_block_indexes": (0,)},
}


def make(kind):
    arguments = {"use_rel_pos": True, "layer_scale_init": 0.5, **KINDS[kind]}
    net = ViT(img_size=96, embed_dim=16, depth=2, num_heads=2, drop_path_rate=0.5, **arguments)
    return fill_(net.double()).eval()


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 13, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_strips_give_the_same(kind, tokens, monkeypatch):
    net = make(kind)
    x = tensor("x", (3, 3, 16 * 8, 16 * 7))
    expected = net(x)["last_feat"]
    monkeypatch.setattr(strips, "STRIP_TOKENS", tokens)
    torch.testing.assert_close(net(x)["last_feat"], expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 10, 24, 50, 1000])
@pytest.mark.parametrize("unit", [1, 2, 3, 10])
def test_every_token_is_in_one_strip(tokens, unit, monkeypatch):
    monkeypatch.setattr(strips, "STRIP_TOKENS", tokens)
    x = torch.arange(4 * 7 * 3, dtype=torch.float64).reshape(4, 7, 3, 1)
    sizes = []

    def negate(strip):
        sizes.append(strip.shape)
        return -strip

    assert torch.equal(map_strips(negate, x, unit), -x)
    # No more tokens than asked for, unless the rows that belong together are more.
    assert all(b * h * w <= max(tokens, min(unit, 7) * 3) for b, h, w, _ in sizes)
    assert all(h % unit == 0 or h == 7 % unit or h == 7 for _, h, _, _ in sizes)


def test_training_and_hooks_get_the_whole_map(monkeypatch):
    monkeypatch.setattr(strips, "STRIP_TOKENS", 1)
    net, seen = make("windows"), []
    handle = net.blocks[0].mlp.register_forward_hook(lambda *given: seen.append(given[2].shape))
    x = tensor("x", (1, 3, 96, 96))
    with torch.no_grad():
        net(x)
        assert seen == [(1, 6, 6, 16)]
        handle.remove()
        calls = []
        monkeypatch.setattr(net.blocks[0].norm2, "forward", lambda x: calls.append(x.shape) or x)
        net(x)
        assert len(calls) == 2
        net.train()(x)
    net(x)
    assert calls[2:] == [(1, 6, 6, 16)] * 2


@torch.no_grad()
@pytest.mark.parametrize("name", ["attn", "norm1", "norm2", "mlp"])
def test_parts_of_others_get_the_whole_map(name, monkeypatch):
    """They may look at all tokens, as a perceptron with a convolution does."""

    class OverTheMap(torch.nn.Module):
        def forward(self, x, _bias_strips=None):
            return x - x.mean(dim=(1, 2), keepdim=True)

    block = make("windows").blocks[0]
    setattr(block, name, OverTheMap().eval())
    x = tensor("x", (1, 6, 6, 16))
    expected = block(x)
    monkeypatch.setattr(strips, "STRIP_TOKENS", 1)
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_strips_keep_the_type_that_autocast_makes(monkeypatch):
    block = make("windows").float().blocks[0]
    x = tensor("x", (1, 6, 6, 16)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        expected = block(x)
        monkeypatch.setattr(strips, "STRIP_TOKENS", 1)
        actual = block(x)
    assert expected.dtype == torch.float32  # LayerScale's factors
    torch.testing.assert_close(actual, expected)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_tracers_get_the_block_as_it_is_written(monkeypatch):
    """A trace runs on other processors, too: no operator of this one's is in it."""
    for module, name in ((strips, "STRIP_TOKENS"), (attend, "TILED_TOKENS")):
        monkeypatch.setattr(module, name, 1)
    monkeypatch.setattr(onednn, "MIN_PRODUCTS", 1)
    monkeypatch.setattr(attend_tiled, "SHORT_TOKENS", 1)
    net = make("global").float()
    x = tensor("x", (1, 3, 48, 64)).float()
    traced = torch.jit.trace(net, x, strict=False, check_trace=False)
    assert "mkldnn::" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(x)["last_feat"], net(x)["last_feat"])


def test_strips_are_for_inference_on_the_cpu():
    x = torch.zeros(2, 32, 32, 1)
    assert not worth_strips(x)
    with torch.no_grad():
        assert worth_strips(x)
        assert not worth_strips(x[:1])
        assert not worth_strips(x.to("meta"))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_compilers_get_the_block_as_it_is_written(monkeypatch):
    """One graph, without tiles and strips, of the same numbers."""
    monkeypatch.setattr(strips, "STRIP_TOKENS", 1)
    monkeypatch.setattr(attend, "TILED_TOKENS", 1)
    block = make("global").blocks[1]
    x = tensor("x", (1, 3, 4, 16))
    calls = []
    monkeypatch.setattr(attend, "attend_tiled", lambda *given: calls.append(given))
    compiled = torch.compile(block.forward, backend="eager", fullgraph=True, dynamic=False)
    result = compiled(x)
    assert not calls
    monkeypatch.undo()
    torch.testing.assert_close(result, block(x), rtol=1e-12, atol=1e-12)

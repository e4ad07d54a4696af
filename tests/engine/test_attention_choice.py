# SPDX-License-Identifier: Apache-2.0
import logging

import pytest
import torch

from vitdet_d2.engine import attention_choice as module
from vitdet_d2.engine.attention_choice import Case, choose, choose_attention
from vitdet_d2.layers.attention import Attention

CASE = Case((4, 6), 2, 8, torch.float32, True, torch.device("cpu"))


@pytest.fixture
def ways(monkeypatch):
    """Ways that run on the CPU, in place of those for CUDA."""
    monkeypatch.setattr(module, "WAYS", ("augmented", "explicit", "chunked"))


def timed(**milliseconds):
    """A timer that says how long each way takes; it runs it, to find which it is."""

    def timer(run):
        assert len(run()) == 6, "the result and five gradients"
        return milliseconds[run.args[1]] / 1e3

    return timer


@pytest.mark.parametrize(
    ("times", "best"),
    [
        ({"augmented": 2.0, "explicit": 3.0, "chunked": 1.0}, "chunked"),
        ({"augmented": 1.0, "explicit": 0.97, "chunked": 2.0}, "augmented"),  # within the noise
        ({"augmented": 1.0, "explicit": 0.9, "chunked": 0.8}, "chunked"),
    ],
)
def test_the_fastest_way_is_taken(ways, times, best, caplog):
    with caplog.at_level(logging.INFO):
        assert choose(CASE, timed(**times)) == best
    assert f"4x6 tokens, 2 heads of 8, torch.float32, forward and backward: {best} (" in caplog.text


def test_a_way_that_fails_is_left_out(ways, monkeypatch, caplog):
    def attend(q, k, v, terms, scale, way):
        if way == "chunked":
            raise RuntimeError("no kernel for this card")
        return true_attend(q, k, v, terms, scale, way)

    true_attend = module.attend
    monkeypatch.setattr(module, "attend", attend)
    assert choose(CASE, timed(augmented=2.0, explicit=1.5)) == "explicit"
    assert "chunked is left out" in caplog.text
    assert "no kernel for this card" in caplog.text


def test_a_way_that_is_wrong_is_left_out(ways, monkeypatch, caplog):
    def attend(q, k, v, terms, scale, way):
        wrong = 1.01 if way == "explicit" else 1.0
        return true_attend(q, k, v, (terms[0] * wrong, terms[1]), scale, way)

    true_attend = module.attend
    monkeypatch.setattr(module, "attend", attend)
    assert choose(CASE, timed(augmented=2.0, chunked=3.0)) == "augmented"
    assert "explicit is left out" in caplog.text
    assert "its numbers differ by" in caplog.text


def test_where_everything_fails_the_first_way_stays(caplog):
    def timer(run):
        raise RuntimeError("lost the device")

    assert choose(CASE, timer) == "augmented"
    assert "triton is left out" in caplog.text


def test_the_random_state_stays():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    choose(CASE, lambda run: 1.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_layers_on_the_cpu_keep_the_rule():
    layer = Attention(16, num_heads=2, use_rel_pos=True, input_size=(4, 4))
    assert choose_attention(layer, None, training=True) == {}
    assert layer.fastest_on_cuda is None


def test_what_was_chosen_on_cuda_does_not_bind_the_cpu():
    torch.manual_seed(0)
    layer = Attention(16, num_heads=2, use_rel_pos=True, input_size=(4, 4))
    x = torch.randn(1, 4, 4, 16)
    expected = layer(x)
    layer.fastest_on_cuda = "triton"
    assert torch.equal(layer(x), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device_every_open_layer_gets_a_way():
    layers = torch.nn.ModuleList(
        [
            Attention(128, num_heads=2, use_rel_pos=True, input_size=(14, 14), window_size=14),
            Attention(128, num_heads=2, use_rel_pos=True, input_size=(64, 64)),
            Attention(128, num_heads=2),
        ]
    ).cuda()
    chosen = choose_attention(layers, torch.bfloat16, training=True)
    assert [case.grid for case in chosen] == [(14, 14), (64, 64)]
    assert [layer.fastest_on_cuda for layer in layers] == [*chosen.values(), None]

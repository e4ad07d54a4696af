# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from tests.closed_form import fill_, tensor
from vitdet_d2.layers import attend as attend_module
from vitdet_d2.layers import attend_tiled
from vitdet_d2.layers.attend import attend, choose_method
from vitdet_d2.layers.attention import Attention

METHODS = ["auto", "explicit", "augmented", "chunked", "tiled"]


def slow_attention(q, k, v, terms, scale, width):
    """One query at a time, one key at a time."""
    out = torch.zeros_like(v)
    B, heads, N, _ = q.shape
    for b in range(B):
        for n in range(heads):
            for i in range(N):
                logits = [scale * (q[b, n, i] @ k[b, n, j]) for j in range(N)]
                for j in range(N):
                    row, column = divmod(j, width)
                    logits[j] = logits[j] + terms[0][b, n, i, row] + terms[1][b, n, i, column]
                weights = torch.stack(logits).exp()
                out[b, n, i] = (weights / weights.sum()) @ v[b, n]
    return out


def example(dtype, hw=(3, 4), channels=5, grad=False):
    N = hw[0] * hw[1]
    shapes = {"q": channels, "k": channels, "v": channels, "h": hw[0], "w": hw[1]}
    parts = [tensor(n, (2, 2, N, c), 1.5).to(dtype).requires_grad_(grad) for n, c in shapes.items()]
    return parts[0], parts[1], parts[2], (parts[3], parts[4])


@pytest.mark.parametrize("method", METHODS)
def test_attend_matches_loops(method):
    q, k, v, terms = example(torch.float64)
    expected = slow_attention(q, k, v, terms, 0.3, width=4)
    torch.testing.assert_close(attend(q, k, v, terms, 0.3, method), expected)


@pytest.mark.parametrize("method", ["auto", "augmented", "chunked", "tiled"])
@pytest.mark.parametrize("chunk_elements", [1, 100, 1 << 23])
def test_methods_match_explicit_with_gradients(method, chunk_elements, monkeypatch):
    monkeypatch.setattr(attend_module, "CHUNK_ELEMENTS", chunk_elements)
    results = []
    for m in ("explicit", method):
        q, k, v, terms = example(torch.float64, grad=True)
        out = attend(q, k, v, terms, 0.3, m)
        (out * tensor("cotangent", tuple(out.shape))).sum().backward()
        results.append([out.detach(), *(t.grad for t in (q, k, v, *terms))])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("method", METHODS)
def test_gradient_of_the_terms_alone(method):
    q, k, v, terms = example(torch.float64)
    terms = tuple(t.requires_grad_() for t in terms)
    attend(q, k, v, terms, 0.3, method)[..., 0].sum().backward()
    assert all(t.grad.abs().max() > 1e-3 for t in terms)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attend_without_terms_and_in_low_precision(method, dtype):
    q, k, v, terms = example(dtype)
    for given in (None, terms):
        expected = attend(*(t.double() for t in (q, k, v)), _doubled(given), 0.3, "explicit")
        actual = attend(q, k, v, given, 0.3, method)
        assert actual.dtype == dtype
        # bf16 keeps 8 bits: logits of up to 4 are off by 2^-6, weights by as much.
        tolerance = 1e-6 if dtype == torch.float32 else 2**-5
        torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


def _doubled(terms):
    return None if terms is None else tuple(t.double() for t in terms)


def test_choice_of_method():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_method(cuda, 196, True) == choose_method(cuda, 4096, False) == "augmented"
    assert choose_method(cpu, 4096, False) == choose_method(cpu, 1024, False) == "tiled"
    assert choose_method(cpu, 196, False) == choose_method(cpu, 1024, True) == "chunked"
    assert choose_method(cpu, 4096, True) == "augmented"
    assert choose_method(cpu, 196, False, torch.bfloat16) == "tiled"
    assert choose_method(cpu, 196, True, torch.bfloat16) == "chunked"


@pytest.mark.parametrize("tokens", [0, 12])
@pytest.mark.parametrize("elements", [1, 30, 1 << 20])
@torch.no_grad()
def test_tiles_of_any_size_match_explicit(tokens, elements, monkeypatch):
    monkeypatch.setattr(attend_tiled, "SHORT_TOKENS", tokens)
    monkeypatch.setattr(attend_tiled, "TILE_ELEMENTS", elements)
    monkeypatch.setattr(attend_tiled, "SHORT_ELEMENTS", elements)
    q, k, v, terms = example(torch.float64)
    for given in (terms, tuple(t[:, :1] for t in terms)):
        expected = attend(q, k, v, given, 0.3, "explicit")
        torch.testing.assert_close(attend(q, k, v, given, 0.3, "tiled"), expected)


def test_unknown_method_raises():
    q, k, v, terms = example(torch.float32)
    with pytest.raises(ValueError, match=r"one of auto, explicit, .*, got 'fast'"):
        attend(q, k, v, terms, 1.0, "fast")


def make(**kwargs):
    return fill_(Attention(12, num_heads=2, use_rel_pos=True, **kwargs).double())


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_windows_are_padded_with_zero_tokens(qkv_bias):
    """Padding by hand before attention gives what the module computes without those tokens."""
    windowed = make(input_size=(3, 3), window_size=3, qkv_bias=qkv_bias)
    plain = make(input_size=(3, 3), qkv_bias=qkv_bias)
    x = tensor("x", (2, 4, 5, 12))
    padded = torch.zeros(2, 6, 6, 12, dtype=x.dtype)
    padded[:, :4, :5] = x
    expected = torch.zeros_like(padded)
    for row in (0, 3):
        for column in (0, 3):
            window = padded[:, row : row + 3, column : column + 3]
            expected[:, row : row + 3, column : column + 3] = plain(window)
    torch.testing.assert_close(windowed(x), expected[:, :4, :5])


def test_attention_is_the_softmax_of_its_logits():
    """One head, identity projections: every number by hand."""
    module = Attention(1, num_heads=1, use_rel_pos=True, input_size=(1, 2)).double()
    with torch.no_grad():
        module.qkv.weight.copy_(torch.ones(3, 1))
        module.qkv.bias.zero_()
        module.proj.weight.fill_(1)
        module.proj.bias.zero_()
        module.rel_pos_w.copy_(torch.tensor([[0.5], [0.0], [-0.25]]))  # distances -1, 0, 1
    x = torch.tensor([2.0, 3.0], dtype=torch.float64).reshape(1, 1, 2, 1)
    first = [math.exp(4), math.exp(6 + 2 * 0.5)]  # query 0: keys at distance 0 and -1
    second = [math.exp(6 + 3 * -0.25), math.exp(9)]  # query 1: keys at distance 1 and 0
    expected = [(2 * a + 3 * b) / (a + b) for a, b in (first, second)]
    assert module(x).flatten().tolist() == pytest.approx(expected, rel=1e-12)


def test_bad_arguments_raise():
    with pytest.raises(ValueError, match="multiple of num_heads=5, got 12"):
        Attention(12, num_heads=5)
    with pytest.raises(ValueError, match="input_size: expected the token grid"):
        Attention(12, num_heads=2, use_rel_pos=True)

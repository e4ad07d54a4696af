# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from tests.closed_form import fill_, tensor
from vitdet_d2.analysis.counter import WorkCounter
from vitdet_d2.layers import onednn
from vitdet_d2.layers.attend import attend
from vitdet_d2.layers.linear import Linear
from vitdet_d2.layers.mlp import Mlp

needs_onednn = pytest.mark.skipif(
    not onednn.available(), reason="no AVX-512 processor, or a torch without oneDNN's operators"
)
# Of the largest number: 2^-24 and 2^-8 of rounding, with room for the order of a sum.
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 2**-7}


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    monkeypatch.setattr(onednn, "MIN_PRODUCTS", 1)


class OwnProducts(torch.Tensor):
    """As of quantised weights."""


def close(actual, expected):
    tolerance = TOLERANCES[actual.dtype]
    assert (actual.double() - expected).abs().max() <= tolerance * expected.abs().max()


@needs_onednn
@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_products_match_float64(dtype, bias):
    layer = fill_(Linear(24, 40, bias=bias)).to(dtype)
    reference = nn.Linear(24, 40, bias=bias).double()
    reference.load_state_dict(layer.double().state_dict())
    layer.to(dtype)
    for x in (tensor("x", (2, 3, 5, 24)), tensor("x", (3, 7, 24)).transpose(0, 1)):
        given = x.to(dtype)
        assert onednn.usable(given, layer.weight)
        out = onednn.linear(given, layer.weight, layer.bias)
        assert out.dtype == dtype
        close(out, reference(given.double()))
        close(layer(given), reference(given.double()))


@needs_onednn
@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_addition_and_packed_weights_match_float64(dtype):
    x, weight, addend = (
        tensor(name, shape).to(dtype)
        for name, shape in {"x": (9, 24), "w": (40, 24), "a": (9, 40)}.items()
    )
    expected = x.double() @ weight.double().t() + addend.double()
    close(onednn.product(x, weight, addend), expected)
    packed = onednn.packed(weight, 9)
    close(onednn.product(x, packed, addend), expected)
    close(onednn.product(x, packed), expected - addend.double())


@torch.no_grad()
def test_usable_only_where_nothing_is_lost(monkeypatch):
    x, weight = torch.ones(4, 8), torch.ones(8, 8)
    assert onednn.usable(x, weight) == onednn.available()
    with torch.enable_grad():
        assert not onednn.usable(x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert not onednn.usable(x, weight)
    assert not onednn.usable(x, weight.bfloat16())
    assert not onednn.usable(x.double(), weight.double())
    assert not onednn.usable(x.to("meta"), weight.to("meta"))
    assert not onednn.usable(x, weight.as_subclass(OwnProducts))
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):
        assert not onednn.usable(x, weight)
    monkeypatch.setattr(onednn, "MIN_PRODUCTS", 1000)
    assert not onednn.usable(x, weight)


@torch.no_grad()
def test_layers_and_attention_match_float64_without_onednn_too(monkeypatch):
    """The numbers must not depend on the processor."""
    mlp = fill_(Mlp(16, 32))
    x = tensor("x", (2, 3, 16), 2.0)
    expected = fill_(Mlp(16, 32).double())(x)
    q, k, v = (tensor(name, (2, 2, 12, 8)).float() for name in "qkv")
    terms = tensor("h", (2, 2, 12, 3)).float(), tensor("w", (2, 2, 12, 4)).float()
    doubled = [t.double() for t in (q, k, v)]
    attended = attend(*doubled, (terms[0].double(), terms[1].double()), 0.3, "explicit")
    for _ in range(2):
        close(mlp(x.float()), expected)
        close(attend(q, k, v, terms, 0.3, "tiled"), attended)
        monkeypatch.setattr(onednn, "available", lambda: False)


def test_gradients_flow_as_always():
    layer = fill_(Linear(8, 8))
    x = torch.ones(2, 8, requires_grad=True)
    layer(layer(x)).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None


@torch.no_grad()
def test_work_is_counted():
    layer = Linear(8, 16)
    counter = WorkCounter()
    x = torch.ones(3, 8)
    with counter.counting(layer):
        layer(x)
        if onednn.available():
            onednn.product(x, layer.weight)
            onednn.product(x, layer.weight, torch.ones(3, 16))
    products = 3 if onednn.available() else 1
    assert counter.parts[""].flops == products * 2 * 3 * 8 * 16
    assert not counter.uncounted

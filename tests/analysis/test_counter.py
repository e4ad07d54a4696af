# SPDX-License-Identifier: Apache-2.0
"""The counter against formulas written out, on the meta device and on the CPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitdet_d2
from vitdet_d2.analysis.counter import OWN_OF_ATTENTION, OWN_WITHOUT_PRODUCTS, WorkCounter
from vitdet_d2.analysis.work import Work
from vitdet_d2.backbones import ViT
from vitdet_d2.layers.attention import Attention
from vitdet_d2.layers.norm import layer_norm


def count(model: nn.Module, *inputs: Tensor) -> Work:
    counter = WorkCounter()
    with counter.counting(model):
        model(*inputs)
    assert list(counter.parts) == [""]
    assert not counter.uncounted
    return counter.parts[""]


class Call(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


# Layer, shape of its input, multiply-adds, numbers put out.
LAYERS = {
    "linear": (nn.Linear(8, 5), (2, 3, 8), 6 * 8 * 5, 6 * 5),
    "linear without bias": (nn.Linear(8, 5, bias=False), (4, 8), 4 * 8 * 5, 4 * 5),
    "convolution": (nn.Conv2d(3, 5, 3, padding=1), (2, 3, 7, 6), 2 * 42 * 5 * 27, 2 * 42 * 5),
    "stride": (nn.Conv2d(3, 5, 4, stride=4), (1, 3, 8, 12), 6 * 5 * 48, 6 * 5),
    "groups": (nn.Conv2d(6, 4, 3, padding=1, groups=2), (1, 6, 5, 5), 25 * 4 * 27, 25 * 4),
    "depthwise": (nn.Conv2d(6, 6, 3, padding=1, groups=6), (1, 6, 5, 5), 25 * 6 * 9, 25 * 6),
    "deconvolution": (
        nn.ConvTranspose2d(3, 5, 2, stride=2),
        (1, 3, 4, 6),
        24 * 3 * 5 * 4,
        8 * 12 * 5,
    ),
    "product": (Call(lambda x: x @ x.transpose(-2, -1)), (2, 3, 4, 5), 6 * 16 * 5, 6 * 16),
    "einsum": (
        Call(lambda x: torch.einsum("bhwc,hkc->bhwk", x, x[0])),
        (2, 3, 3, 5),
        2 * 9 * 3 * 5,
        2 * 27,
    ),
}


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("case", LAYERS)
def test_layers(case, context, device):
    layer, shape, products, outputs = LAYERS[case]
    with context():
        # Made in the mode: inference mode and autograd do not mix.
        work = count(layer.to_empty(device=device), torch.ones(shape, device=device))
    assert work == Work(flops=2 * products, activations=outputs)


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("masked", [False, True])
def test_fused_attention_counts_as_its_products(device, masked):
    """Whichever kernel runs: on the CPU a fused one, on the meta device none."""
    q = torch.ones(2, 4, 6, 8, device=device)
    k, v = (torch.ones(2, 4, 9, 8, device=device) for _ in range(2))
    mask = torch.zeros(6, 9, device=device) if masked else None
    model = Call(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    pairs = 2 * 4 * 6 * 9
    assert count(model, q, k, v) == Work(flops=2 * pairs * 16, activations=pairs + 2 * 4 * 6 * 8)


def test_fused_attention_with_gradients():
    q = torch.ones(1, 2, 6, 8, requires_grad=True)
    work = count(Call(F.scaled_dot_product_attention), q, q, q)
    assert work.flops == 2 * 2 * 36 * 16


def test_torch_attention_layer():
    """torch has a fused path for it in evaluation."""
    layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = torch.ones(1, 5, 8)
    with torch.no_grad():
        work = count(Call(lambda x: layer(x, x, x, need_weights=False)[0]), x)
    assert work.flops == 2 * (5 * 8 * 32 + 2 * 2 * 25 * 4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"use_rel_pos": True},
        {"use_rel_pos": False},
        {"rel_pos_bias": "shared"},
        {"rope": "half"},
        {"cross_window": "shifted"},
        {"qkv_bias": "qv"},
    ],
)
def test_every_attention_method_counts_alike(arguments):
    model = ViT(
        img_size=96, patch_size=16, embed_dim=16, depth=2, num_heads=2, window_size=4,
        norm_layer=layer_norm(eps=1e-6),
        **({"window_block_indexes": (0,)} if "cross_window" not in arguments else {}),
        **arguments,
    )  # fmt: skip
    found = set()
    for device in ("meta", "cpu"):
        model.to_empty(device=device)
        for method in ("auto", "explicit", "augmented", "chunked", "tiled"):
            model.set_attention_method(method)
            with torch.no_grad():
                found.add(count(model, torch.ones(1, 3, 96, 64, device=device)))
    assert len(found) == 1
    assert found.pop().padding_flops == 2 * (8 * 4 - 6 * 4) * 4 * 16**2 * (
        2 if "cross_window" in arguments else 1
    )


@pytest.mark.parametrize("window_size", [0, 4])
@pytest.mark.parametrize("use_rel_pos", [False, True])
def test_rule_of_attention_counts_what_explicit_attention_runs(
    window_size, use_rel_pos, monkeypatch
):
    """Without padding, the formula is what the operators do."""
    layer = Attention(
        24, num_heads=3, use_rel_pos=use_rel_pos, input_size=(8, 12), window_size=window_size
    )
    layer.method = "explicit"
    x = torch.ones(2, 8, 12, 24)
    by_rule = count(layer, x)
    monkeypatch.setattr("vitdet_d2.analysis.counter.MODULE_RULES", {})
    assert by_rule == count(layer, x)
    assert by_rule.padding_flops == 0


def test_parts_nest_and_hooks_are_gone():
    inner, outer = nn.Linear(4, 4), nn.Linear(4, 2)
    model = nn.Sequential(inner, outer)
    counter = WorkCounter()
    x = torch.ones(1, 4)
    with counter.counting(model), counter.part("neck"), counter.part_of(inner, "backbone"):
        model(x)
        with counter.part("rpn"):
            outer(x)
    flops = {part: work.flops for part, work in counter.parts.items()}
    assert flops == {"backbone": 32, "neck": 16, "rpn": 16}
    assert not inner._forward_pre_hooks
    assert not inner._forward_hooks


def test_every_operator_of_ours_has_a_rule():
    """Operators that run inside `Attention` are covered by its rule."""
    ours = set()
    for path in Path(vitdet_d2.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        ours |= set(re.findall(r'(?:custom_op|triton_op|define)\(\s*"(vitdet_d2::\w+)', text))
    assert ours == OWN_WITHOUT_PRODUCTS | OWN_OF_ATTENTION


def test_operators_without_a_rule_are_named():
    name = "vitdet_d2_test::multiply"
    if not hasattr(torch.ops.vitdet_d2_test, "multiply"):
        torch.library.define(name, "(Tensor a, Tensor b) -> Tensor")
        torch.library.impl(name, "cpu", lambda a, b: a @ b)
    counter = WorkCounter()
    model = Call(torch.ops.vitdet_d2_test.multiply)
    with counter.counting(model):
        model(torch.ones(2, 3), torch.ones(3, 4))
    assert counter.uncounted == {"vitdet_d2_test.multiply"}

# SPDX-License-Identifier: Apache-2.0
"""Which operators run a second time, and that no number changes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vitdet_d2.errors import RecipeError
from vitdet_d2.layers.block import Block
from vitdet_d2.layers.recompute import Recompute, check_recompute, recomputed


class Operators(TorchDispatchMode):
    """Counts what is computed, whoever asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.counts[func.name().partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def step(how: Recompute, **options: Any) -> tuple[dict[str, Tensor], Counter[str]]:
    """Gradients of one block, and the operators of forward and backward pass."""
    torch.manual_seed(0)
    block = Block(16, 2, window_size=2, drop_path=0.5, input_size=(4, 4), **options).double()
    x = torch.randn(3, 4, 4, 16, dtype=torch.float64, requires_grad=True)
    with Operators() as seen:
        recomputed(block, x, how=how).square().sum().backward()
    found = {name: p.grad for name, p in block.named_parameters()}
    return {**found, "x": x.grad}, seen.counts


LINEAR, NORM = "aten::addmm", "aten::native_layer_norm"
ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"
VARIANTS = {
    "plain": {},
    "convolution behind": {"use_residual_block": True, "conv_block": "basic"},
    "layer scale": {"layer_scale_init": 0.5},
    "gated": {"mlp": "swiglu"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_selective_computes_no_linear_layer_and_no_attention_twice(variant: str) -> None:
    options = VARIANTS[variant]
    plain, once = step(False, **options)
    kept, selective = step("selective", **options)
    again, full = step(True, **options)
    assert once[LINEAR] >= 4
    assert once[ATTENTION] == 1
    for name in (LINEAR, ATTENTION, "aten::convolution"):
        assert selective[name] == once[name], name
        assert full[name] > once[name] or not once[name], name
    assert selective[NORM] > once[NORM]
    for gradients in (kept, again):
        assert gradients.keys() == plain.keys()
        for name, gradient in plain.items():
            assert torch.equal(gradient, gradients[name]), name


def test_terms_of_relative_positions_are_computed_again() -> None:
    options = {"use_rel_pos": True, "rel_pos_zero_init": False}
    plain, _ = step(False, **options)
    kept, _ = step("selective", **options)
    assert all(torch.equal(plain[name], kept[name]) for name in plain)
    assert plain["attn.rel_pos_h"].any()


def test_under_autocast() -> None:
    found = []
    for how in (False, "selective"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.manual_seed(0)
            block = Block(16, 2, drop_path=0.5)
            x = torch.randn(3, 4, 4, 16)
            loss = recomputed(block, x, how=how).float().square().sum()
        loss.backward()
        found.append([p.grad for p in block.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_without_gradients_nothing_is_kept_or_recorded() -> None:
    block = nn.Linear(2, 2)
    with torch.no_grad(), Operators() as seen:
        out = recomputed(block, torch.ones(1, 2), how="selective")
    assert not out.requires_grad
    assert seen.counts[LINEAR] == 1


@pytest.mark.parametrize("value", ["full", 1, None, "True"])
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(RecipeError, match=r"train\.x: expected true, false or selective, got"):
        check_recompute("train.x", value)
    assert [check_recompute("x", v) for v in (True, False, "selective")] == [
        True,
        False,
        "selective",
    ]

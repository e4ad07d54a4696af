# SPDX-License-Identifier: Apache-2.0
"""Tensors in models with and without memory."""

from __future__ import annotations

import torch
from torch import nn

from vitdet_d2.pretrained.assign import assign


def pair(device: str) -> nn.Module:
    with torch.device(device):
        return nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})


def test_one_tensor_of_a_file_for_two_of_a_model_is_trained_twice() -> None:
    shared = torch.ones(3, 2)[:2]
    model = pair("meta")
    assign("the file", model, {"a.weight": shared, "b.weight": shared})
    with torch.no_grad():
        model["a"].weight.add_(1)
    assert torch.equal(model["b"].weight, torch.ones(2, 2))


def test_a_model_without_memory_takes_the_tensors_themselves() -> None:
    first, second = torch.rand(2, 2), torch.rand(2, 2).T
    model = pair("meta")
    assign("the file", model, {"a.weight": first, "b.weight": second})
    assert model["a"].weight.data_ptr() == first.data_ptr()
    assert torch.equal(model["b"].weight, second)
    assert model["b"].weight.is_contiguous()
    assert model["b"].weight.requires_grad


def test_a_model_with_memory_keeps_it() -> None:
    model = pair("cpu")
    own = model["a"].weight
    assign("the file", model, {"a.weight": torch.ones(2, 2, dtype=torch.float16)})
    assert model["a"].weight is own
    assert own.dtype == torch.float32
    assert torch.equal(own, torch.ones(2, 2))

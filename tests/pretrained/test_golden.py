# SPDX-License-Identifier: Apache-2.0
"""The weights that goldens rest on are the same everywhere."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.pretrained.golden import GOLDENS, fill, fill_model, image, load_golden

NAMES = sorted(path.stem for path in GOLDENS.glob("*.json"))


def test_fill_has_known_values():
    torch.testing.assert_close(
        fill("blocks.0.attn.qkv.weight", (2, 4))[0],
        torch.tensor([0.55160677, 0.61884415, -0.22007199, 0.25350544]),
        rtol=1e-6,
        atol=0,
    )
    torch.testing.assert_close(
        image(1, 2)[0, :, 0, 0], torch.tensor([1.1360022, -1.03326, 1.9064791]), rtol=1e-6, atol=0
    )


def test_fill_model_fills_all_weights_and_keeps_other_buffers():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = fill_model(model)
    assert torch.equal(model[0].weight, fill("0.weight", (3, 2)))
    assert torch.equal(model[1].running_var, fill("1.running_var", (3,)))
    assert (model[1].running_var > 0).all()
    assert state["1.num_batches_tracked"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_golden_is_complete_and_of_order_1(name: str):
    golden = load_golden(name)
    assert set(golden.buffers) <= set(golden.keys)
    assert {"repository", "commit", "torch"} <= set(golden.made_with)
    assert golden.how
    assert 0.2 < golden.features.std() < 10
    rows, width = golden.features.shape
    assert golden.with_prefix.numel() == 0 or golden.with_prefix.shape[1] == width
    assert rows > 1

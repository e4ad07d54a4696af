# SPDX-License-Identifier: Apache-2.0
"""timm's Swin and MViTv2 against the classes of an installed Detectron2, in one process.

    PYTHONPATH=DETECTRON2_CHECKOUT VITDET_D2_RUNTIME=installed \\
        pytest -m parity tests/parity/test_timm.py
"""

from __future__ import annotations

import pytest
import torch
from detectron2 import modeling
from torch import nn

from tests.backbones.timm_parity import IMAGES, THEIRS, name_of_ours, ours
from tests.backbones.vit_case import pixels
from tests.closed_form import tensor
from vitdet_d2 import runtime

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(
        runtime.current().name != "installed", reason="Detectron2's Swin and MViT are not bundled"
    ),
    # timm's old module names, meshgrid without indexing.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning"),
]
# Largest difference to largest element; the issue asks for 1e-5.
OUTPUTS, GRADIENTS, ROUNDING = 3e-6, 3e-5, 1e-6


@pytest.mark.parametrize("size", [*IMAGES.values(), (256, 448), (333, 517)])
@pytest.mark.parametrize("kind", ["swin", "mvit"])
def test_maps_and_gradients_match_detectron2(kind: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    cls = {"swin": "SwinTransformer", "mvit": "MViT"}[kind]
    theirs, net = getattr(modeling, cls)(**THEIRS[kind]).eval(), ours(kind).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    weights = dict(theirs.named_parameters())
    places = name_of_ours(kind, weights)
    net.load_state_dict({places[name]: value.detach() for name, value in weights.items()})
    maps = [model(pixels(size, torch.float32)) for model in (theirs, net)]
    expected, got = ([*m.values()] for m in maps)
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape
        assert ((one - other).abs().max() / other.abs().max()).item() < OUTPUTS
    for outputs in (expected, got):
        sum(
            (m * tensor(str(i), tuple(m.shape)).float()).sum() for i, m in enumerate(outputs)
        ).backward()
    mine = dict(net.named_parameters())
    largest = max(p.grad.abs().max().item() for p in weights.values() if p.grad is not None)
    for name, parameter in weights.items():
        gradient, wanted = mine[places[name]].grad, parameter.grad
        assert gradient is not None
        assert wanted is not None
        # Biases of keys have none, but for rounding.
        allowed = GRADIENTS * wanted.abs().max().item() + ROUNDING * largest
        assert (gradient - wanted).abs().max().item() < allowed, name

# SPDX-License-Identifier: Apache-2.0
"""Our ViT and pyramid against those of an installed Detectron2, in one process.

PYTHONPATH=DETECTRON2_CHECKOUT VITDET_D2_RUNTIME=installed pytest -m parity tests/parity/test_vit.py
"""

import pytest
import torch
from detectron2.modeling.backbone import vit as original
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from tests.backbones.vit_case import CASES, PYRAMID, TINY, pixels, run
from tests.closed_form import tensor
from vitdet_d2.backbones import ViT
from vitdet_d2.layers.residual_block import ResBottleneckBlock
from vitdet_d2.necks import SimpleFeaturePyramid
from vitdet_d2.solver import get_vit_lr_decay_rate

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif("vitdet_d2" in original.ViT.__module__, reason="no Detectron2 is installed"),
]

# Relative to the largest element. float64: rounding of another order of sums. float32: the project
# allows 1e-5 for outputs and 1e-3 for gradients of whole models; three blocks stay well below.
TOLERANCES = {torch.float64: (1e-13, 1e-12), torch.float32: (2e-6, 1e-5)}


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def compare(ours, theirs, x):
    outputs, gradients = run(ours, x)
    expected_outputs, expected_gradients = run(theirs, x)
    assert list(outputs) == list(expected_outputs)
    assert list(gradients) == list(expected_gradients)  # the order, too: optimizer groups follow it
    output_tolerance, gradient_tolerance = TOLERANCES[x.dtype]
    for name, value in outputs.items():
        assert relative(value, expected_outputs[name]) < output_tolerance, name
    for name, value in gradients.items():
        assert relative(value, expected_gradients[name]) < gradient_tolerance, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["auto", "explicit", "augmented", "chunked", "tiled"])
@pytest.mark.parametrize("case", CASES)
def test_vit_matches_detectron2(case, method, dtype):
    arguments, hw = CASES[case]
    ours, theirs = (cls(**{**TINY, **arguments}) for cls in (ViT, original.ViT))
    ours.set_attention_method(method)
    compare(ours, theirs, pixels(hw, dtype))


@pytest.mark.parametrize("indexes", [(1,), (0, 1, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_convolutional_strategy_matches_detectron2(dtype, indexes):
    """There: every block windowed, and the list of residual blocks."""
    ours = ViT(
        **{**TINY, "window_block_indexes": ()}, cross_window="conv", cross_window_indexes=indexes
    )
    theirs = original.ViT(
        **{**TINY, "window_block_indexes": (0, 1, 2), "residual_block_indexes": indexes}
    )
    compare(ours, theirs, pixels((64, 96), dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bottleneck_matches_detectron2(dtype):
    class Named(torch.nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, x):
            return {"out": self.block(x)}

    x = tensor("x", (2, 16, 7, 5)).to(dtype)
    ours, theirs = (
        Named(block(16, 16, 8)) for block in (ResBottleneckBlock, original.ResBottleneckBlock)
    )
    assert torch.equal(theirs(x.float())["out"], x.float())  # the identity before `run` fills it
    assert torch.equal(ours(x.float())["out"], x.float())
    compare(ours, theirs, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pyramid_matches_detectron2(dtype):
    ours, theirs = (
        pyramid(net(**TINY), in_feature="last_feat", top_block=LastLevelMaxPool(), **PYRAMID)
        for pyramid, net in (
            (SimpleFeaturePyramid, ViT),
            (original.SimpleFeaturePyramid, original.ViT),
        )
    )
    assert ours.output_shape() == theirs.output_shape()
    compare(ours, theirs, pixels((64, 96), dtype))


@pytest.mark.parametrize("case", CASES)
def test_new_weights_are_bit_identical(case):
    arguments = {**TINY, **CASES[case][0], "rel_pos_zero_init": False}
    states = []
    for cls in (ViT, original.ViT):
        torch.manual_seed(7)
        states.append(cls(**arguments).state_dict())
    ours, theirs = states
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_drop_path_draws_the_same_samples():
    arguments = {**TINY, "drop_path_rate": 0.5}
    results = []
    for cls in (ViT, original.ViT):
        net = cls(**arguments)
        torch.manual_seed(3)
        results.append(run(net, pixels((64, 96)))[0]["last_feat"])
    assert relative(*results) < 1e-13


def test_layer_decay_matches_detectron2():
    names = [
        name for name, _ in original.ViT(**TINY, residual_block_indexes=(1,)).named_parameters()
    ]
    for prefix in ("backbone.net.", "backbone.", "backbone.bottom_up.net.", "roi_heads."):
        for name in names:
            expected = original.get_vit_lr_decay_rate(prefix + name, 0.7, 3)
            assert get_vit_lr_decay_rate(prefix + name, 0.7, 3) == expected

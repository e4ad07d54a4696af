# SPDX-License-Identifier: Apache-2.0
"""Counts of our models and of an installed Detectron2's own are the same, as are fvcore's.

PYTHONPATH=DETECTRON2_CHECKOUT VITDET_D2_RUNTIME=installed pytest tests/parity/test_complexity.py
"""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.backbone import vit as original
from fvcore.nn import FlopCountAnalysis
from torch import nn

from tests.backbones.vit_case import CASES, PYRAMID, TINY, pixels
from vitdet_d2.analysis.detector_count import count_detector, total
from vitdet_d2.analysis.parts import BackboneOnly
from vitdet_d2.backbones import ViT
from vitdet_d2.necks import SimpleFeaturePyramid

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif("vitdet_d2" in original.ViT.__module__, reason="no Detectron2 is installed"),
]

# What fvcore counts beyond products, and how it calls them.
NOT_PRODUCTS = {"layer_norm", "batch_norm", "group_norm", "upsample_bicubic2d"}


def pair(arguments: dict) -> tuple[nn.Module, nn.Module]:
    neck = {"in_feature": "last_feat", **PYRAMID}
    ours = SimpleFeaturePyramid(net=ViT(**{**TINY, **arguments}), **neck)
    theirs = original.SimpleFeaturePyramid(net=original.ViT(**{**TINY, **arguments}), **neck)
    return ours, theirs


@pytest.mark.parametrize("case", CASES)
def test_counts_are_those_of_detectron2_as_it_runs(case):
    arguments, hw = CASES[case]
    ours, theirs = pair(arguments)
    mine = count_detector(BackboneOnly(ours), hw)
    # Theirs does not say what it divides by.
    reference = count_detector(BackboneOnly(theirs), mine.image_size)
    assert mine.parameters == reference.parameters
    for part, work in reference.test.items():
        assert mine.test[part].flops == work.flops, part
        assert mine.test[part].activations == work.activations, part
    assert total(reference.test).padding_flops == 0  # runs, and is not told apart


@pytest.mark.parametrize("case", CASES)
def test_fvcore_counts_half(case):
    """It counts multiply-adds, and rounds those of einsum to four digits."""
    arguments, hw = CASES[case]
    ours, theirs = pair(arguments)
    size = count_detector(BackboneOnly(ours), hw).image_size
    with torch.no_grad():
        analysis = FlopCountAnalysis(theirs.eval(), pixels(size, torch.float32)[:1])
        analysis.unsupported_ops_warnings(False)
        by_operator = analysis.by_operator()
    products = sum(n for name, n in by_operator.items() if name not in NOT_PRODUCTS)
    counted = total(count_detector(BackboneOnly(ours), hw).test).flops
    assert counted == pytest.approx(2 * products, rel=1e-3)

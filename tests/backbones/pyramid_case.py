# SPDX-License-Identifier: Apache-2.0
"""Tiny pyramid transformers with weights from a formula."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.backbones.vit_case import pixels
from tests.closed_form import fill_
from vitdet_d2.backbones import PVT, MiT, PVTv2
from vitdet_d2.backbones.pyramid_transformer import PyramidTransformer

# Widths and heads that differ from stage to stage: no stage can take another one's.
TINY = {
    "embed_dims": (8, 12, 16, 20),
    "depths": (1, 2, 2, 1),
    "num_heads": (1, 2, 2, 5),
    "mlp_ratios": (3, 2, 2, 1),
    "sr_ratios": (8, 4, 2, 1),
}
FAMILY = {
    "pvt": (PVT, {"pretrain_img_size": 64}),
    "pvt_v2": (PVTv2, {}),
    "pvt_v2_li": (PVTv2, {"linear": True}),
    "mit": (MiT, {"mlp_ratios": (4, 4, 4, 4)}),
}
NAMES = list(FAMILY)


def make(name: str, **options: object) -> PyramidTransformer:
    """Return a backbone in float64 and evaluation mode."""
    kind, arguments = FAMILY[name]
    net = kind(**{**TINY, **arguments, **options}).double().eval()
    fill_(net)
    return net


def images(h: int, w: int) -> Tensor:
    """Return two normalised images in float64."""
    return pixels((h, w), torch.float64)

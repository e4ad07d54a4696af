# SPDX-License-Identifier: Apache-2.0
"""Tiny pyramid transformers with weights from a formula."""

from __future__ import annotations

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

# Heights and widths in pixels, all other than in pre-training (64 x 64). On some of them the
# official PVT v1 would fail if it were pre-trained at 224.
WITH_GRADIENTS = (77, 101)
SMALL = [(96, 64), (333, 517)]
LARGE = [(448, 448), (896, 896), (800, 1216)]
# Every family at small sizes; MiT computes what v2 does, and linear attention costs nothing.
CASES = [(name, hw) for name in FAMILY for hw in (WITH_GRADIENTS, *SMALL)]
CASES += [(name, hw) for name in ("pvt", "pvt_v2") for hw in LARGE]


def make(name: str, **options: object) -> PyramidTransformer:
    """Return a backbone in float64 and evaluation mode."""
    kind, arguments = FAMILY[name]
    net = kind(**{**TINY, **arguments, **options}).double().eval()
    fill_(net)
    return net


def images(h: int, w: int) -> Tensor:
    """Return two normalised images in float64; one, if they are large."""
    return pixels((h, w))[: 2 if h * w < 2**16 else 1]

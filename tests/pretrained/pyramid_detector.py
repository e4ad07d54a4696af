# SPDX-License-Identifier: Apache-2.0
"""Small detectors with a pyramid transformer, and files of full size without memory."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from torch import Tensor, nn

from tests.pretrained.pyramid_golden import build
from vitdet_d2.backbones import PVT, PVTv2
from vitdet_d2.backbones.pvt_sizes import pvt_arguments, pvt_v2_arguments


def detector_part(name: str = "pvt", **options: Any) -> nn.Module:
    """A module with the names of a detector: ``backbone.bottom_up...``, necks and pixels."""
    model = nn.Module()
    bottom_up = build(name, **options)
    model.backbone = FPN(
        bottom_up, list(bottom_up.output_shape()), out_channels=8, top_block=LastLevelMaxPool()
    )
    model.register_buffer("pixel_mean", torch.full((3, 1, 1), 127.5))
    model.register_buffer("pixel_std", torch.full((3, 1, 1), 127.5))
    return model


def released(size: str) -> dict[str, Tensor]:
    """Return a file of a full size, without memory."""
    kind, _, rest = size.partition(":")
    with torch.device("meta"):
        cls: Any = PVT if kind == "pvt" else PVTv2
        return dict(
            cls(**(pvt_arguments if kind == "pvt" else pvt_v2_arguments)(rest)).state_dict()
        )

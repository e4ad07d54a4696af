# SPDX-License-Identifier: Apache-2.0
"""Tiny models of timm's classes, entered into timm's registry by importing this module."""

from __future__ import annotations

import sys
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from timm.models.swin_transformer import SwinTransformer
from torch import nn

SWIN = "tiny_test_swin"
MVIT = "tiny_test_mvitv2"
MVIT_CLASS_TOKEN = "tiny_test_mvitv2_cls"

SWIN_SIZES: dict[str, Any] = {"embed_dim": 12, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 3, 4)}

MVIT_DEPTHS = (1, 2, 3, 2)

default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": {
            "input_size": (3, 224, 224),
            "fixed_input_size": True,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.25, 0.25, 0.25),
        }
        for name in (SWIN, MVIT, MVIT_CLASS_TOKEN)
    }
)


@register_model
def tiny_test_swin(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        SwinTransformer, SWIN, pretrained, window_size=7, **{**SWIN_SIZES, **kwargs}
    )


@register_model
def tiny_test_mvitv2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    cfg = MultiScaleVitCfg(embed_dim=8, depths=MVIT_DEPTHS)
    return build_model_with_cfg(MultiScaleVit, MVIT, pretrained, model_cfg=cfg, **kwargs)


@register_model
def tiny_test_mvitv2_cls(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    cfg = MultiScaleVitCfg(embed_dim=8, depths=MVIT_DEPTHS, use_cls_token=True)
    return build_model_with_cfg(
        MultiScaleVit, MVIT_CLASS_TOKEN, pretrained, model_cfg=cfg, **kwargs
    )


assert sys.modules[__name__].default_cfgs, "timm's registry looks for it here"

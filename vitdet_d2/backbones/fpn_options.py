# SPDX-License-Identifier: Apache-2.0
"""A feature pyramid over a hierarchical backbone, from Detectron2's own yacs keys ``MODEL.FPN``."""

from __future__ import annotations

from typing import Any

from detectron2.modeling.backbone import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn

from vitdet_d2.backbones.option_checks import name_list
from vitdet_d2.errors import RecipeError

# Of Mask R-CNN, of RetinaNet, and none.
TOP_BLOCKS = ("LastLevelMaxPool", "LastLevelP6P7", "")


def fpn_from_options(
    cfg: Any, bottom_up: Backbone, *, top_block: str, square_pad: int, where: str
) -> FPN:
    """Build Detectron2's pyramid.

    Args:
        cfg: configuration with ``MODEL.FPN``; where ``IN_FEATURES`` is empty, every map of the
            backbone is taken, but for RetinaNet's top block those from stride 8 on.
        bottom_up: the backbone.
        top_block: one of ``TOP_BLOCKS``: P6 for Mask R-CNN, or P6 and P7 for RetinaNet, computed
            from the last map of the backbone.
        square_pad: > 0 pads images to squares of this side, in pixels.
        where: name of the key of ``top_block``.

    Raises:
        RecipeError: an unknown top block, or a map that the backbone has not.
    """
    if top_block not in TOP_BLOCKS:
        raise RecipeError(
            f"{where}: expected one of {name_list(map(repr, TOP_BLOCKS))}, got {top_block!r}"
        )
    options, shapes = cfg.MODEL.FPN, bottom_up.output_shape()
    least = 8 if top_block == "LastLevelP6P7" else 0
    by_default = [name for name, shape in shapes.items() if (shape.stride or 0) >= least]
    in_features = list(options.IN_FEATURES) or by_default
    missing = [name for name in in_features if name not in shapes]
    if missing:
        raise RecipeError(
            f"MODEL.FPN.IN_FEATURES: the backbone has no {', '.join(map(repr, missing))}; expected "
            f"some of {', '.join(shapes)}, or [] for all"
        )
    return FPN(
        bottom_up=bottom_up,
        in_features=in_features,
        out_channels=options.OUT_CHANNELS,
        norm=options.NORM,
        top_block=_make_top(top_block, bottom_up, options.OUT_CHANNELS),
        fuse_type=options.FUSE_TYPE,
        square_pad=square_pad,
    )


def _make_top(name: str, bottom_up: Backbone, out_channels: int) -> nn.Module | None:
    if name == "LastLevelMaxPool":
        return LastLevelMaxPool()
    if not name:
        return None
    *_, last = bottom_up.output_shape()
    channels = bottom_up.output_shape()[last].channels
    assert channels is not None, "backbones state the channels of their maps"
    return LastLevelP6P7(channels, out_channels, in_feature=last)

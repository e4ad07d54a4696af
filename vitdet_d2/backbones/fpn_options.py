# SPDX-License-Identifier: Apache-2.0
"""A feature pyramid over a hierarchical backbone, from Detectron2's own yacs keys ``MODEL.FPN``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.modeling.backbone import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn

from vitdet_d2.backbones.option_checks import name_list
from vitdet_d2.errors import RecipeError

# Of Mask R-CNN, of RetinaNet, and none.
TOP_BLOCKS = ("LastLevelMaxPool", "LastLevelP6P7", "")
# Beside the options of a backbone, those of the pyramid that Detectron2 has no keys for.
PYRAMID_DEFAULTS: dict[str, Any] = {"TOP_BLOCK": TOP_BLOCKS[0], "SQUARE_PAD": 0}


def fpn_from_options(
    cfg: Any, bottom_up: Backbone, given: Mapping[str, Any], where: str, *, square_of_model: int = 0
) -> FPN:
    """Build Detectron2's pyramid.

    ``TOP_BLOCK`` is one of ``TOP_BLOCKS``: P6 for Mask R-CNN, or P6 and P7 for RetinaNet, computed
    from the last map of the backbone. ``SQUARE_PAD`` > 0 pads images to squares of this side, in
    pixels.

    Args:
        cfg: configuration with ``MODEL.FPN``; where ``IN_FEATURES`` is empty, every map of the
            backbone is taken, but for RetinaNet's top block those from stride 8 on.
        bottom_up: the backbone.
        given: the mapping of the backbone's options, in upper case.
        where: full name of the mapping.
        square_of_model: what ``SQUARE_PAD`` is where it is 0.

    Raises:
        RecipeError: an unknown top block, a map that the backbone has not, or a level that
            RetinaNet asks for and the pyramid has not.
    """
    own = {**PYRAMID_DEFAULTS, **given}
    top_block = own["TOP_BLOCK"]
    if top_block not in TOP_BLOCKS:
        raise RecipeError(
            f"{where}.TOP_BLOCK: expected one of {name_list(map(repr, TOP_BLOCKS))}, got "
            f"{top_block!r}"
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
    pyramid = FPN(
        bottom_up=bottom_up,
        in_features=in_features,
        out_channels=options.OUT_CHANNELS,
        norm=options.NORM,
        top_block=_make_top(top_block, bottom_up, options.OUT_CHANNELS),
        fuse_type=options.FUSE_TYPE,
        square_pad=own["SQUARE_PAD"] or square_of_model,
    )
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        _require_levels(cfg.MODEL.RETINANET.IN_FEATURES, pyramid, f"{where}.TOP_BLOCK")
    return pyramid


def _require_levels(names: Sequence[str], pyramid: FPN, key: str) -> None:
    """Require the levels that RetinaNet reads.

    Raises:
        RecipeError: the pyramid lacks one.
    """
    levels = pyramid.output_shape()
    missing = [name for name in names if name not in levels]
    if missing:
        raise RecipeError(
            f"MODEL.RETINANET.IN_FEATURES: the pyramid has no {', '.join(map(repr, missing))}, its "
            f"levels are {', '.join(levels)}; set {key}: LastLevelP6P7 for p3 to p7, or choose "
            "among these"
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

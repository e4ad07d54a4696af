# SPDX-License-Identifier: Apache-2.0
"""Backbones in Detectron2's registry, for projects with yacs configurations.

    import vitdet_d2.backbones
    cfg.MODEL.BACKBONE.NAME = "build_vit_simple_feature_pyramid_backbone"

Options stand under ``MODEL.VIT`` and ``MODEL.SFP``: the constructor arguments of `ViT` and
`SimpleFeaturePyramid` in upper case; what is left out keeps its default. This file is the only one
that touches Detectron2's registry.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from vitdet_d2.backbones.vit import ViT
from vitdet_d2.necks.simple_feature_pyramid import SimpleFeaturePyramid

# The pyramid of the ViTDet recipes: strides 4 to 32, 256 channels.
SFP_DEFAULTS = {"OUT_CHANNELS": 256, "SCALE_FACTORS": (4.0, 2.0, 1.0, 0.5)}

# Arguments that are objects, which a yacs configuration cannot hold, or that the builder sets.
NOT_IN_VIT_OPTIONS = frozenset({"norm_layer", "act_layer", "in_chans"})
NOT_IN_SFP_OPTIONS = frozenset({"net", "in_feature", "top_block"})


def build_vit_backbone(cfg: Any, input_shape: ShapeSpec) -> ViT:
    """Build a plain ViT from a yacs configuration.

    Args:
        cfg: configuration with the mapping ``MODEL.VIT``.
        input_shape: ``channels`` of the images.

    Returns:
        A backbone with one output map.

    Raises:
        ValueError: an option is none of `ViT`.
    """
    options = _options(ViT, cfg.MODEL.VIT, "MODEL.VIT", NOT_IN_VIT_OPTIONS)
    assert input_shape.channels is not None, "build_backbone states the channels of the images"
    return ViT(in_chans=input_shape.channels, **options)


def build_vit_simple_feature_pyramid_backbone(
    cfg: Any,
    input_shape: ShapeSpec,
) -> SimpleFeaturePyramid:
    """Build a plain ViT with its feature pyramid from a yacs configuration.

    Args:
        cfg: configuration with the mappings ``MODEL.VIT`` and, if it likes, ``MODEL.SFP``.
        input_shape: ``channels`` of the images.

    Returns:
        A backbone with the levels ``p2`` to ``p6`` at the defaults.

    Raises:
        ValueError: an option is none of `ViT` or `SimpleFeaturePyramid`.
    """
    net = build_vit_backbone(cfg, input_shape)
    given = {**SFP_DEFAULTS, **cfg.MODEL.get("SFP", {})}
    options = _options(SimpleFeaturePyramid, given, "MODEL.SFP", NOT_IN_SFP_OPTIONS)
    *_, in_feature = net.output_shape()  # the last map, after those of stages
    return SimpleFeaturePyramid(
        net=net, in_feature=in_feature, top_block=LastLevelMaxPool(), **options
    )


def register_backbones() -> None:
    """Enter the builders into Detectron2's registry; a second call changes nothing.

    A name that someone else registered first is left to them, with a warning.
    """
    for builder in (build_vit_backbone, build_vit_simple_feature_pyramid_backbone):
        name = builder.__name__
        if name not in BACKBONE_REGISTRY:
            BACKBONE_REGISTRY.register(builder)
        elif (other := BACKBONE_REGISTRY.get(name)) is not builder:
            logging.getLogger(__name__).warning(
                "BACKBONE_REGISTRY already has %r from %s; keeping theirs, not registering ours",
                name,
                other.__module__,
            )


def _options(
    target: type, given: Mapping[str, Any], where: str, excluded: frozenset[str]
) -> dict[str, Any]:
    """Return constructor arguments from upper-case options.

    Args:
        target: the class to construct.
        given: options, in upper case.
        where: what the options are called in the configuration.
        excluded: arguments that are no options.

    Raises:
        ValueError: an option is unknown.
    """
    known = {name.upper(): name for name in inspect.signature(target).parameters}
    known = {option: name for option, name in known.items() if name not in excluded}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(
            f"{where}: unknown {', '.join(unknown)}; expected any of {', '.join(sorted(known))}"
        )
    return {known[option]: value for option, value in given.items()}

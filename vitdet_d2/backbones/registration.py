# SPDX-License-Identifier: Apache-2.0
"""Backbones in Detectron2's registry, for projects with yacs configurations.

    from vitdet_d2.backbones import add_vitdet_config
    cfg = get_cfg()
    add_vitdet_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_vit_simple_feature_pyramid_backbone"

Options stand under ``MODEL.VIT``, ``MODEL.SFP``, ``MODEL.TIMM`` and ``MODEL.PVT``; docs/yacs.md has
complete files. This module is the only one that touches Detectron2's registry.
"""

from __future__ import annotations

import logging
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN

from vitdet_d2.backbones.fpn_options import fpn_from_options
from vitdet_d2.backbones.pvt_options import pvt_from_options
from vitdet_d2.backbones.pyramid_transformer import PyramidTransformer
from vitdet_d2.backbones.timm_backbone import TimmBackbone
from vitdet_d2.backbones.timm_options import timm_arguments_from_options
from vitdet_d2.backbones.vit import ViT
from vitdet_d2.backbones.yacs_options import (
    sfp_arguments_from_options,
    vit_arguments_from_options,
)
from vitdet_d2.errors import RecipeError
from vitdet_d2.necks.simple_feature_pyramid import SimpleFeaturePyramid


def build_vit_backbone(cfg: Any, input_shape: ShapeSpec) -> ViT:
    """Build a plain ViT from a yacs configuration.

    Args:
        cfg: configuration with the mapping ``MODEL.VIT``.
        input_shape: ``channels`` of the images.

    Returns:
        A backbone with one output map, or more where ``OUT_BLOCK_INDEXES`` asks for them.

    Raises:
        RecipeError: an option is none of `ViT`, or has a wrong value.
    """
    if "VIT" not in cfg.MODEL:
        raise RecipeError(
            "MODEL.VIT: expected the options of the ViT, found none; call "
            "vitdet_d2.backbones.add_vitdet_config(cfg) after get_cfg()"
        )
    assert input_shape.channels is not None, "build_backbone states the channels of the images"
    return ViT(in_chans=input_shape.channels, **vit_arguments_from_options(cfg.MODEL.VIT))


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
        RecipeError: an option is none of `ViT` or `SimpleFeaturePyramid`, or has a wrong value.
    """
    arguments = sfp_arguments_from_options(cfg.MODEL.get("SFP", {}))
    net = build_vit_backbone(cfg, input_shape)
    *_, last = net.output_shape()
    return SimpleFeaturePyramid(net=net, in_feature=last, **arguments)


def build_timm_backbone(cfg: Any, input_shape: ShapeSpec) -> TimmBackbone:
    """Build a model of timm from a yacs configuration.

    Args:
        cfg: configuration with the mapping ``MODEL.TIMM``.
        input_shape: ``channels`` of the images.

    Returns:
        A backbone with the maps of strides 4 to 32, or those of ``OUT_INDICES``, by timm's names.

    Raises:
        RecipeError: an option is none of `TimmBackbone`, or has a wrong value.
    """
    if "TIMM" not in cfg.MODEL:
        raise RecipeError(
            "MODEL.TIMM: expected the options of a model of timm, found none; call "
            "vitdet_d2.backbones.add_vitdet_config(cfg) after get_cfg()"
        )
    assert input_shape.channels is not None, "build_backbone states the channels of the images"
    return TimmBackbone(
        in_chans=input_shape.channels, **timm_arguments_from_options(cfg.MODEL.TIMM)
    )


def build_timm_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """Build a model of timm with a feature pyramid from a yacs configuration.

    Args:
        cfg: configuration with the mappings ``MODEL.TIMM`` and ``MODEL.FPN``.
        input_shape: ``channels`` of the images.

    Returns:
        A backbone with the levels ``p2`` to ``p6``, or ``p3`` to ``p7`` with RetinaNet's top block.

    Raises:
        RecipeError: an option is unknown, or has a wrong value.
    """
    bottom_up = build_timm_backbone(cfg, input_shape)
    pyramid = fpn_from_options(
        cfg,
        bottom_up,
        cfg.MODEL.TIMM,
        "MODEL.TIMM",
        square_of_model=bottom_up.padding_constraints.get("square_size", 0),
    )
    bottom_up.freeze_norms(set(bottom_up.output_shape()) - set(pyramid.in_features))
    return pyramid


def build_pvt_backbone(cfg: Any, input_shape: ShapeSpec) -> PyramidTransformer:
    """Build a PVT, PVT v2 or MiT from a yacs configuration.

    Args:
        cfg: configuration with the mapping ``MODEL.PVT``.
        input_shape: ``channels`` of the images.

    Returns:
        A backbone with the maps ``res2`` to ``res5``, or those of ``OUT_FEATURES``.

    Raises:
        RecipeError: an option is unknown, or has a wrong value.
    """
    if "PVT" not in cfg.MODEL:
        raise RecipeError(
            "MODEL.PVT: expected the options of a pyramid transformer, found none; call "
            "vitdet_d2.backbones.add_vitdet_config(cfg) after get_cfg()"
        )
    assert input_shape.channels is not None, "build_backbone states the channels of the images"
    return pvt_from_options(cfg.MODEL.PVT, input_shape.channels)


def build_pvt_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """Build a PVT, PVT v2 or MiT with a feature pyramid from a yacs configuration.

    Args:
        cfg: configuration with the mappings ``MODEL.PVT`` and ``MODEL.FPN``.
        input_shape: ``channels`` of the images.

    Returns:
        A backbone with the levels ``p2`` to ``p6``, or ``p3`` to ``p7`` with RetinaNet's top block.

    Raises:
        RecipeError: an option is unknown, or has a wrong value.
    """
    bottom_up = build_pvt_backbone(cfg, input_shape)
    return fpn_from_options(cfg, bottom_up, cfg.MODEL.PVT, "MODEL.PVT")


BUILDERS = (
    build_vit_backbone,
    build_vit_simple_feature_pyramid_backbone,
    build_timm_backbone,
    build_timm_fpn_backbone,
    build_pvt_backbone,
    build_pvt_fpn_backbone,
)


def register_backbones() -> None:
    """Enter the builders into Detectron2's registry; a second call changes nothing.

    A name that someone else registered first is left to them, with a warning.
    """
    for builder in BUILDERS:
        name = builder.__name__
        if name not in BACKBONE_REGISTRY:
            BACKBONE_REGISTRY.register(builder)
        elif (other := BACKBONE_REGISTRY.get(name)) is not builder:
            logging.getLogger(__name__).warning(
                "BACKBONE_REGISTRY already has %r from %s; keeping theirs, not registering ours",
                name,
                other.__module__,
            )

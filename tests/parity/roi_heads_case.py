# SPDX-License-Identifier: Apache-2.0
"""The region heads of a comparison, built by hand from whichever Detectron2 is active."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import vitdet_d2  # isort: skip  (decides which Detectron2 this process uses)
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)
from torch import Tensor

assert vitdet_d2.__version__, "the package under test has no version"

# The stages of the cascade.
_IOUS = (0.5, 0.6, 0.7)
_BOX_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))


@dataclass(frozen=True, kw_only=True)
class HeadsCase:
    """What the heads of a comparison are.

    Attributes:
        channels: of the pyramid and the heads' convolutions.
        fc_dim: width of the box head's linear layer.
        num_classes: foreground classes.
        cascade: three box heads in a row.
        masks: with a mask head, and with masks in the ground truth.
        federated: the class loss and the test settings of LVIS.
    """

    channels: int = 256
    fc_dim: int = 1024
    num_classes: int = 80
    cascade: bool = False
    masks: bool = True
    federated: bool = False


def build_roi_heads(
    case: HeadsCase, levels: Sequence[str], pooler: Callable[..., ROIPooler]
) -> StandardROIHeads:
    """Build the heads.

    Args:
        case: what they are.
        levels: names of the maps.
        pooler: gives the pooler of an ``output_size``.
    """
    c = case.channels
    common: dict[str, Any] = {
        "num_classes": case.num_classes,
        "batch_size_per_image": 100_000,
        "positive_fraction": 0.25,
        "box_in_features": levels,
        "box_pooler": pooler(output_size=7),
    }
    if case.masks:
        common.update(
            mask_in_features=levels,
            mask_pooler=pooler(output_size=14),
            mask_head=MaskRCNNConvUpsampleHead(
                ShapeSpec(channels=c, height=14, width=14),
                num_classes=case.num_classes,
                conv_dims=[c] * 5,
                conv_norm="LN",
            ),
        )
    box_head = partial(
        FastRCNNConvFCHead,
        ShapeSpec(channels=c, height=7, width=7),
        conv_dims=[c] * 4,
        fc_dims=[case.fc_dim],
        conv_norm="LN",
    )
    if not case.cascade:
        return StandardROIHeads(
            proposal_matcher=Matcher([0.5], [0, 1], allow_low_quality_matches=False),
            box_head=box_head(),
            box_predictor=_predictor(case, _BOX_WEIGHTS[0]),
            **common,
        )
    return CascadeROIHeads(
        box_heads=[box_head() for _ in _IOUS],
        box_predictors=[_predictor(case, weights) for weights in _BOX_WEIGHTS],
        proposal_matchers=[
            Matcher([iou], [0, 1], allow_low_quality_matches=False) for iou in _IOUS
        ],
        **common,
    )


def _predictor(case: HeadsCase, weights: tuple[float, ...]) -> FastRCNNOutputLayers:
    options: dict[str, Any] = {"test_score_thresh": 0.02 if case.cascade else 0.05}
    if case.federated:
        options = {
            "test_score_thresh": 0.02,
            "test_topk_per_image": 300,
            "use_sigmoid_ce": True,
            "use_fed_loss": True,
            "fed_loss_num_classes": 20,  # most of them drawn: six or so occur
            "get_fed_loss_cls_weights": partial(_frequencies, case.num_classes),
        }
    return FastRCNNOutputLayers(
        ShapeSpec(channels=case.fc_dim),
        box2box_transform=Box2BoxTransform(weights=weights),
        num_classes=case.num_classes,
        cls_agnostic_bbox_reg=case.cascade,
        **options,
    )


def _frequencies(num_classes: int) -> Tensor:
    """Return weights of many sizes, as images per class to the power 0.5 are."""
    return (torch.arange(num_classes) * 37 % 101 + 1).float() ** 0.5

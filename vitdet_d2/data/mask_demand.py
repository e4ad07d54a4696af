# SPDX-License-Identifier: Apache-2.0
"""Whether annotations have the masks that a recipe trains on, or is scored on.

Recipe keys read, all optional: ``dataloader.train.mapper.{use_instance_mask,
instance_mask_format, recompute_boxes}``, ``dataloader.evaluator.tasks``,
``model.roi_heads.{mask_in_features, mask_head}``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from omegaconf import DictConfig, ListConfig, OmegaConf

from ..checks import CocoReport
from ..errors import DataError

logger = logging.getLogger(__name__)


def check_training_masks(cfg: DictConfig, reports: Sequence[CocoReport]) -> None:
    """Training needs masks in a form that the mapper takes; the form is set where it is not.

    Args:
        cfg: the recipe with all overrides; changed in place.
        reports: of the training data.

    Raises:
        DataError: there are instances without a mask.
    """
    mapper = OmegaConf.select(cfg, "dataloader.train.mapper")
    if not isinstance(mapper, DictConfig) or not mapper.get("use_instance_mask"):
        return
    for report in reports:
        if report.num_without_mask:
            raise DataError(
                f"{report.source}: {report.num_without_mask} instances have no 'segmentation', but "
                f"the recipe {_boxes_only(cfg, mapper)}"
            )
    packed = sum(report.num_rle_masks for report in reports)
    if packed and mapper.get("instance_mask_format", "polygon") == "polygon":
        logger.warning(
            "%d masks are run lengths, not polygons; "
            "dataloader.train.mapper.instance_mask_format is set to 'bitmask'",
            packed,
        )
        OmegaConf.update(mapper, "instance_mask_format", "bitmask", force_add=True)


def _boxes_only(cfg: DictConfig, mapper: DictConfig) -> str:
    """Say what the recipe asks of masks, and how it would do without them."""
    overrides = "dataloader.train.mapper.use_instance_mask=false"
    if mapper.get("recompute_boxes"):
        overrides += " dataloader.train.mapper.recompute_boxes=false"
    if not _predicts_masks(cfg):
        return f"reads them, which its model has no use for; set {overrides}"
    return (
        "trains masks; add them, or train boxes only: with the recipe faster_rcnn_vitdet_b (or _l, "
        f"_h), or in this one with model.roi_heads.mask_in_features=null {overrides}"
    )


def check_evaluation_masks(cfg: DictConfig, reports: Sequence[CocoReport]) -> None:
    """Scoring masks needs them in the ground truth; said before training, not after it.

    Args:
        cfg: the recipe with all overrides.
        reports: of the evaluation data.

    Raises:
        DataError: the model predicts masks, an evaluator would score them, and there are
            instances without one.
    """
    if not _predicts_masks(cfg) or not _scores_masks(cfg):
        return
    for report in reports:
        if report.num_without_mask:
            raise DataError(
                f"{report.source}: {report.num_without_mask} instances have no 'segmentation', but "
                "the recipe's masks would be scored on them; add them, or score boxes only with "
                "+dataloader.evaluator.tasks=[bbox]"
            )


def _predicts_masks(cfg: DictConfig) -> bool:
    heads = OmegaConf.select(cfg, "model.roi_heads")
    return (
        isinstance(heads, DictConfig)
        and heads.get("mask_head") is not None
        and heads.get("mask_in_features") is not None
    )


def _scores_masks(cfg: DictConfig) -> bool:
    """Tell whether an evaluator takes what the model predicts, or masks by name."""
    evaluators = OmegaConf.select(cfg, "dataloader.evaluator")
    nodes = evaluators if isinstance(evaluators, ListConfig) else [evaluators]
    return any(
        isinstance(node, DictConfig)
        and "dataset_name" in node
        and (node.get("tasks") is None or "segm" in node.tasks)
        for node in nodes
    )

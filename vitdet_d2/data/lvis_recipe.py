# SPDX-License-Identifier: Apache-2.0
"""Where a recipe must agree with data in LVIS's format: rules of evaluation, federated loss."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from omegaconf import DictConfig, ListConfig, OmegaConf

from ..checks import CocoReport
from ..errors import DataError

logger = logging.getLogger(__name__)


def check_evaluators(cfg: DictConfig, reports: Iterable[CocoReport]) -> None:
    """Refuse an evaluation by the rules of another format.

    COCO's rules count detections as wrong in images that were never searched for their class; by
    LVIS's rules, files without its lists have no negative images at all.

    Args:
        cfg: the recipe; reads ``dataloader.evaluator``.
        reports: on the data sets that are evaluated on.

    Raises:
        DataError: a COCO evaluator is given LVIS's format, or the other way round.
    """
    names = {_class_name(node.get("_target_")) for node in _evaluators(cfg)}
    for report in reports:
        if report.lvis is not None and "COCOEvaluator" in names:
            raise DataError(
                f"{report.source} is in LVIS's format, which COCO's evaluation scores wrongly; "
                "take an LVIS recipe, or vitdet_d2.evaluation.LVISEvaluator as dataloader.evaluator"
            )
        if report.lvis is None and "LVISEvaluator" in names:
            raise DataError(
                f"{report.source} is in COCO's format, without 'frequency' in its categories and "
                "'neg_category_ids' in its images, which LVIS's evaluation needs; take a COCO "
                "recipe, or vitdet_d2.evaluation.COCOEvaluator as dataloader.evaluator"
            )


def _evaluators(cfg: DictConfig) -> Iterator[DictConfig]:
    found = OmegaConf.select(cfg, "dataloader.evaluator")
    for node in found if isinstance(found, ListConfig) else [found]:
        if isinstance(node, DictConfig) and "_target_" in node:
            yield node


def _class_name(target: object) -> str:
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    return str(name).rpartition(".")[2]


def limit_federated_classes(heads: Iterable[DictConfig], report: CocoReport) -> None:
    """Let the federated loss not draw more classes than there are images with.

    Args:
        heads: nodes of the recipe; those without a ``fed_loss_num_classes`` are left alone.
        report: on the training data.
    """
    if report.lvis is None:
        return
    usable = sum(count > 0 for count in report.lvis.image_counts)
    for node in heads:
        wanted = node.get("fed_loss_num_classes")
        if wanted is not None and wanted > usable:
            logger.info(
                "the data has %d classes with images; the recipe's fed_loss_num_classes=%d is "
                "replaced",
                usable,
                wanted,
            )
            node.fed_loss_num_classes = usable

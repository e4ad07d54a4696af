# SPDX-License-Identifier: Apache-2.0
"""Configurations of older versions: the keys that were renamed since.

Version 0 and 1 were before Detectron2's release; files of that time are still around.

Source: key names of detectron2 ``config/compat.py``.
"""

from __future__ import annotations

import logging
from typing import Any

from detectron2.config.config import CfgNode
from detectron2.config.defaults import _C

__all__ = ["downgrade_config", "upgrade_config"]

logger = logging.getLogger(__name__)

# For each version the keys that got another name in it: section, then (old, new) below it.
_RENAMED: dict[int, dict[str, tuple[tuple[str, str], ...]]] = {
    1: {"MODEL": (("RPN_HEAD.NAME", "RPN.HEAD_NAME"),)},
    2: {
        "MODEL": (
            ("WEIGHT", "WEIGHTS"),
            ("PANOPTIC_FPN.SEMANTIC_LOSS_SCALE", "SEM_SEG_HEAD.LOSS_WEIGHT"),
            ("PANOPTIC_FPN.RPN_LOSS_SCALE", "RPN.LOSS_WEIGHT"),
        ),
        "MODEL.PANOPTIC_FPN": (
            ("INSTANCE_LOSS_SCALE", "INSTANCE_LOSS_WEIGHT"),
            ("COMBINE_ON", "COMBINE.ENABLED"),
            ("COMBINE_OVERLAP_THRESHOLD", "COMBINE.OVERLAP_THRESH"),
            ("COMBINE_STUFF_AREA_LIMIT", "COMBINE.STUFF_AREA_LIMIT"),
            ("COMBINE_INSTANCES_CONFIDENCE_THRESHOLD", "COMBINE.INSTANCES_CONFIDENCE_THRESH"),
        ),
        "MODEL.ROI_HEADS": (("SCORE_THRESH", "SCORE_THRESH_TEST"), ("NMS", "NMS_THRESH_TEST")),
        "MODEL.RETINANET": (
            ("INFERENCE_SCORE_THRESHOLD", "SCORE_THRESH_TEST"),
            ("INFERENCE_TOPK_CANDIDATES", "TOPK_CANDIDATES_TEST"),
            ("INFERENCE_NMS_THRESHOLD", "NMS_THRESH_TEST"),
        ),
        "TEST": (
            ("DETECTIONS_PER_IMG", "DETECTIONS_PER_IMAGE"),
            ("AUG_ON", "AUG.ENABLED"),
            ("AUG_MIN_SIZES", "AUG.MIN_SIZES"),
            ("AUG_MAX_SIZE", "AUG.MAX_SIZE"),
            ("AUG_FLIP", "AUG.FLIP"),
        ),
    },
}

# In version 1, the RPN and RetinaNet each had anchors of their own.
_ANCHOR_KEYS = {"SIZES": "ANCHOR_SIZES", "ASPECT_RATIOS": "ANCHOR_ASPECT_RATIOS"}

# Keys by which a file without VERSION is taken for one of version 1.
_SIGNS_OF_VERSION_1 = ("MODEL.WEIGHT", "TEST.AUG_ON")


def upgrade_config(cfg: CfgNode, to_version: int | None = None) -> CfgNode:
    """Return a copy with the keys of a newer version.

    Args:
        cfg: a whole configuration of its ``VERSION``.
        to_version: the newest where left out.

    Raises:
        ValueError: ``cfg`` is newer already.
    """
    target = _C.VERSION if to_version is None else to_version
    if cfg.VERSION > target:
        raise ValueError(f"cannot upgrade a configuration of version {cfg.VERSION} to {target}")
    upgraded = cfg.clone()
    for version in range(cfg.VERSION + 1, target + 1):
        for old, new in _renamed(version):
            _move(upgraded, old, new)
        if version == 2:
            _join_anchors(upgraded)
        upgraded.VERSION = version
    return upgraded


def downgrade_config(cfg: CfgNode, to_version: int) -> CfgNode:
    """Return a copy with the keys of an older version, so that an old file can be merged.

    Args:
        cfg: a whole configuration of its ``VERSION``.
        to_version: 0 or more.

    Raises:
        ValueError: ``cfg`` is older already.
    """
    if cfg.VERSION < to_version:
        raise ValueError(
            f"cannot downgrade a configuration of version {cfg.VERSION} to {to_version}"
        )
    downgraded = cfg.clone()
    for version in range(cfg.VERSION, to_version, -1):
        for old, new in _renamed(version):
            _move(downgraded, new, old)
        if version == 2:
            _split_anchors(downgraded)
        downgraded.VERSION = version - 1
    return downgraded


def guess_version(cfg: CfgNode, filename: str) -> int:
    """Return the version of a file's content that does not state one, and log the guess.

    Args:
        cfg: the content.
        filename: for the message.
    """
    is_old = any(_has(cfg, key) for key in _SIGNS_OF_VERSION_1)
    version = 1 if is_old else _C.VERSION
    logger.warning("%s states no VERSION, and is taken to be of version %d", filename, version)
    return version


def _renamed(version: int) -> list[tuple[str, str]]:
    return [
        (f"{section}.{old}", f"{section}.{new}")
        for section, pairs in _RENAMED[version].items()
        for old, new in pairs
    ]


def _has(cfg: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(cfg, CfgNode) or part not in cfg:
            return False
        cfg = cfg[part]
    return True


def _move(cfg: CfgNode, source: str, target: str) -> None:
    """Give a value another key; sections come and go with their keys."""
    value = _take(cfg, source.split("."))
    *sections, name = target.split(".")
    node = cfg
    for section in sections:
        node = node.setdefault(section, CfgNode())
    node[name] = value


def _take(node: CfgNode, parts: list[str]) -> Any:
    if len(parts) == 1:
        return node.pop(parts[0])
    value = _take(node[parts[0]], parts[1:])
    if not node[parts[0]]:
        del node[parts[0]]
    return value


def _join_anchors(cfg: CfgNode) -> None:
    """Keep the anchors of the model that is built, and drop the other's."""
    is_retinanet = cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
    owner, other = ("RETINANET", "RPN") if is_retinanet else ("RPN", "RETINANET")
    for new, old in _ANCHOR_KEYS.items():
        _move(cfg, f"MODEL.{owner}.{old}", f"MODEL.ANCHOR_GENERATOR.{new}")
        _take(cfg, ["MODEL", other, old])
    _take(cfg, ["MODEL", "RETINANET", "ANCHOR_STRIDES"])


def _split_anchors(cfg: CfgNode) -> None:
    for new, old in _ANCHOR_KEYS.items():
        _move(cfg, f"MODEL.ANCHOR_GENERATOR.{new}", f"MODEL.RPN.{old}")
        cfg.MODEL.RETINANET[old] = cfg.MODEL.RPN[old]
    cfg.MODEL.RETINANET.ANCHOR_STRIDES = []  # no version ever read it

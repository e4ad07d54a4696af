# SPDX-License-Identifier: Apache-2.0
"""The augmentations that the keys below ``INPUT`` describe."""

from __future__ import annotations

from typing import Any

from detectron2.data import transforms as T

__all__ = ["build_augmentation"]

_FLIPS = ("horizontal", "vertical", "none")


def build_augmentation(cfg: Any, is_train: bool) -> list[T.Augmentation | T.Transform]:
    """Build the resize and, in training, the flip.

    Args:
        cfg: the yacs configuration.
        is_train: read the keys of training; those of testing have one size and no flip.

    Raises:
        ValueError: ``INPUT.RANDOM_FLIP`` is none of the three words.
    """
    node = cfg.INPUT
    if not is_train:
        return [T.ResizeShortestEdge(node.MIN_SIZE_TEST, node.MAX_SIZE_TEST, "choice")]
    if node.RANDOM_FLIP not in _FLIPS:
        raise ValueError(f"INPUT.RANDOM_FLIP: expected one of {_FLIPS}, got {node.RANDOM_FLIP!r}")
    augmentations: list[T.Augmentation | T.Transform] = [
        T.ResizeShortestEdge(node.MIN_SIZE_TRAIN, node.MAX_SIZE_TRAIN, node.MIN_SIZE_TRAIN_SAMPLING)
    ]
    if node.RANDOM_FLIP != "none":
        is_horizontal = node.RANDOM_FLIP == "horizontal"
        augmentations.append(T.RandomFlip(horizontal=is_horizontal, vertical=not is_horizontal))
    return augmentations

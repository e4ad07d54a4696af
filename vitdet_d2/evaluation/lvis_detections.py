# SPDX-License-Identifier: Apache-2.0
"""Detections packed into arrays: a data set of 20,000 images with 300 each has six million."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vitdet_d2.checks.coco_results import refuse_non_finite
from vitdet_d2.errors import DataError
from vitdet_d2.evaluation.lvis_scoring import Array, ImageDetections


def packed(image_id: int, rows: Sequence[Mapping[str, Any]], has_masks: bool) -> ImageDetections:
    """Pack the detections of an image.

    Args:
        image_id: of the image.
        rows: in COCO's result format, with the model's class as ``category_id``.
        has_masks: whether the model predicts masks.

    Returns:
        The same, with the class in place of the category.
    """
    masks = [row["segmentation"] for row in rows] if has_masks else []
    return ImageDetections(
        image_id=image_id,
        boxes=np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4),
        scores=np.array([row["score"] for row in rows], np.float64),
        category_ids=np.array([row["category_id"] for row in rows], np.int64),
        masks=[mask["counts"] for mask in masks] if has_masks else None,
        mask_size=tuple(masks[0]["size"]) if masks else (0, 0),
    )


def joined(parts: Sequence[ImageDetections], category_ids: Array) -> ImageDetections:
    """Join what was found in an image.

    Args:
        parts: of one image, with classes; at least one.
        category_ids: of the classes.

    Returns:
        All of it, with categories.
    """
    masks: list[str] | None = None
    if all(part.masks is not None for part in parts):
        masks = [mask for part in parts for mask in part.masks or ()]
    return ImageDetections(
        image_id=parts[0].image_id,
        boxes=np.concatenate([part.boxes for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        category_ids=category_ids[np.concatenate([part.category_ids for part in parts])],
        masks=masks,
        mask_size=max(part.mask_size for part in parts),
    )


def result_rows(found: ImageDetections) -> Iterator[dict[str, Any]]:
    """Yield detections in LVIS's result format, which is COCO's.

    Args:
        found: with categories.
    """
    columns = zip(
        found.category_ids.tolist(), found.boxes.tolist(), found.scores.tolist(), strict=True
    )
    for number, (category, box, score) in enumerate(columns):
        row = {"image_id": found.image_id, "category_id": category, "bbox": box, "score": score}
        if found.masks is not None:
            row["segmentation"] = found.mask(number)
        yield row


def check_detections(
    predictions: Sequence[ImageDetections],
    image_ids: Collection[int],
    num_classes: int,
    dataset_name: str,
) -> None:
    """Refuse detections that must not be scored; nothing is filtered silently.

    Args:
        predictions: with classes.
        image_ids: of the data set.
        num_classes: of the data set.
        dataset_name: for messages.

    Raises:
        DataError: an unknown image or class, or numbers that are not finite.
    """
    unknown = sorted({found.image_id for found in predictions} - set(image_ids))
    if unknown:
        raise DataError(
            f"predictions for the images {unknown[:10]}, which data set '{dataset_name}' does not "
            "have; evaluate against the data that the model was run on"
        )
    classes = np.concatenate([found.category_ids for found in predictions])
    outside = np.unique(classes[(classes < 0) | (classes >= num_classes)]).tolist()
    if outside:
        raise DataError(
            f"the model has predicted the classes {outside[:10]}, but data set '{dataset_name}' "
            f"has {num_classes} classes, numbered 0 to {num_classes - 1}; make the recipe's "
            "num_classes equal to that"
        )
    images = np.repeat([f.image_id for f in predictions], [len(f.scores) for f in predictions])
    scores = np.concatenate([found.scores for found in predictions])
    refuse_non_finite("detections", "scores", scores[:, None], images)
    boxes = np.concatenate([found.boxes for found in predictions])
    refuse_non_finite("detections", "boxes", boxes, images)

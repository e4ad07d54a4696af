# SPDX-License-Identifier: Apache-2.0
"""What an evaluation is given, made fit for pycocotools or refused with the reason.

Vocabulary: a *result* is one detection in COCO's result format; ``mapping`` is the metadata's
``thing_dataset_id_to_contiguous_id``, from the data set's category ids to 0 ... classes - 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vitdet_d2.errors import DataError

from .coco_json import check_coco_annotations


def prepare_ground_truth(
    dataset: Mapping[str, Any], mapping: Mapping[int, int] | None, dataset_name: str
) -> tuple[dict[str, Any], list[str]]:
    """Check and repair the ground truth of an evaluation.

    Categories that the data set was registered without, such as the unused root that some
    exports have, are dropped.

    Args:
        dataset: the COCO dictionary; not changed. One without ``annotations`` (a test split)
            is taken as it is.
        mapping: of the registered data set; None keeps every category.
        dataset_name: for messages.

    Returns:
        A copy to evaluate against, and one sentence for every kind of repair.

    Raises:
        DataError: it cannot be evaluated against.
    """
    repaired, notes = dict(dataset), []
    if "annotations" in dataset:
        report = check_coco_annotations(repaired, None)
        if report.lvis is not None:
            raise DataError(
                f"data set '{dataset_name}' is in LVIS's format, which COCO's evaluation scores "
                "wrongly: it has no annotations of most classes in most images; use "
                "vitdet_d2.evaluation.LVISEvaluator"
            )
        repaired, notes = dict(report.document), [str(repair) for repair in report.repairs]
    if mapping is not None:
        used = {annotation["category_id"] for annotation in repaired.get("annotations", [])}
        unknown = sorted(used - mapping.keys())
        if unknown:
            raise DataError(
                f"data set '{dataset_name}': its annotations use the category ids "
                f"{unknown[:10]}, without which it was registered; register it again from the "
                "JSON that is evaluated"
            )
        repaired["categories"] = [c for c in repaired["categories"] if c["id"] in mapping]
    return repaired, notes


def to_dataset_ids(
    results: Sequence[Mapping[str, Any]], mapping: Mapping[int, int] | None, dataset_name: str
) -> list[dict[str, Any]]:
    """Copy results, with the data set's category ids in place of the model's class numbers.

    Args:
        results: ``category_id`` is the model's class, contiguous from 0.
        mapping: of the registered data set; None keeps the numbers.
        dataset_name: for the message.

    Raises:
        DataError: a class that the data set does not have.
    """
    if mapping is None:
        return [dict(result) for result in results]
    dataset_ids = {contiguous: dataset_id for dataset_id, contiguous in mapping.items()}
    unknown = sorted({result["category_id"] for result in results} - dataset_ids.keys())
    if unknown:
        raise DataError(
            f"the model has predicted the classes {unknown[:10]}, but data set '{dataset_name}' "
            f"has {len(dataset_ids)} classes, numbered 0 to {len(dataset_ids) - 1}; make the "
            "recipe's num_classes equal to that"
        )
    return [{**result, "category_id": dataset_ids[result["category_id"]]} for result in results]


def require_masks(
    dataset: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    img_ids: Sequence[int] | None = None,
) -> None:
    """Refuse to score masks where ground truth or predictions have none.

    Args:
        dataset: the ground truth.
        results: the predictions.
        img_ids: the images to score; None takes all.

    Raises:
        DataError: with the ids of those that lack a mask.
    """
    wanted = None if img_ids is None else set(img_ids)
    bare = [
        annotation["id"]
        for annotation in dataset["annotations"]
        if not annotation.get("segmentation")
        and (wanted is None or annotation["image_id"] in wanted)
    ]
    if bare:
        raise DataError(
            f"mask AP needs a segmentation in every annotation, but {len(bare)} have none "
            f"(annotation ids {bare[:10]}); add them, or evaluate with tasks=('bbox',)"
        )
    images = sorted({result["image_id"] for result in results if "segmentation" not in result})
    if images:
        raise DataError(
            "mask AP needs a mask with every prediction, but those of the images "
            f"{images[:10]} have none; evaluate with tasks=('bbox',)"
        )

# SPDX-License-Identifier: Apache-2.0
"""The files of an analysis of errors: read, and seen to be what they should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitdet_d2.checks import CocoReport, check_coco_annotations, check_coco_results
from vitdet_d2.checks.coco_file import read_json
from vitdet_d2.errors import DataError
from vitdet_d2.evaluation.tide_data import Task, TideData, tide_data

RESULT_FILES = ("coco_instances_results.json", "lvis_instances_results.json")
# Detections of an image, over all classes, that count: as in the two evaluations.
MAX_DETECTIONS, LVIS_MAX_DETECTIONS = 100, 300
_FOLDERS = ("inference", ".")


def load_tide_data(
    predictions: Path,
    annotations: Path,
    task: Task,
    *,
    positive_iou: float,
    max_detections: int | None = None,
) -> tuple[TideData, list[str]]:
    """Read, check and compare detections and annotations.

    Args:
        predictions: detections in COCO's result format, or the run folder that holds them.
        annotations: in COCO's or LVIS's format.
        task: what is compared.
        positive_iou: part of a detection in a crowd from which on it is excused.
        max_detections: of an image, over all classes; None: 100, and 300 by LVIS's rules.

    Returns:
        What to analyse, and sentences that a reader of the outcome should know.

    Raises:
        DataError: a file cannot be used, or the two do not fit each other.
    """
    file = results_file(predictions)
    results = _read_results(file)
    report = check_coco_annotations(annotations)
    notes = [f"{annotations}: {repair}" for repair in report.repairs]
    notes += _check_results(results, report, task, str(file))
    if task == "segm":
        _require_masks(report, results, annotations, file)
    if max_detections is None:
        max_detections = MAX_DETECTIONS if report.lvis is None else LVIS_MAX_DETECTIONS
    data = tide_data(
        report, results, task, positive_iou=positive_iou, max_detections=max_detections
    )
    if not data.truth_classes.size:
        raise DataError(
            f"{annotations}: no object is annotated, so that no detection can be right; give the "
            "file that the model was evaluated against"
        )
    if data.num_beyond:
        notes.append(
            f"{data.num_beyond} detections are beyond the best {max_detections} of their image and "
            "are left out"
        )
    return data, notes


def results_file(predictions: Path) -> Path:
    """Return the file of detections.

    Args:
        predictions: the file itself, or the folder of a run or of its results.

    Raises:
        DataError: the folder has none, or two.
    """
    if not predictions.is_dir():
        return predictions
    for folder in _FOLDERS:
        files = [predictions / folder / name for name in RESULT_FILES]
        found = [file for file in files if file.is_file()]
        if len(found) > 1:
            raise DataError(
                f"{predictions}: there are {found[0].name} and {found[1].name}; name one of them"
            )
        if found:
            return found[0]
    raise DataError(
        f"{predictions}: the folder has no detections, expected inference/{RESULT_FILES[0]}; "
        "`vitdet eval` writes them, and so does training with an evaluation"
    )


def _read_results(file: Path) -> list[Any]:
    """Read detections.

    Raises:
        DataError: it is another file.
    """
    content = read_json(file, "predictions")
    if isinstance(content, list):
        first = content[0] if content else None
        if isinstance(first, Mapping) and "score" not in first and "iscrowd" in first:
            raise DataError(f"{file}: these are annotations without 'score', not detections")
        return content
    expected = "expected a list of detections in COCO's result format"
    if not isinstance(content, dict):
        raise DataError(f"{file}: {expected}, got {type(content).__name__}")
    if "failed" in content and "annotations" in content:
        raise DataError(
            f"{file}: {expected}, got what `vitdet predict` writes, whose image ids are its own; "
            "run `vitdet eval` and give its inference/coco_instances_results.json"
        )
    if "annotations" in content or "images" in content:
        raise DataError(
            f"{file}: {expected}, got an annotation file; the order is PREDICTIONS ANNOTATIONS"
        )
    if "bbox" in content or "segm" in content:
        raise DataError(
            f"{file}: {expected}, got the metrics of an evaluation; the detections are in "
            f"{RESULT_FILES[0]} beside it"
        )
    raise DataError(f"{file}: {expected}, got an object with the keys {sorted(content)[:5]}")


def _check_results(
    results: Sequence[Mapping[str, Any]], report: CocoReport, task: Task, source: str
) -> list[str]:
    """Check detections against the annotation file.

    Returns:
        Sentences on what is odd, but can be analysed.

    Raises:
        DataError: they cannot.
    """
    images = report.document["images"]
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    checked = check_coco_results(
        results,
        set(sizes),
        report.category_ids,
        image_sizes=sizes if task == "segm" else None,
        source=source,
    )
    if checked.hint:
        return [f"{source}: {checked.hint}"]
    if task == "bbox":
        bare = sum("bbox" not in row for row in results)
        if bare:
            raise DataError(
                f"{source}: {bare} detections have no 'bbox'; analyse masks with --iou-type segm"
            )
    notes = []
    scores = np.array([row["score"] for row in results], np.float64)
    outside = int(((scores < 0) | (scores > 1)).sum())
    if outside:
        notes.append(f"{source}: {outside} scores are outside [0, 1]; only their order counts")
    repeats = len(results) - len({_identity(row) for row in results})
    if repeats:
        notes.append(
            f"{source}: {repeats} detections are exact repeats of others and count as duplicates; "
            "was a file joined twice?"
        )
    if 2 * checked.num_images < len(images):
        notes.append(
            f"{source}: only {checked.num_images} of {len(images)} images have detections; the "
            "objects of the others are missed"
        )
    return notes


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    box = row.get("bbox")
    shape = str(row.get("segmentation")) if box is None else tuple(box)
    return row["image_id"], row["category_id"], row["score"], shape


def _require_masks(
    report: CocoReport, results: Sequence[Mapping[str, Any]], annotations: Path, file: Path
) -> None:
    """Refuse to compare masks where there are none.

    Raises:
        DataError: an annotation or a detection lacks its mask.
    """
    parts: list[tuple[Path, str, Sequence[Mapping[str, Any]]]] = [
        (annotations, "annotations", report.document["annotations"]),
        (file, "detections", results),
    ]
    for path, what, rows in parts:
        bare = [row["image_id"] for row in rows if not row.get("segmentation")]
        if bare:
            raise DataError(
                f"{path}: {len(bare)} {what} have no 'segmentation' (image {bare[0]}, ...), which "
                "--iou-type segm needs; analyse boxes with --iou-type bbox"
            )

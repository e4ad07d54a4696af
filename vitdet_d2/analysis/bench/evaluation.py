# SPDX-License-Identifier: Apache-2.0
"""The axis ``evaluation``: box and mask AP of detections that are in memory."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from pathlib import Path
from typing import Any

import detectron2.evaluation
from detectron2.data import DatasetCatalog, MetadataCatalog

from vitdet_d2.analysis.bench.case import Case, Side, Subject
from vitdet_d2.analysis.bench.detections import results
from vitdet_d2.analysis.bench.pictures import NUM_CLASSES, records
from vitdet_d2.evaluation import COCOEvaluator

_NAME = "bench_evaluation"
# How often the images of the data are repeated: evaluation of a few would be all start-up.
_NUM_IMAGES = 250


def evaluation(case: Case, side: Side, folder: Path) -> Subject:
    """Prepare a side to score detections, as many per image as COCO counts.

    Args:
        case: its data.
        side: ours, or Detectron2's evaluator with ``use_fast_impl=False``.
        folder: where made-up images and the ground truth go.
    """
    rows = _repeated(records(folder, case.data))
    _register(rows, folder / f"ground_truth_{side}.json")
    kind = COCOEvaluator if side == "ours" else detectron2.evaluation.COCOEvaluator
    with _quiet():
        # Ours by its default; Detectron2's by pycocotools, which needs nothing compiled.
        options: dict[str, Any] = {} if side == "ours" else {"use_fast_impl": False}
        evaluator: Any = kind(_NAME, ("bbox", "segm"), distributed=False, **options)
    predictions = results(rows, seed=0)

    def run() -> dict[str, Any]:
        with _quiet():
            evaluator.reset()
            # Both leave ids as they are here: the model's classes are those of the data set.
            evaluator._predictions = predictions
            scores: dict[str, Any] = evaluator.evaluate()
        return scores

    return Subject(
        run=run,
        units=len(rows),
        evidence=lambda: {
            f"exact {task}": json.dumps({k: repr(float(v)) for k, v in sorted(values.items())})
            for task, values in run().items()
        },
    )


def _repeated(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return so many images, the given ones again and again under new numbers."""
    return [{**rows[i % len(rows)], "image_id": i + 1} for i in range(_NUM_IMAGES)]


def _register(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the ground truth and make it known under a name."""
    annotations: list[dict[str, Any]] = []
    for record in rows:
        for annotation in record["annotations"]:
            area = annotation["bbox"][2] * annotation["bbox"][3]
            fixed = {
                "id": len(annotations) + 1,
                "image_id": record["image_id"],
                "category_id": annotation["category_id"],
                "area": area,
            }
            kept = {k: annotation[k] for k in ("bbox", "iscrowd", "segmentation")}
            annotations.append({**kept, **fixed})
    images = [
        {
            "id": record["image_id"],
            "file_name": Path(record["file_name"]).name,
            "height": record["height"],
            "width": record["width"],
        }
        for record in rows
    ]
    classes = [f"class {i}" for i in range(NUM_CLASSES)]
    categories = [{"id": i, "name": name} for i, name in enumerate(classes)]
    document = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(document), encoding="utf-8")
    if _NAME in DatasetCatalog.list():
        DatasetCatalog.remove(_NAME)
        MetadataCatalog.remove(_NAME)
    DatasetCatalog.register(_NAME, lambda: rows)
    MetadataCatalog.get(_NAME).set(
        json_file=str(path),
        thing_classes=classes,
        thing_dataset_id_to_contiguous_id={i: i for i in range(NUM_CLASSES)},
    )


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep tables and progress of the evaluators off the screen."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)

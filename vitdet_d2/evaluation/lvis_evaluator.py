# SPDX-License-Identifier: Apache-2.0
"""LVIS evaluation, on any numpy and with any data set in LVIS's format.

Detectron2's own evaluator stands on the package ``lvis``, whose published version fails on
numpy 1.24 and later; this one takes its place in our recipes on both runtimes.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from vitdet_d2.checks import CocoReport, check_coco_annotations
from vitdet_d2.data.lvis import lvis_metadata
from vitdet_d2.errors import DataError
from vitdet_d2.evaluation.lvis_detections import check_detections, joined, packed, result_rows
from vitdet_d2.evaluation.lvis_scoring import (
    MAX_DETECTIONS,
    ImageDetections,
    LvisScores,
    LvisTruth,
    Task,
    score_lvis,
)
from vitdet_d2.evaluation.report import format_report
from vitdet_d2.evaluation.result_rows import instances_to_rows

logger = logging.getLogger(__name__)

TASKS: tuple[Task, ...] = ("bbox", "segm")
RESULTS_JSON = "lvis_instances_results.json"
CLASSES_JSON = "lvis_class_ap.json"


class LVISEvaluator(DatasetEvaluator):
    """Box and mask AP by LVIS's rules, with Detectron2's names and files.

    Attributes:
        results: ``{"bbox": {"AP": ..., "APr": ..., ...}, "segm": {...}}`` of the latest evaluation,
            in percent; empty outside the main process.
        class_results: one dictionary per category: ``id``, ``name``, ``frequency``,
            ``image_count``, and AP by task.
    """

    takes_regions = True  # masks as the network gives them: `RegionMasks`

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
    ) -> None:
        """Read and check the ground truth.

        Args:
            dataset_name: a registered data set with a ``json_file`` in LVIS's format.
            tasks: of ``"bbox"``, ``"segm"``; None takes what the model predicts.
            distributed: gather the predictions of all processes into the main one.
            output_dir: where results are written; None writes nothing.
            max_dets_per_image: detections of an image that count, the best scores first; None is
                LVIS's 300.

        Raises:
            DataError: the ground truth cannot be evaluated against.
            ValueError: an unknown task, or a limit below 1.
        """
        unknown = sorted(set(tasks or ()) - set(TASKS))
        if isinstance(tasks, str) or unknown:
            raise ValueError(f"tasks: expected some of {TASKS} or None, got {tasks!r}")
        if max_dets_per_image is not None and max_dets_per_image < 1:
            raise ValueError(
                f"max_dets_per_image: expected None or at least 1, got {max_dets_per_image}"
            )
        self._tasks = [task for task in TASKS if task in tasks] if tasks else None
        self._max_dets = max_dets_per_image or MAX_DETECTIONS
        self._distributed = distributed
        self._output_dir = output_dir
        self._name = dataset_name
        report = self._read(MetadataCatalog.get(dataset_name).json_file)
        self._category_ids = np.array(report.category_ids)
        self._image_ids = frozenset(image["id"] for image in report.document["images"])
        self._bare = [a["id"] for a in report.document["annotations"] if not a.get("segmentation")]
        # Of a test set only the results are wanted.
        self._do_evaluation = bool(report.document["annotations"])
        # Only the main process scores, and the annotations take a gigabyte.
        self._truth = LvisTruth(report) if self._is_main() else None
        self._classes = _class_rows(report)
        self._predictions: list[ImageDetections] = []
        self.results: dict[str, dict[str, float]] = {}
        self.class_results: list[dict[str, Any]] = []

    def _read(self, json_file: str) -> CocoReport:
        report = check_coco_annotations(PathManager.get_local_path(json_file), None)
        lvis_metadata(report)  # refuses another format
        for repair in report.repairs:
            logger.warning("data set '%s': %s.", self._name, repair)
        if not any(image.get("neg_category_ids") for image in report.document["images"]):
            logger.warning(
                "data set '%s': no image has 'neg_category_ids', so that false detections count "
                "only in images that have their class",
                self._name,
            )
        return report

    def _is_main(self) -> bool:
        return not self._distributed or comm.is_main_process()

    def reset(self) -> None:
        """Forget the predictions and results of an earlier round."""
        self._predictions = []
        self.results = {}
        self.class_results = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take the detections of a batch, and keep them packed.

        Args:
            inputs: each with its ``image_id``.
            outputs: each with ``instances``, whose fields are ``pred_boxes``, ``scores``,
                ``pred_classes`` and, for masks, ``pred_masks``.

        Raises:
            ValueError: an output without instances.
        """
        for given, output in zip(inputs, outputs, strict=True):
            image_id = given["image_id"]
            if "instances" not in output:
                raise ValueError(
                    f"output of image {image_id}: expected the key 'instances', got "
                    f"{sorted(output)}; box proposals alone are not evaluated"
                )
            instances = output["instances"].to("cpu")
            rows = instances_to_rows(instances, image_id)
            self._predictions.append(packed(image_id, rows, instances.has("pred_masks")))

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Score what was processed, on all processes together.

        Returns:
            ``{"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR@300",
            ...}, "segm": {...}}`` in percent; empty outside the main process, where nothing was
            processed, and where there are no annotations. NaN: no annotation for that metric.

        Raises:
            DataError: a prediction that has no place in the data set, or is not finite.
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            gathered = comm.gather(predictions, dst=0)
            if not comm.is_main_process():
                return {}
            predictions = list(itertools.chain.from_iterable(gathered))
        if not predictions:
            logger.warning(
                "LVISEvaluator has processed no image, so there is nothing to score; is the test "
                "data set empty?"
            )
            return {}
        detections = self._checked(predictions)
        if self._output_dir:
            self._write_results(detections)
        if not self._do_evaluation:
            logger.info("No annotations: the results are written, not evaluated.")
            return {}
        self._score(detections)
        return {task: dict(metrics) for task, metrics in self.results.items()}

    def _checked(self, predictions: list[ImageDetections]) -> dict[int, ImageDetections]:
        """Join the detections of each image, with the data set's category ids.

        Raises:
            DataError: they cannot be scored.
        """
        check_detections(predictions, self._image_ids, len(self._category_ids), self._name)
        by_image: dict[int, list[ImageDetections]] = defaultdict(list)
        for found in predictions:
            by_image[found.image_id].append(found)
        repeated = len(predictions) - len(by_image)
        if repeated:
            logger.warning(
                "%d images were processed more than once; all of their detections count, which "
                "lowers AP. The sampler should show every image once",
                repeated,
            )
        return {i: joined(parts, self._category_ids) for i, parts in by_image.items()}

    def _write_results(self, detections: dict[int, ImageDetections]) -> None:
        """Write LVIS's result format, row by row: all of it in memory takes gigabytes."""
        assert self._output_dir is not None, "asked before"
        PathManager.mkdirs(self._output_dir)
        path = os.path.join(self._output_dir, RESULTS_JSON)
        rows = itertools.chain.from_iterable(map(result_rows, detections.values()))
        with PathManager.open(path, "w") as file:
            separator = "["
            for row in rows:
                file.write(separator + json.dumps(row))
                separator = ",\n"
            file.write("[]" if separator == "[" else "]")
        logger.info("Results of all images in %s", path)

    def _score(self, detections: dict[int, ImageDetections]) -> None:
        assert self._truth is not None, "only the main process gets here"
        if not any(len(found.scores) for found in detections.values()):
            logger.warning(
                "The model has predicted nothing on %d images: AP is 0. Is the score threshold too "
                "high, or were the weights of the heads not loaded?",
                len(detections),
            )
        has_masks = any(found.masks is not None for found in detections.values())
        self.class_results = [dict(row) for row in self._classes]
        for task in self._tasks or (TASKS if has_masks else TASKS[:1]):
            if task == "segm":
                self._require_masks(detections)
            scores = score_lvis(self._truth, detections, task, max_detections=self._max_dets)
            self._take(task, scores)
        logger.info(
            "LVIS evaluation, at most %d detections per image:\n%s",
            self._max_dets,
            format_report(self.results),
        )
        if self._output_dir:
            path = Path(self._output_dir, CLASSES_JSON)
            path.write_text(json.dumps(self.class_results, indent=1, allow_nan=False) + "\n")
            logger.info("AP of every class in %s", path)

    def _take(self, task: Task, scores: LvisScores) -> None:
        self.results[task] = scores.metrics()
        for row, value in zip(self.class_results, scores.class_metrics(), strict=True):
            row[task] = None if math.isnan(value) else value

    def _require_masks(self, detections: dict[int, ImageDetections]) -> None:
        """Refuse to score masks where ground truth or predictions have none.

        Raises:
            DataError: with the ids of those that lack a mask.
        """
        if self._bare:
            raise DataError(
                f"mask AP needs a segmentation in every annotation, but {len(self._bare)} have "
                f"none (annotation ids {self._bare[:10]}); add them, or evaluate with "
                "tasks=('bbox',)"
            )
        images = sorted(i for i, d in detections.items() if d.masks is None and len(d.scores))
        if images:
            raise DataError(
                "mask AP needs a mask with every prediction, but those of the images "
                f"{images[:10]} have none; evaluate with tasks=('bbox',)"
            )


def _class_rows(report: CocoReport) -> list[dict[str, Any]]:
    assert report.lvis is not None, "checked when read"
    facts = zip(
        report.category_ids,
        report.category_names,
        report.lvis.frequencies,
        report.lvis.image_counts,
        strict=True,
    )
    return [{"id": i, "name": n, "frequency": f, "image_count": c} for i, n, f, c in facts]

# SPDX-License-Identifier: Apache-2.0
"""COCO evaluation that refuses to print a number for input that cannot have one.

The bundled runtime's evaluator does all of this by itself; with an installed Detectron2 this
subclass adds it. Recipes name this class, so that both behave alike.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Sequence
from typing import Any, Literal, cast

import detectron2.evaluation
from detectron2.utils.file_io import PathManager

from vitdet_d2.checks import check_coco_results
from vitdet_d2.checks.evaluation_input import (
    prepare_ground_truth,
    require_masks,
    to_dataset_ids,
)
from vitdet_d2.evaluation.coco_detections import Task
from vitdet_d2.evaluation.coco_scorers import Scorer, choose_scorer, indexed
from vitdet_d2.evaluation.coco_scoring import MAX_DETECTIONS
from vitdet_d2.evaluation.coco_truth import CocoTruth
from vitdet_d2.evaluation.result_rows import instances_to_rows

_logger = logging.getLogger(__name__)

RESULTS_JSON = "coco_instances_results.json"


class COCOEvaluator(detectron2.evaluation.COCOEvaluator):
    """Detectron2's COCO evaluator, faster, with checked input and the outcome kept in memory.

    Nothing is filtered silently: a prediction that is not finite, or has no place in the data
    set, is an error that names the images. No predictions at all score 0 instead of failing.

    Attributes:
        results: ``{"bbox": {"AP": ..., ...}, "segm": {...}}`` of the latest evaluation, in
            percent; empty outside the main process.
        coco_results: the detections behind it in COCO's result format, with the data set's
            category ids.
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
        use_fast_impl: bool | Literal["hotcoco"] = True,
        kpt_oks_sigmas: Sequence[float] = (),
        allow_cached_coco: bool = True,
    ) -> None:
        """Read and check the ground truth.

        Args:
            dataset_name: a registered data set.
            tasks: of ``"bbox"``, ``"segm"``; None takes what the model predicts.
            distributed: gather the predictions of all processes into the main one.
            output_dir: where predictions and results are written; None writes nothing.
            max_dets_per_image: detections per image and class that count; None is COCO's 100.
            use_fast_impl: True scores on arrays, False with pycocotools itself, "hotcoco" with that
                package (the extra ``fast-eval``). All of them give the same numbers, to the bit.
            kpt_oks_sigmas: keypoints are not supported; leave it empty.
            allow_cached_coco: whether a JSON written by an earlier conversion may be used.

        Raises:
            DataError: the ground truth cannot be evaluated against.
            UserError: hotcoco is wanted, and not installed.
            ValueError: an unknown scorer.
        """
        self._score: Scorer = choose_scorer(use_fast_impl)
        super().__init__(
            dataset_name,
            tasks,
            distributed,
            output_dir,
            max_dets_per_image=max_dets_per_image,
            use_fast_impl=False,  # Detectron2's compiled one is left aside
            kpt_oks_sigmas=kpt_oks_sigmas,
            allow_cached_coco=allow_cached_coco,
        )
        self.results: dict[str, dict[str, float]] = {}
        self.coco_results: list[dict[str, Any]] = []
        self._mapping = self._metadata.get("thing_dataset_id_to_contiguous_id")
        dataset, notes = prepare_ground_truth(self._coco_api.dataset, self._mapping, dataset_name)
        for note in notes:
            _logger.warning(f"data set '{dataset_name}': {note}.")
        self._coco_api = indexed(dataset)
        self._truth = CocoTruth(dataset) if self._do_evaluation else None
        most = max_dets_per_image or MAX_DETECTIONS[-1]
        self._limits = [*(limit for limit in MAX_DETECTIONS[:-1] if limit < most), most]
        self._predicts_masks = False

    def reset(self) -> None:
        """Forget the predictions and results of an earlier round."""
        super().reset()
        self.results = {}
        self.coco_results = []
        self._predicts_masks = False

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take the detections of a batch.

        Args:
            inputs: each with its ``image_id``.
            outputs: each with ``instances``.
        """
        self._predicts_masks |= any(
            "instances" in output and output["instances"].has("pred_masks") for output in outputs
        )
        for given, output in zip(inputs, outputs, strict=True):
            if "instances" not in output or output["instances"].has("pred_keypoints"):
                super().process([given], [output])
                continue
            rows = instances_to_rows(output["instances"].to("cpu"), given["image_id"])
            self._predictions.append({"image_id": given["image_id"], "instances": rows})

    def evaluate(self, img_ids: Sequence[int] | None = None) -> dict[str, dict[str, float]]:
        """Score what was processed, on all processes together.

        Args:
            img_ids: the images to score; None takes the whole data set.

        Returns:
            ``{"bbox": {"AP", "AP50", ..., "AP-<class>"}, "segm": {...}}`` in percent; empty
            outside the main process. NaN: there is no ground truth for that metric.

        Raises:
            DataError: a prediction that has no place in the data set, or is not finite.
        """
        results = super().evaluate(img_ids)
        self.results = {task: dict(metrics) for task, metrics in results.items()}
        return results

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: Sequence[int] | None = None
    ) -> None:
        """Check the detections of all processes, write them where that is wanted, score them."""
        self.coco_results = to_dataset_ids(
            list(itertools.chain.from_iterable(p["instances"] for p in predictions)),
            self._mapping,
            self._metadata.name,
        )
        check_coco_results(self.coco_results, set(self._coco_api.imgs), set(self._coco_api.cats))
        tasks = sorted(self._tasks or self._tasks_from_predictions(self.coco_results))
        if not set(tasks) <= {"bbox", "segm"}:  # keypoints, with an installed Detectron2
            super()._eval_predictions(predictions, img_ids=img_ids)
            return
        if self._output_dir:
            self._write_results(self._output_dir)
        if self._truth is None:
            _logger.info("No annotations: the results are written, not evaluated.")
            return
        if not self.coco_results:
            _logger.warning(
                "The model has predicted nothing: AP is 0. Is the score threshold too high, or "
                "were the weights of the heads not loaded?"
            )
        names = self._metadata.get("thing_classes")
        for task in cast("list[Task]", tasks):
            if task == "segm":
                require_masks(self._coco_api.dataset, self.coco_results, img_ids)
            scores = self._score(
                self._coco_api, self._truth, self.coco_results, task, img_ids, self._limits
            )
            self._results[task] = self._derive_coco_results(scores, task, class_names=names)

    def _write_results(self, folder: str) -> None:
        PathManager.mkdirs(folder)
        path = os.path.join(folder, RESULTS_JSON)
        with PathManager.open(path, "w") as file:
            # In one go: written piece by piece, JSON takes five times as long.
            file.write(json.dumps(self.coco_results, allow_nan=False))
        _logger.info("Results of all images in %s", path)

    def _tasks_from_predictions(self, predictions: list[dict[str, Any]]) -> list[str]:
        """Boxes, and masks also where a model that predicts them has found nothing."""
        tasks = super()._tasks_from_predictions(predictions)
        return sorted({*tasks, "segm"}) if self._predicts_masks else tasks

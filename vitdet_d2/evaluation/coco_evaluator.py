# SPDX-License-Identifier: Apache-2.0
"""COCO evaluation that refuses to print a number for input that cannot have one.

The bundled runtime's evaluator does all of this by itself; with an installed Detectron2 this
subclass adds it. Recipes name this class, so that both behave alike.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import detectron2.evaluation
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vitdet_d2.checks import check_coco_results
from vitdet_d2.checks.evaluation_input import (
    prepare_ground_truth,
    require_masks,
    to_dataset_ids,
)

_logger = logging.getLogger(__name__)


class COCOEvaluator(detectron2.evaluation.COCOEvaluator):
    """Detectron2's COCO evaluator, with checked input and the outcome kept in memory.

    Nothing is filtered silently: a prediction that is not finite, or has no place in the data
    set, is an error that names the images. No predictions at all score 0 instead of failing.

    Attributes:
        results: ``{"bbox": {"AP": ..., ...}, "segm": {...}}`` of the latest evaluation, in
            percent; empty outside the main process.
        coco_results: the detections behind it in COCO's result format, with the data set's
            category ids.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        use_fast_impl: bool = False,
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
            use_fast_impl: with an installed Detectron2, use its compiled, unofficial scorer.
            kpt_oks_sigmas: keypoints are not supported; leave it empty.
            allow_cached_coco: whether a JSON written by an earlier conversion may be used.

        Raises:
            DataError: the ground truth cannot be evaluated against.
        """
        super().__init__(
            dataset_name,
            tasks,
            distributed,
            output_dir,
            max_dets_per_image=max_dets_per_image,
            use_fast_impl=use_fast_impl,
            kpt_oks_sigmas=kpt_oks_sigmas,
            allow_cached_coco=allow_cached_coco,
        )
        self.results: dict[str, dict[str, float]] = {}
        self.coco_results: list[dict[str, Any]] = []
        self._mapping = self._metadata.get("thing_dataset_id_to_contiguous_id")
        dataset, notes = prepare_ground_truth(self._coco_api.dataset, self._mapping, dataset_name)
        for note in notes:
            _logger.warning(f"data set '{dataset_name}': {note}.")
        self._coco_api = _indexed(dataset)
        self._predicts_masks = False
        self._img_ids: Sequence[int] | None = None

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
        super().process(inputs, outputs)

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
        """Check the detections of all processes, then let Detectron2 score them."""
        self._img_ids = img_ids
        self.coco_results = to_dataset_ids(
            list(itertools.chain.from_iterable(p["instances"] for p in predictions)),
            self._mapping,
            self._metadata.name,
        )
        check_coco_results(self.coco_results, set(self._coco_api.imgs), set(self._coco_api.cats))
        tasks = self._tasks or self._tasks_from_predictions(self.coco_results)
        if self._do_evaluation and "segm" in tasks:
            require_masks(self._coco_api.dataset, self.coco_results, img_ids)
        super()._eval_predictions(predictions, img_ids=img_ids)

    def _tasks_from_predictions(self, predictions: list[dict[str, Any]]) -> list[str]:
        """Boxes, and masks also where a model that predicts them has found nothing."""
        tasks = super()._tasks_from_predictions(predictions)
        return sorted({*tasks, "segm"}) if self._predicts_masks else tasks

    def _derive_coco_results(
        self,
        coco_eval: COCOeval | None,
        iou_type: str,
        class_names: Sequence[str] | None = None,
    ) -> dict[str, float]:
        """Read the metrics out of an evaluation; without predictions they are 0, not NaN."""
        if coco_eval is None:
            _logger.warning(
                "The model has predicted nothing: AP is 0. Is the score threshold too high, or "
                "were the weights of the heads not loaded?"
            )
            coco_eval = self._evaluate_nothing(iou_type)
        return super()._derive_coco_results(coco_eval, iou_type, class_names)

    def _evaluate_nothing(self, iou_type: str) -> COCOeval:
        """Score an empty list of detections, which pycocotools refuses to load."""
        nothing = _indexed({**self._coco_api.dataset, "annotations": []})
        coco_eval = COCOeval(self._coco_api, nothing, iou_type)
        if self._img_ids is not None:
            coco_eval.params.imgIds = list(self._img_ids)
        with contextlib.redirect_stdout(io.StringIO()):
            coco_eval.evaluate()
            coco_eval.accumulate()
            coco_eval.summarize()
        return coco_eval


def _indexed(dataset: Mapping[str, Any]) -> COCO:
    """Index a COCO dictionary, without pycocotools' prints."""
    coco = COCO()
    coco.dataset = dict(dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco

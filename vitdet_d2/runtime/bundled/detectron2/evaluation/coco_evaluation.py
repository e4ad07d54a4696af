# SPDX-License-Identifier: Apache-2.0
"""COCO box and mask AP of a detector's outputs.

Shapes: N instances on an image of H x W pixels; boxes ``(N, 4)`` XYXY pixels, masks
``(N, H, W)`` boolean, scores ``(N,)``, classes ``(N,)`` contiguous from 0.

Source: Detectron2 ``evaluation/coco_evaluation.py``; the same numbers, keys and files. Beyond it,
ground truth and predictions are checked before pycocotools sees them.
"""

from __future__ import annotations

import copy
import itertools
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation.coco_scoring import (
    class_metrics,
    coco_from_dict,
    format_columns,
    main_metrics,
    score_results,
)
from detectron2.evaluation.evaluator import DatasetEvaluator
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from pycocotools.cocoeval import COCOeval

from vitdet_d2.checks import check_coco_results
from vitdet_d2.checks.evaluation_input import prepare_ground_truth, to_dataset_ids

TASKS = ("bbox", "segm")


class COCOEvaluator(DatasetEvaluator):
    """Average precision of boxes and masks by COCO's rules, in percent.

    A metric without ground truth (no object of that size, a class that does not occur) is NaN,
    shown as ``n/a``, and stands in no average.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        use_fast_impl: bool = True,  # noqa: ARG002  (pycocotools is the one path; see Args)
        kpt_oks_sigmas: Sequence[float] = (),
        allow_cached_coco: bool = True,
    ) -> None:
        """Read and check the ground truth of a registered data set.

        Args:
            dataset_name: its metadata names a ``json_file`` in COCO format; where it does not,
                the data set is written as one into ``output_dir``.
            tasks: of ``"bbox"``, ``"segm"``; None takes what the model predicts.
            distributed: gather the predictions of all processes into the main one.
            output_dir: where ``instances_predictions.pth`` and ``coco_instances_results.json``
                go; None writes nothing.
            max_dets_per_image: detections per image and class that count; None is COCO's 100.
            use_fast_impl: accepted and ignored: it names a compiled extension that promises the
                same numbers, and this runtime compiles nothing.
            kpt_oks_sigmas: must be empty, because keypoints are not part of this runtime.
            allow_cached_coco: whether a JSON written by an earlier conversion may be used.

        Raises:
            DataError: the ground truth cannot be evaluated against.
            TypeError: ``tasks`` is not a sequence of names.
            ValueError: an unknown task, keypoints, a data set that needs ``output_dir``, or a
                limit below 1.
        """
        self._logger = logging.getLogger(__name__)
        self._tasks = _checked_tasks(tasks)
        if len(kpt_oks_sigmas):
            raise ValueError(
                "kpt_oks_sigmas: keypoint evaluation is not part of the bundled detectron2; "
                "leave it empty, or install Detectron2"
            )
        if max_dets_per_image is not None and max_dets_per_image < 1:
            raise ValueError(
                f"max_dets_per_image: expected None or at least 1, got {max_dets_per_image}"
            )
        self._max_dets = 100 if max_dets_per_image is None else max_dets_per_image
        self._distributed = distributed
        self._output_dir = output_dir
        self._metadata = MetadataCatalog.get(dataset_name)
        dataset = self._read_dataset(_json_file(self._metadata, output_dir, allow_cached_coco))
        # Files of a test split have images, but no annotations: results are only written.
        self._do_evaluation = "annotations" in dataset
        self._coco_api = coco_from_dict(dataset)
        self._predictions: list[dict[str, Any]] = []
        self._results: dict[str, dict[str, float]] = {}
        self._has_masks = False

    def _read_dataset(self, json_file: str) -> dict[str, Any]:
        """Read, check and repair the ground truth."""
        with PathManager.open(json_file) as file:
            dataset = json.load(file)
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id")
        dataset, notes = prepare_ground_truth(dataset, mapping, self._metadata.name)
        for note in notes:
            self._logger.warning(f"{json_file}: {note}.")
        return dataset

    def reset(self) -> None:
        """Forget the predictions of an earlier round."""
        self._predictions = []
        self._has_masks = False

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take the detections of a batch, and keep them in COCO's result format.

        Args:
            inputs: each with its ``image_id``.
            outputs: each with ``instances``, whose fields are ``pred_boxes``, ``scores``,
                ``pred_classes`` and, for masks, ``pred_masks``.

        Raises:
            ValueError: an output without instances.
        """
        for given, output in zip(inputs, outputs, strict=True):
            if "instances" not in output:
                raise ValueError(
                    f"output of image {given['image_id']}: expected the key 'instances', got "
                    f"{sorted(output)}; box proposals alone are not evaluated by this runtime"
                )
            instances = output["instances"].to(torch.device("cpu"))
            self._has_masks |= instances.has("pred_masks")
            self._predictions.append(
                {
                    "image_id": given["image_id"],
                    "instances": instances_to_coco_json(instances, given["image_id"]),
                }
            )

    def evaluate(self, img_ids: Sequence[int] | None = None) -> dict[str, dict[str, float]]:
        """Score what was processed, on all processes together.

        Args:
            img_ids: the images to score; None takes the whole data set, in which an image that
                was never processed counts as one without detections.

        Returns:
            ``{"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-<class>", ...},
            "segm": {...}}`` in percent; empty outside the main process, and where nothing was
            processed.

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
            self._logger.warning(
                "COCOEvaluator has processed no image, so there is nothing to score; "
                "is the test data set empty?"
            )
            return {}
        self._warn_about_repeats(predictions)
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            path = os.path.join(self._output_dir, "instances_predictions.pth")
            with PathManager.open(path, "wb") as file:
                torch.save(predictions, file)
        self._results = {}
        self._eval_predictions(predictions, img_ids=img_ids)
        return copy.deepcopy(self._results)

    def _warn_about_repeats(self, predictions: list[dict[str, Any]]) -> None:
        ids = [prediction["image_id"] for prediction in predictions]
        repeated = len(ids) - len(set(ids))
        if repeated:
            self._logger.warning(
                f"{repeated} images were processed more than once; all of their detections "
                "count, which lowers AP. The sampler should show every image once"
            )

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: Sequence[int] | None = None
    ) -> None:
        """Write the results file, and fill ``self._results`` with the metrics of every task."""
        results = to_dataset_ids(
            list(itertools.chain.from_iterable(p["instances"] for p in predictions)),
            self._metadata.get("thing_dataset_id_to_contiguous_id"),
            self._metadata.name,
        )
        check_coco_results(results, set(self._coco_api.imgs), set(self._coco_api.cats))
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            self._logger.info(f"Saving results to {path}")
            with PathManager.open(path, "w") as file:
                json.dump(results, file)
        if not self._do_evaluation:
            self._logger.info(
                "The ground truth has no annotations; the results are written, not evaluated."
            )
            return
        if not results:
            self._logger.warning(
                f"The model has predicted nothing on {len(predictions)} images: AP is 0. Is the "
                "score threshold too high, or were the weights of the heads not loaded?"
            )
        for task in self._tasks or self._tasks_from_predictions(results):
            evaluation = score_results(
                self._coco_api, results, task, img_ids=img_ids, max_dets=self._max_dets
            )
            names = self._metadata.get("thing_classes")
            self._results[task] = self._derive_coco_results(evaluation, task, class_names=names)

    def _tasks_from_predictions(self, results: list[dict[str, Any]]) -> list[str]:
        """Boxes, and masks where the model has predicted any or would have."""
        has_masks = self._has_masks or any("segmentation" in result for result in results)
        return ["bbox", "segm"] if has_masks else ["bbox"]

    def _derive_coco_results(
        self, coco_eval: COCOeval, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Read the metrics out of an accumulated evaluation, and log them as tables."""
        metrics = main_metrics(coco_eval)
        table = format_columns(metrics, ("metric", "value"), columns=6)
        self._logger.info(f"Evaluation results for {iou_type}:\n{table}")
        # With one class, its AP is the AP.
        if class_names is not None and len(class_names) > 1:
            per_class = class_metrics(coco_eval, self._names_by_dataset_id(class_names))
            shown = {name.removeprefix("AP-"): value for name, value in per_class.items()}
            table = format_columns(shown, ("category", "AP"))
            self._logger.info(f"Per-category {iou_type} AP:\n{table}")
            metrics.update(per_class)
        if any(map(math.isnan, metrics.values())):
            self._logger.info("n/a: no ground truth for that metric; it counts in no average.")
        return metrics

    def _names_by_dataset_id(self, class_names: Sequence[str]) -> dict[int, str]:
        mapping: Mapping[int, int] | None = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if mapping is None:
            return dict(zip(sorted(self._coco_api.cats), class_names, strict=True))
        ordered = sorted(mapping, key=mapping.__getitem__)
        return dict(zip(ordered, class_names, strict=True))


def _checked_tasks(tasks: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the tasks in alphabetical order, each once; None where there are none.

    Raises:
        TypeError: not a sequence of names.
        ValueError: a task that is not evaluated here.
    """
    if tasks is None:
        return None
    if isinstance(tasks, (str, Mapping)) or not isinstance(tasks, Sequence):
        raise TypeError(
            f"tasks: expected a sequence of {TASKS} or None, got {type(tasks).__name__}; "
            "for example tasks=('bbox', 'segm')"
        )
    unknown = sorted(set(tasks) - set(TASKS))
    if unknown:
        raise ValueError(
            f"tasks: expected some of {TASKS}, got {unknown}; other tasks need an installed "
            "Detectron2"
        )
    return tuple(sorted(set(tasks))) or None


def _json_file(metadata: Any, output_dir: str | None, allow_cached: bool) -> str:
    """Find the ground truth of a data set, or write it as COCO JSON into ``output_dir``.

    Raises:
        ValueError: it must be written, and there is no folder for it.
    """
    json_file = metadata.get("json_file")
    if json_file is None:
        if output_dir is None:
            raise ValueError(
                f"output_dir: data set '{metadata.name}' has no COCO JSON, so that one must be "
                "written; give an output_dir"
            )
        json_file = os.path.join(output_dir, f"{metadata.name}_coco_format.json")
        convert_to_coco_json(metadata.name, json_file, allow_cached=allow_cached)
    return PathManager.get_local_path(json_file)


def encode_masks(masks: torch.Tensor) -> list[dict[str, Any]]:
    """Encode binary masks as COCO run lengths, whose ``counts`` is text that JSON can hold.

    Args:
        masks: ``(N, H, W)``, boolean or 0/1, on the CPU.

    Returns:
        N dictionaries ``{"size": [H, W], "counts": str}``.
    """
    height, width = masks.shape[1:]
    # pycocotools reads columns: H runs fastest. Turning whole masks around costs more than encoding
    # them, so only the box around each goes through one buffer: 2.1 times as fast as mask by mask
    # (100 masks of 800 x 1216), and no second copy of all masks.
    turned = np.zeros((width, height, 1), dtype=np.uint8)
    rles: list[dict[str, Any]] = []
    for mask in masks.numpy():
        rows, columns = _extent(mask.any(axis=1)), _extent(mask.any(axis=0))
        window = turned[columns, rows, 0]
        window[...] = mask[rows, columns].T
        rles.extend(mask_util.encode(turned.transpose(1, 0, 2)))
        window[...] = 0
    return [{"size": rle["size"], "counts": rle["counts"].decode("ascii")} for rle in rles]


def _extent(occupied: np.ndarray) -> slice:
    """Return the range from the first to the last true entry of a vector; empty without any."""
    where = np.flatnonzero(occupied)
    return slice(int(where[0]), int(where[-1]) + 1) if where.size else slice(0, 0)


def instances_to_coco_json(instances: Instances, img_id: int) -> list[dict[str, Any]]:
    """Write detections of one image in COCO's result format.

    Args:
        instances: on the CPU, with ``pred_boxes``, ``scores``, ``pred_classes`` and perhaps
            ``pred_masks``.
        img_id: the image's id in the data set.

    Returns:
        One dictionary per detection: ``image_id``, ``category_id`` (contiguous), ``bbox`` (XYWH),
        ``score``, and ``segmentation`` where there are masks.

    Raises:
        ValueError: the instances have keypoints, which this runtime does not evaluate.
    """
    if not len(instances):
        return []
    if instances.has("pred_keypoints"):
        raise ValueError(
            "pred_keypoints: the bundled detectron2 does not evaluate keypoints; remove the "
            "field, or install Detectron2"
        )
    boxes = BoxMode.convert(
        np.asarray(instances.pred_boxes.tensor), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS
    )
    rows = zip(
        boxes.tolist(), instances.scores.tolist(), instances.pred_classes.tolist(), strict=True
    )
    results = [
        {"image_id": img_id, "category_id": category, "bbox": box, "score": score}
        for box, score, category in rows
    ]
    if instances.has("pred_masks"):
        for result, rle in zip(results, encode_masks(instances.pred_masks), strict=True):
            result["segmentation"] = rle
    return results

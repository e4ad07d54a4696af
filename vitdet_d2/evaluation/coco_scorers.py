# SPDX-License-Identifier: Apache-2.0
"""The scorers that a COCO evaluation can choose from; all give the same numbers, to the bit."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pycocotools.mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from vitdet_d2.errors import UserError
from vitdet_d2.evaluation.coco_detections import Task
from vitdet_d2.evaluation.coco_scoring import CocoScores, score_coco, summary
from vitdet_d2.evaluation.coco_truth import CocoTruth

Results = Sequence[Mapping[str, Any]]


class Scores(Protocol):
    """What Detectron2 reads metrics from: the outcome of pycocotools' ``COCOeval``."""

    @property
    def params(self) -> Params:
        """What was evaluated."""

    @property
    def eval(self) -> Mapping[str, Any]:
        """The arrays ``precision``, ``recall`` and ``scores``."""

    @property
    def stats(self) -> Any:
        """COCO's summary, ``(12,)``."""


class Scorer(Protocol):
    """A function that scores checked results."""

    def __call__(
        self,
        coco: COCO,
        truth: CocoTruth,
        results: Results,
        task: Task,
        img_ids: Sequence[int] | None,
        limits: Sequence[int],
    ) -> Scores:
        """Score.

        Args:
            coco: the ground truth.
            truth: the same as arrays.
            results: checked detections in COCO's result format.
            task: what is compared.
            img_ids: the images to score; None takes all.
            limits: of detections per image and category, rising.
        """


def choose_scorer(name: bool | str) -> Scorer:
    """Return a scorer.

    Args:
        name: True for arrays, False for pycocotools, or "hotcoco".

    Raises:
        UserError: hotcoco is not installed.
        ValueError: an unknown name.
    """
    if name is True:
        return _score_arrays
    if name is False:
        return _score_with_pycocotools
    if name != "hotcoco":
        raise ValueError(f"use_fast_impl: expected True, False or 'hotcoco', got {name!r}")
    try:
        import hotcoco  # noqa: F401
    except ImportError as error:
        raise UserError(
            "use_fast_impl='hotcoco': the package is not installed: pip install "
            "'vitdet_d2[fast-eval]'; or leave the default, which needs none"
        ) from error
    return _score_with_hotcoco


def indexed(dataset: Mapping[str, Any]) -> COCO:
    """Index a COCO dictionary, without pycocotools' prints.

    Args:
        dataset: with ``annotations``, or without for a test set.
    """
    coco = COCO()
    coco.dataset = dict(dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _score_arrays(
    coco: COCO,  # noqa: ARG001
    truth: CocoTruth,
    results: Results,
    task: Task,
    img_ids: Sequence[int] | None,
    limits: Sequence[int],
) -> Scores:
    return score_coco(truth, results, task, img_ids=img_ids, max_detections=limits)


def _score_with_pycocotools(
    coco: COCO,
    truth: CocoTruth,  # noqa: ARG001
    results: Results,
    task: Task,
    img_ids: Sequence[int] | None,
    limits: Sequence[int],
) -> Scores:
    annotations = [_annotation(number, r, task) for number, r in enumerate(results, start=1)]
    # `COCO.loadRes` would refuse an empty list.
    found = indexed({**coco.dataset, "annotations": annotations})
    evaluation = COCOeval(coco, found, task)
    evaluation.params.maxDets = list(limits)
    if img_ids is not None:
        evaluation.params.imgIds = list(img_ids)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    # pycocotools' own summary knows three limits only, and the last of them as 100.
    stats = summary(evaluation.eval["precision"], evaluation.eval["recall"])
    return CocoScores(params=evaluation.params, eval=evaluation.eval, stats=stats)


def _annotation(number: int, result: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """Return a result as an annotation, whose area is that of what is compared."""
    if task == "bbox":
        area = result["bbox"][2] * result["bbox"][3]
        given = {"bbox": result["bbox"]}
    else:
        area = mask_util.area(result["segmentation"])
        given = {"segmentation": result["segmentation"]}
    ids = {key: result[key] for key in ("image_id", "category_id", "score")}
    return {**ids, **given, "area": area, "id": number, "iscrowd": 0}


def _score_with_hotcoco(
    coco: COCO,
    truth: CocoTruth,
    results: Results,
    task: Task,
    img_ids: Sequence[int] | None,
    limits: Sequence[int],
) -> Scores:
    import hotcoco

    if not results:
        return _score_arrays(coco, truth, results, task, img_ids, limits)
    keep = ("image_id", "category_id", "score", "bbox" if task == "bbox" else "segmentation")
    truths = hotcoco.COCO({key: coco.dataset[key] for key in _TRUTH_KEYS})
    found = truths.load_res([{key: result[key] for key in keep} for result in results])
    evaluation = hotcoco.COCOeval(truths, found, task)
    evaluation.params.max_dets = list(limits)
    if img_ids is not None:
        evaluation.params.img_ids = [int(i) for i in img_ids]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    outcome = evaluation.eval
    assert outcome is not None, "accumulated"
    params = Params(iouType=task)
    params.imgIds, params.catIds = list(evaluation.params.img_ids), list(evaluation.params.cat_ids)
    params.maxDets = list(limits)
    stats = summary(outcome["precision"], outcome["recall"])
    return CocoScores(params=params, eval=outcome, stats=stats)


_TRUTH_KEYS = ("images", "categories", "annotations")

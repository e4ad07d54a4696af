# SPDX-License-Identifier: Apache-2.0
"""The axis ``masks``: from 28 x 28 probabilities to run lengths of whole images."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances

from vitdet_d2.analysis.bench.case import Case, Evidence, Side, Subject
from vitdet_d2.analysis.bench.detections import raw_detections
from vitdet_d2.evaluation.detect import in_output_size, to_cpu
from vitdet_d2.evaluation.result_rows import instances_to_rows

_SIZE = (480, 640)  # of most images of COCO
_OUTPUT = {"height": _SIZE[0], "width": _SIZE[1]}
_NUM_IMAGES = 4


def masks(case: Case, side: Side) -> Subject:
    """Prepare a side to paste and encode the masks of some images.

    Args:
        case: its device.
        side: who does it.
    """
    found = [raw_detections(case.image_size, case.device, seed) for seed in range(_NUM_IMAGES)]

    def run() -> list[list[dict[str, Any]]]:
        return [coco_results(side, instances, number) for number, instances in enumerate(found)]

    return Subject(run=run, units=_NUM_IMAGES, evidence=lambda: _evidence(run()))


def coco_results(side: Side, instances: Any, number: int) -> list[dict[str, Any]]:
    """Return the detections of an image as an evaluator keeps them.

    Args:
        side: who does it.
        instances: of `raw_detections`; not changed.
        number: of the image.
    """
    if side == "ours":
        (given,) = to_cpu([instances])
        return instances_to_rows(in_output_size(given, _OUTPUT), number)
    # Post-processing scales the boxes that it is given.
    given = Instances(instances.image_size, **instances.get_fields())
    given.pred_boxes = instances.pred_boxes.clone()
    pasted = detector_postprocess(given, *_SIZE)
    return instances_to_coco_json(pasted.to(torch.device("cpu")), number)


def _evidence(images: list[list[dict[str, Any]]]) -> Evidence:
    """Return all strings of run lengths, as a fingerprint per image."""
    found: Evidence = {}
    for number, results in enumerate(images):
        counts = json.dumps([result["segmentation"]["counts"] for result in results])
        found[f"exact masks {number}"] = hashlib.sha256(counts.encode()).hexdigest()
    return found

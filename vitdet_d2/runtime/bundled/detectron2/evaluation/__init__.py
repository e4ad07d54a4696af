# SPDX-License-Identifier: Apache-2.0
"""Evaluation: the inference loop, COCO and LVIS metrics, and what prints and checks results."""

from __future__ import annotations

from typing import Any

from detectron2.evaluation import lvis_evaluation
from detectron2.evaluation.coco_evaluation import COCOEvaluator
from detectron2.evaluation.evaluator import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_context,
    inference_on_dataset,
)
from detectron2.evaluation.testing import print_csv_format, verify_results

from vitdet_d2.runtime.absent import absent_attribute

__all__ = [
    "COCOEvaluator",
    "DatasetEvaluator",
    "DatasetEvaluators",
    "LVISEvaluator",  # noqa: F822  (lazy)
    "inference_context",
    "inference_on_dataset",
    "print_csv_format",
    "verify_results",
]

_absent = absent_attribute(__name__)


def __getattr__(name: str) -> Any:
    if name in lvis_evaluation.__all__:
        return getattr(lvis_evaluation, name)
    return _absent(name)

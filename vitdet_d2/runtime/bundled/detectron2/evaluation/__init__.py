# SPDX-License-Identifier: Apache-2.0
"""Evaluation: the inference loop, COCO metrics, and what prints and checks results."""

from __future__ import annotations

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
    "inference_context",
    "inference_on_dataset",
    "print_csv_format",
    "verify_results",
]

__getattr__ = absent_attribute(__name__)

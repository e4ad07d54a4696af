# SPDX-License-Identifier: Apache-2.0
"""Evaluation that checks what it is given, readable reports, and pictures of predictions."""

from __future__ import annotations

from .coco_evaluator import COCOEvaluator
from .lvis_evaluator import LVISEvaluator
from .pictures import write_pictures
from .report import flatten_metrics, format_report, summary_line, write_report

__all__ = [
    "COCOEvaluator",
    "LVISEvaluator",
    "flatten_metrics",
    "format_report",
    "summary_line",
    "write_pictures",
    "write_report",
]

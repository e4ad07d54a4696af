# SPDX-License-Identifier: Apache-2.0
"""Validation of COCO-format annotation and result files, before any C code or GPU sees them."""

from .coco_json import check_coco_annotations
from .coco_report import CocoReport, Repair, ResultsReport
from .coco_results import check_coco_results
from .lvis_entries import LvisFacts

__all__ = [
    "CocoReport",
    "LvisFacts",
    "Repair",
    "ResultsReport",
    "check_coco_annotations",
    "check_coco_results",
]

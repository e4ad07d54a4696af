# SPDX-License-Identifier: Apache-2.0
"""``vitdet errors``: what kinds of errors a detector makes, and how much AP each costs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitdet_d2.engine.arguments import OneLineParser, parser_with_examples
from vitdet_d2.errors import RecipeError

if TYPE_CHECKING:
    from vitdet_d2.analysis import error_report

_DESCRIPTION = """\
Tell the errors of detections apart, and how much AP each kind costs (TIDE, arXiv 2008.08115).

dAP is the AP that would be won, were all errors of one kind repaired and all others left:
  classification   right place, wrong class
  localisation     right class, IoU between the two thresholds
  both             wrong class, IoU between the two thresholds
  duplicate        an object that a detection of better score has found
  background       no object there
  missed           an object that no correction of class or place would find
The six do not add up to what is lacking to 100: repairs help each other.
"""
_EPILOG = """\
examples:
  vitdet errors runs/vitdet_b datasets/coco/annotations/instances_val2017.json
  vitdet errors results.json val.json --iou-type segm --per-class --csv errors.csv --plot errors.png
"""


def main(argv: Sequence[str], prog: str) -> None:
    """Run ``vitdet errors``.

    Args:
        argv: without the program's name.
        prog: shown in messages.

    Raises:
        UserError: wrong usage, or files that cannot be analysed.
    """
    parsed = _parser(prog).parse_args(list(argv))
    _check_thresholds(parsed.positive_iou, parsed.background_iou)
    from vitdet_d2.analysis import error_report, text_files
    from vitdet_d2.analysis.plots import check_outputs

    check_outputs([parsed.csv], parsed.plot)
    report = _report(parsed)
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    if parsed.csv is not None:
        rows = error_report.as_rows(report)
        text_files.write_text(parsed.csv, text_files.csv_text(rows))
    if parsed.plot is not None:
        from vitdet_d2.analysis.error_plot import plot_errors

        plot_errors(report, parsed.plot)
    if parsed.json:
        print(json.dumps(error_report.as_json(report), indent=1, allow_nan=False))
    else:
        print(error_report.as_text(report))


def _parser(prog: str) -> OneLineParser:
    parser = parser_with_examples(prog, _DESCRIPTION, _EPILOG)
    add = parser.add_argument
    add(
        "predictions",
        metavar="PREDICTIONS",
        type=Path,
        help="detections in COCO's result format, or the run folder that holds them",
    )
    add("annotations", metavar="ANNOTATIONS", type=Path, help="COCO's or LVIS's JSON")
    add("--iou-type", choices=["bbox", "segm"], default="bbox", help="boxes (default) or masks")
    add(
        "--positive-iou",
        type=float,
        default=0.5,
        metavar="T",
        help="overlap with which a detection finds an object; default 0.5",
    )
    add(
        "--background-iou",
        type=float,
        default=0.1,
        metavar="T",
        help="overlap up to which a detection lies on background; default 0.1",
    )
    add(
        "--max-detections",
        type=int,
        metavar="N",
        help="best of an image, over all classes, that count; unset: 100, LVIS: 300",
    )
    add("--per-class", action="store_true", help="also AP and dAP class by class")
    add("--json", action="store_true", help="as JSON, in place of the table")
    add("--csv", type=Path, metavar="FILE", help="also as comma-separated values")
    add("--plot", type=Path, metavar="FILE", help="also as a picture: .png, .pdf or .svg")
    add("--debug", action="store_true", help="show tracebacks")
    return parser


def _check_thresholds(positive: float, background: float) -> None:
    """Refuse thresholds that leave no room between them.

    Raises:
        RecipeError: they do.
    """
    if not 0 < background < positive <= 1:
        raise RecipeError(
            "--background-iou, --positive-iou: expected 0 < background < positive <= 1, got "
            f"{background:g} and {positive:g}"
        )


def _report(parsed: argparse.Namespace) -> error_report.ErrorReport:
    """Read and analyse.

    Raises:
        RecipeError: wrong usage.
    """
    from vitdet_d2.analysis.error_report import ErrorReport
    from vitdet_d2.evaluation.tide import analyse_errors
    from vitdet_d2.evaluation.tide_input import load_tide_data, results_file

    if parsed.max_detections is not None and parsed.max_detections < 1:
        raise RecipeError(f"--max-detections: expected at least 1, got {parsed.max_detections}")
    data, notes = load_tide_data(
        parsed.predictions,
        parsed.annotations,
        parsed.iou_type,
        positive_iou=parsed.positive_iou,
        max_detections=parsed.max_detections,
    )
    analysis = analyse_errors(
        data, positive_iou=parsed.positive_iou, background_iou=parsed.background_iou
    )
    return ErrorReport(
        predictions=str(results_file(parsed.predictions)),
        annotations=str(parsed.annotations),
        task=parsed.iou_type,
        positive_iou=parsed.positive_iou,
        background_iou=parsed.background_iou,
        data=data,
        analysis=analysis,
        notes=notes,
        per_class=parsed.per_class,
    )

# SPDX-License-Identifier: Apache-2.0
"""An analysis of errors as a table, as JSON, and as rows of CSV; AP in percent throughout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitdet_d2.analysis.text_files import Cell
from vitdet_d2.engine.text_tables import aligned
from vitdet_d2.evaluation.tide import MAIN_ERRORS, SPECIAL_ERRORS, ErrorAnalysis
from vitdet_d2.evaluation.tide_data import Task, TideData

# What each kind is, in the words of the table; {low} and {high} are the two overlaps.
_MEANINGS = {
    "classification": "right place, wrong class",
    "localisation": "right class, wrong place: IoU {low:g} to {high:g}",
    "both": "wrong class and place: IoU {low:g} to {high:g}",
    "duplicate": "an object found already",
    "background": "no object: IoU up to {low:g}",
    "missed": "objects that no such correction would find",
    "false_positives": "all detections that are wrong",
    "false_negatives": "all objects that are not found",
}
_SHORT = {
    "classification": "cls", "localisation": "loc", "both": "both", "duplicate": "dupe",
    "background": "bkg", "missed": "miss", "false_positives": "FP", "false_negatives": "FN",
}  # fmt: skip
_NAMES = (*MAIN_ERRORS, *SPECIAL_ERRORS)


@dataclass(frozen=True, kw_only=True)
class ErrorReport:
    """An analysis with what it was made of.

    Attributes:
        predictions: file of the detections.
        annotations: file of the annotations.
        task: what was compared.
        positive_iou: overlap with which a detection finds an object.
        background_iou: overlap up to which a detection lies on background.
        data: detections and annotations.
        analysis: the outcome.
        notes: what a reader should know.
        per_class: whether classes are reported one by one.
    """

    predictions: str
    annotations: str
    task: Task
    positive_iou: float
    background_iou: float
    data: TideData
    analysis: ErrorAnalysis
    notes: Sequence[str]
    per_class: bool

    @property
    def title(self) -> str:
        """What AP it is, for example ``box AP50 38.1``."""
        kind = {"bbox": "box", "segm": "mask"}[self.task]
        return f"{kind} AP{100 * self.positive_iou:g} {self.analysis.ap:.2f}"


def as_text(report: ErrorReport) -> str:
    """Return the tables for a terminal.

    Args:
        report: what to show.
    """
    data, analysis = report.data, report.analysis
    excused = f", {analysis.num_excused} more excused" if analysis.num_excused else ""
    lines = [
        f"{report.predictions}: {report.title}",
        f"{data.num_images} images, {len(data.truth_classes)} objects, "
        f"{int(analysis.class_detections.sum())} detections{excused}",
        "",
    ]
    rows = [["error", "  dAP", " errors", ""]]
    for name, cost in analysis.costs.items():
        meaning = _MEANINGS[name].format(low=report.background_iou, high=report.positive_iou)
        title = name.replace("_", " ")
        rows.append([title, f"{cost.delta_ap:5.2f}", f"{cost.count:7d}", meaning])
    table = aligned(rows)
    lines += [*table[: len(MAIN_ERRORS) + 1], "", *table[len(MAIN_ERRORS) + 1 :]]
    if report.per_class:
        lines += ["", "dAP by class:", *_class_lines(report)]
    return "\n".join(lines)


def _class_lines(report: ErrorReport) -> list[str]:
    analysis = report.analysis
    rows = [["class", "objects", "    AP", *(f"{_SHORT[name]:>6}" for name in _NAMES)]]
    for k, name in enumerate(report.data.class_names):
        deltas = (analysis.costs[kind].class_delta_aps[k] for kind in _NAMES)
        values = (analysis.class_aps[k], *deltas)
        cells = ["   n/a" if math.isnan(value) else f"{value:6.2f}" for value in values]
        rows.append([name, f"{analysis.class_truths[k]:7d}", *cells])
    lines = aligned(rows)
    if any("n/a" in line for line in lines):
        lines.append("n/a: no objects of the class, or nothing of it left by the repair")
    return lines


def as_json(report: ErrorReport) -> dict[str, Any]:
    """Return everything as plain values; None where there is no AP.

    Args:
        report: what to show.
    """
    data, analysis = report.data, report.analysis
    content: dict[str, Any] = {
        "predictions": report.predictions,
        "annotations": report.annotations,
        "iou_type": report.task,
        "positive_iou": report.positive_iou,
        "background_iou": report.background_iou,
        "images": data.num_images,
        "objects": len(data.truth_classes),
        "detections": int(analysis.class_detections.sum()),
        "excused": analysis.num_excused,
        "AP": _or_none(analysis.ap),
        "errors": {
            name: {"dAP": cost.delta_ap, "count": cost.count}
            for name, cost in analysis.costs.items()
        },
        "notes": list(report.notes),
    }
    if report.per_class:
        content["classes"] = [
            {
                "id": int(data.category_ids[k]),
                "name": name,
                "objects": int(analysis.class_truths[k]),
                "detections": int(analysis.class_detections[k]),
                "AP": _or_none(analysis.class_aps[k]),
                "errors": {
                    kind: {
                        "dAP": _or_none(cost.class_delta_aps[k]),
                        "count": int(cost.class_counts[k]),
                    }
                    for kind, cost in analysis.costs.items()
                },
            }
            for k, name in enumerate(data.class_names)
        ]
    return content


def as_rows(report: ErrorReport) -> list[list[Cell]]:
    """Return titles and one row for all classes, then one for each if they are wanted.

    Args:
        report: what to show.
    """
    content = as_json(report)
    titles = [f"{kind}_{what}" for kind in _NAMES for what in ("dAP", "count")]
    rows: list[list[Cell]] = [["class_id", "class", "objects", "detections", "AP", *titles]]
    for entry in [{**content, "id": None, "name": "all"}, *content.get("classes", [])]:
        errors = [entry["errors"][kind][what] for kind in _NAMES for what in ("dAP", "count")]
        head = [entry[key] for key in ("id", "name", "objects", "detections", "AP")]
        rows.append([*head, *errors])
    return rows


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)

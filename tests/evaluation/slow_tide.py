# SPDX-License-Identifier: Apache-2.0
"""TIDE, written with loops from its definitions, for boxes in COCO's and LVIS's format.

Source: arXiv 2008.08115, sections 2.2 and 2.3; order of the kinds, shared repairs and excused
detections as docs/errors.md says.
"""

from __future__ import annotations

from typing import Any

KINDS = ("classification", "localisation", "both", "duplicate", "background")
Row = dict[str, Any]


def iou(a: list[float], b: list[float], crowd: bool = False) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    own = a[2] * a[3]
    return common / own if crowd else common / (own + b[2] * b[3] - common)


def average_precision(points: list[tuple[float, bool]], num_objects: int) -> float:
    """AP in percent of ``(score, right)`` in the order of the data set."""
    points = sorted(points, key=lambda point: -point[0])
    curve = []
    right = 0
    for rank, (_, is_right) in enumerate(points):
        right += is_right
        curve.append((right / num_objects, right / (rank + 1)))
    heights = []
    for i in range(101):
        reached = [precision for recall, precision in curve if recall >= i * 0.01]
        heights.append(max(reached, default=0.0))
    return 100 * sum(heights) / 101


class SlowTide:
    """Kinds and costs of the detections of a data set."""

    def __init__(
        self, dataset: Row, found: list[Row], positive: float = 0.5, background: float = 0.1
    ) -> None:
        self.objects = [dict(row) for row in dataset["annotations"] if not row.get("iscrowd")]
        self.found = []
        for image in sorted(dataset["images"], key=lambda image: image["id"]):
            mine = [dict(row) for row in found if row["image_id"] == image["id"]]
            mine = sorted(mine, key=lambda row: -row["score"])
            objects = [row for row in self.objects if row["image_id"] == image["id"]]
            crowds = [r for r in dataset["annotations"] if r["image_id"] == image["id"]]
            crowds = [row for row in crowds if row.get("iscrowd")]
            for row in mine:
                self._match(row, objects, positive)
            for row in mine:
                self._tell(row, objects, positive, background)
                row["excused"] = row["kind"] != "right" and any(
                    iou(row["bbox"], crowd["bbox"], crowd=True) >= positive
                    and crowd["category_id"] == row["category_id"]
                    for crowd in crowds
                )
                if "neg_category_ids" in image and row["kind"] != "right":
                    classes = {row["category_id"] for row in objects}
                    row["excused"] |= row["category_id"] not in {
                        *classes,
                        *image["neg_category_ids"],
                    }
                    row["excused"] |= row["category_id"] in image["not_exhaustive_category_ids"]
            for row in mine:
                target = row["target"]
                row["repairs"] = (
                    target is not None and not target["found"] and "claimed" not in target
                )
                if row["repairs"]:
                    target["claimed"] = True
                if row["excused"] and not row["repairs"]:
                    row["kind"] = "excused"
            self.found += mine
        self.classes = sorted({row["category_id"] for row in self.objects})

    def _match(self, row: Row, objects: list[Row], positive: float) -> None:
        best, best_iou = None, 0.0
        for candidate in objects:
            if candidate["category_id"] == row["category_id"] and not candidate.get("found"):
                overlap = iou(row["bbox"], candidate["bbox"])
                if overlap >= positive and overlap > best_iou:
                    best, best_iou = candidate, overlap
        row["right"] = best is not None
        if best is not None:
            best["found"] = True

    def _tell(self, row: Row, objects: list[Row], positive: float, background: float) -> None:
        same, other = (0.0, None), (0.0, None)
        for candidate in objects:
            candidate.setdefault("found", False)
            overlap = iou(row["bbox"], candidate["bbox"])
            if candidate["category_id"] == row["category_id"]:
                same = (overlap, candidate) if overlap > same[0] else same
            else:
                other = (overlap, candidate) if overlap > other[0] else other
        row["target"] = None
        if row["right"]:
            row["kind"] = "right"
        elif background <= same[0] <= positive:
            row["kind"], row["target"] = "localisation", same[1]
        elif other[0] >= positive:
            row["kind"], row["target"] = "classification", other[1]
        elif same[0] > positive:
            row["kind"] = "duplicate"
        elif max(same[0], other[0]) <= background:
            row["kind"] = "background"
        else:
            row["kind"] = "both"

    def counts(self) -> dict[str, int]:
        counts = {kind: sum(row["kind"] == kind for row in self.found) for kind in KINDS}
        counts["missed"] = len(self._missed())
        wrong = [row for row in self.found if not row["right"] and not row["excused"]]
        counts["false_positives"] = len(wrong)
        counts["false_negatives"] = sum(not row.get("found") for row in self.objects)
        return counts

    def _missed(self) -> list[Row]:
        return [r for r in self.objects if not r.get("found") and "claimed" not in r]

    def ap(self, repair: str = "") -> float:
        aps = []
        for category in self.classes:
            points = []
            for row in self.found:
                owner, right, counted = row["category_id"], row["right"], not row["excused"]
                if repair == "false_positives" and not right:
                    counted = False
                if repair == row["kind"]:
                    counted = right = row["repairs"]
                    owner = row["target"]["category_id"] if right else owner
                if counted and owner == category:
                    points.append((row["score"], right))
            lost = []
            if repair == "missed":
                lost = self._missed()
            elif repair == "false_negatives":
                lost = [row for row in self.objects if not row.get("found")]
            number = sum(row["category_id"] == category for row in self.objects)
            number -= sum(row["category_id"] == category for row in lost)
            if number:
                aps.append(average_precision(points, number))
            elif points:
                aps.append(0.0)
        return sum(aps) / len(aps) if aps else 100.0

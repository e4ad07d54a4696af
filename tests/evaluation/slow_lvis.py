# SPDX-License-Identifier: Apache-2.0
"""LVIS's rules once more, one comparison at a time, from the paper and nothing of the package.

Slow, and checked by hand in ``test_lvis_scoring.py``. Boxes are compared by their corners, masks
pixel by pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask as mask_util

THRESHOLDS = [0.5 + 0.05 * i for i in range(10)]
AREAS = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}


def evaluate(
    dataset: dict[str, Any], results: list[dict[str, Any]], task: str, limit: int
) -> dict[str, float]:
    """Return LVIS's metrics in percent; NaN where there is no annotation."""
    counted = _top(results, limit)
    ap: dict[tuple[str, int, str], list[float]] = {}
    ar: dict[str, list[float]] = {area: [] for area in AREAS}
    for category in dataset["categories"]:
        for area in AREAS:
            for number, threshold in enumerate(THRESHOLDS):
                found, num_truths = [], 0
                for image in sorted(dataset["images"], key=lambda image: image["id"]):
                    outcomes, truths = _judge(
                        dataset, image, category["id"], counted, task, area, threshold
                    )
                    found += outcomes
                    num_truths += truths
                if num_truths:
                    found.sort(key=lambda outcome: -outcome[0])  # stable: ties stay in order
                    precision, recall = _curve([o for _, o in found], num_truths)
                    ap[area, number, category["frequency"]] = [
                        *ap.get((area, number, category["frequency"]), []),
                        *precision,
                    ]
                    ar[area].append(recall)
    metrics = {"AP": _mean(ap, area=""), "AP50": _mean(ap, area="", number=0)}
    metrics["AP75"] = _mean(ap, area="", number=5)
    metrics.update({f"AP{area}": _mean(ap, area=area) for area in "sml"})
    metrics.update({f"AP{letter}": _mean(ap, area="", frequency=letter) for letter in "rcf"})
    for area, values in ar.items():
        metrics[f"AR{area}@{limit}"] = 100 * sum(values) / len(values) if values else np.nan
    return metrics


def _top(results: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    kept = []
    for image_id in {result["image_id"] for result in results}:
        own = [result for result in results if result["image_id"] == image_id]
        own.sort(key=lambda result: -result["score"])
        kept += own[:limit]
    return kept


def _judge(
    dataset: dict[str, Any],
    image: dict[str, Any],
    category: int,
    results: list[dict[str, Any]],
    task: str,
    area: str,
    threshold: float,
) -> tuple[list[tuple[float, str]], int]:
    """Return score and outcome of each detection, and how many annotations count."""
    low, high = AREAS[area]
    truths = [
        a
        for a in dataset["annotations"]
        if a["image_id"] == image["id"] and a["category_id"] == category and a["area"] > 0
    ]
    if not truths and category not in image["neg_category_ids"]:
        return [], 0
    own = [r for r in results if (r["image_id"], r["category_id"]) == (image["id"], category)]
    own = [r for r in own if _area(r, task) > 0]
    taken: set[int] = set()
    outcomes = []
    for result in sorted(own, key=lambda result: -result["score"]):
        best = None
        for inside in (True, False):  # one that counts goes before one that does not
            best_iou = threshold
            for number, truth in enumerate(truths):
                if number in taken or (low <= truth["area"] <= high) is not inside:
                    continue
                iou = _iou(result, truth, task)
                if iou >= best_iou:
                    best, best_iou = number, iou
            if best is not None:
                break
        if best is not None:
            taken.add(best)
            outcome = "right" if low <= truths[best]["area"] <= high else "ignored"
        elif category in image["not_exhaustive_category_ids"]:
            outcome = "ignored"
        else:
            outcome = "wrong" if low <= _area(result, task) <= high else "ignored"
        outcomes.append((result["score"], outcome))
    return outcomes, sum(low <= truth["area"] <= high for truth in truths)


def _curve(outcomes: list[str], num_truths: int) -> tuple[list[float], float]:
    """Return the best precision from each of 101 recalls on, and the recall that is reached."""
    points, right, wrong = [], 0, 0
    for outcome in outcomes:
        right += outcome == "right"
        wrong += outcome == "wrong"
        points.append((right / num_truths, right / max(right + wrong, 1)))
    precision = [
        max((p for recall, p in points if recall >= wanted / 100 - 1e-12), default=0.0)
        for wanted in range(101)
    ]
    return precision, right / num_truths


def _mean(
    ap: dict[tuple[str, int, str], list[float]],
    *,
    area: str,
    number: int | None = None,
    frequency: str | None = None,
) -> float:
    chosen = [
        value
        for (a, n, f), values in ap.items()
        if a == area and number in (None, n) and frequency in (None, f)
        for value in values
    ]
    return 100 * sum(chosen) / len(chosen) if chosen else np.nan


def _area(result: dict[str, Any], task: str) -> float:
    if task == "bbox":
        return result["bbox"][2] * result["bbox"][3]
    return float(mask_util.decode(result["segmentation"]).sum())


def _iou(result: dict[str, Any], truth: dict[str, Any], task: str) -> float:
    if task == "segm":
        height, width = result["segmentation"]["size"]
        one = mask_util.decode(result["segmentation"]).astype(bool)
        two = mask_util.decode(mask_util.frPyObjects(truth["segmentation"], height, width))
        two = two.any(axis=2)
        return float((one & two).sum() / (one | two).sum())
    x, y, width, height = result["bbox"]
    u, v, other_width, other_height = truth["bbox"]
    across = max(0, min(x + width, u + other_width) - max(x, u))
    down = max(0, min(y + height, v + other_height) - max(y, v))
    both = across * down
    return both / (width * height + other_width * other_height - both)

# SPDX-License-Identifier: Apache-2.0
"""Measure ``golden_tide.json`` on the authors' toolbox: tidecv 1.0.1 with its requirements.

    python -m tests.evaluation.make_golden_tide

tidecv counts excused detections (those in crowds) as errors; the goldens have its costs, and its
counts without them. It samples recall at ``i / 100``; COCO's evaluation, and with it this project,
at ``numpy.linspace(0, 1, 101)``, which differs in the last bit at some: `SEEDS` are such that no
recall lies between the two.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.evaluation.toy_tide import lvis_case, random_case, with_masks

SEEDS = (0, 1, 2, 3, 5, 6)
NAMES = {
    "Cls": "classification",
    "Loc": "localisation",
    "Both": "both",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}


def measure(seed: int, task: str, form: str) -> dict[str, Any]:
    from tidecv import TIDE, datasets

    if form == "coco":
        dataset, found = random_case(seed, crowds=True)
        found = with_masks(found)
    else:
        dataset, found = lvis_case(seed)
        for row in [*dataset["images"], *dataset["categories"]]:
            row |= {"coco_url": "", "synset": ""}  # its reader wants them
    read = datasets.COCO if form == "coco" else datasets.LVIS
    with tempfile.TemporaryDirectory() as folder:
        annotations, predictions = Path(folder, "a.json"), Path(folder, "p.json")
        annotations.write_text(json.dumps(dataset))
        predictions.write_text(json.dumps(found))
        run = TIDE().evaluate(
            read(str(annotations)),
            datasets.COCOResult(str(predictions)),
            mode=TIDE.BOX if task == "bbox" else TIDE.MASK,
        )
    costs = {NAMES[kind.short_name]: cost for kind, cost in run.fix_main_errors().items()}
    positives, negatives = run.fix_special_errors().values()
    counts = dict.fromkeys(NAMES.values(), 0)
    for error in run.errors:
        excused = hasattr(error, "pred") and error.pred["used"] is None
        fixed = getattr(error, "fixed", (None, None))[1]
        if not excused or fixed is not None:
            counts[NAMES[error.short_name]] += 1
    costs |= {"false_positives": positives, "false_negatives": negatives}
    case = {"format": form, "seed": seed, "task": task}
    return {**case, "AP": run.ap, "dAP": costs, "counts": counts}


if __name__ == "__main__":
    cases = [measure(seed, task, "coco") for task in ("bbox", "segm") for seed in SEEDS]
    cases += [measure(seed, task, "lvis") for task in ("bbox", "segm") for seed in (0, 1, 2)]
    golden = {"measured_on": "tidecv 1.0.1", "cases": cases}
    Path(__file__).with_name("golden_tide.json").write_text(json.dumps(golden, indent=1) + "\n")

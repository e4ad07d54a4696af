# SPDX-License-Identifier: Apache-2.0
"""Write ``golden_lvis.json``: LVIS's own evaluation of the toy data.

Run once, from the project's folder, with the package lvis 0.5.3 unpacked in a folder:

    PYTHONPATH=FOLDER python -m tests.evaluation.make_golden_lvis

The package asks for ``np.float``, which numpy 1.24 removed: here it is Python's ``float``, as then.
Its drawing part is left out, because it needs OpenCV.
"""

import vitdet_d2  # isort: skip  (decides which Detectron2 this process uses)

import contextlib
import copy
import io
import json
import sys
import tempfile
import types
from pathlib import Path

import numpy as np

from tests.evaluation import toy_lvis

assert vitdet_d2.__version__, "the package under test has no version"

TARGET = Path(__file__).with_name("golden_lvis.json")
SEEDS = range(8)
LIMITS = (300, 5)


def main() -> None:
    np.float = float
    sys.modules["lvis.vis"] = types.SimpleNamespace(LVISVis=None)
    from lvis import LVIS, LVISEval, LVISResults

    cases = []
    for seed in SEEDS:
        dataset = toy_lvis.ground_truth(seed)
        found = toy_lvis.results(dataset, seed)
        for task in ("bbox", "segm"):
            for limit in LIMITS:
                with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
                    json.dump(dataset, file)
                    file.flush()
                    truth = LVIS(file.name)
                rows = copy.deepcopy(found)
                if task == "segm":  # else the area of the box counts, says Detectron2
                    rows = [{k: v for k, v in row.items() if k != "bbox"} for row in rows]
                evaluation = LVISEval(truth, LVISResults(truth, rows, max_dets=limit), task)
                evaluation.params.max_dets = limit
                with contextlib.redirect_stdout(io.StringIO()):
                    evaluation.run()
                metrics = {
                    key: None if value < 0 else 100 * float(value)
                    for key, value in evaluation.get_results().items()
                }
                cases.append({"seed": seed, "task": task, "limit": limit, "metrics": metrics})
    made = {"lvis": "0.5.3", "numpy": np.__version__, "cases": cases}
    TARGET.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()

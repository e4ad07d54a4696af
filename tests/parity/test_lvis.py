# SPDX-License-Identifier: Apache-2.0
"""LVIS's records and numbers against Detectron2's own, which need the package lvis.

PYTHONPATH=DETECTRON2_CHECKOUT VITDET_D2_RUNTIME=installed pytest tests/parity/test_lvis.py
"""

from __future__ import annotations

import json
import math
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import detectron2.data
import numpy as np
import pytest
from detectron2.data import MetadataCatalog

import vitdet_d2
from tests.evaluation import toy_lvis
from vitdet_d2.checks import check_coco_annotations
from vitdet_d2.data.lvis import load_lvis_json, lvis_metadata
from vitdet_d2.evaluation import LVISEvaluator

RUNTIME = Path(vitdet_d2.__file__).parent / "runtime"

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(
        Path(detectron2.data.__file__).is_relative_to(RUNTIME) or find_spec("lvis") is None,
        reason="no Detectron2 with the package lvis is installed",
    ),
]


@pytest.fixture(autouse=True)
def _lvis_on_a_new_numpy(monkeypatch):
    """The package asks for a name that numpy has removed; its drawing part needs OpenCV."""
    monkeypatch.setattr(np, "float", float, raising=False)
    monkeypatch.setitem(sys.modules, "lvis.vis", types.SimpleNamespace(LVISVis=None))


def test_records(tmp_path):
    """Of ids without gaps, as Detectron2 assumes."""
    from detectron2.data.datasets.lvis import load_lvis_json as original

    dataset = toy_lvis.ground_truth(1)
    number = {category: i + 1 for i, category in enumerate(sorted(toy_lvis.CATEGORIES))}
    for category in dataset["categories"]:
        category["id"] = number[category["id"]]
    for annotation in dataset["annotations"]:
        annotation["category_id"] = number[annotation["category_id"]]
    for image in dataset["images"]:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[key] = [number[category] for category in image[key]]
    path = str(tmp_path / "toy.json")
    Path(path).write_text(json.dumps(dataset))
    theirs = original(path, "/data/coco/", None, ["area"])
    assert load_lvis_json(path, "/data/coco/", None, ["area"]) == theirs
    assert len(theirs) == 6


@pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning")
@pytest.mark.parametrize("seed", range(10, 14))
def test_evaluation(seed, tmp_path):
    from detectron2.evaluation.lvis_evaluation import LVISEvaluator as Original

    dataset = toy_lvis.ground_truth(seed, num_images=10)
    found = toy_lvis.results(dataset, seed, per_image=60)
    name = toy_lvis.register("toy_parity", tmp_path, dataset)
    MetadataCatalog.get(name).set(**lvis_metadata(check_coco_annotations(dataset)))
    results = []
    for kind in (Original, LVISEvaluator):
        evaluator = kind(name, distributed=False, max_dets_per_image=300)
        toy_lvis.feed(evaluator, dataset, found)
        results.append(evaluator.evaluate())
    theirs, ours = results
    assert theirs.keys() == ours.keys() == {"bbox", "segm"}
    for task, metrics in theirs.items():
        for key, value in metrics.items():
            if value < 0:  # theirs where there is no annotation
                assert math.isnan(ours[task][key]), (task, key)
            else:
                assert ours[task][key] == pytest.approx(value, abs=1e-9), (task, key)

# SPDX-License-Identifier: Apache-2.0
"""The LVIS evaluator from a model's output to numbers and files, in one process and in two."""

from __future__ import annotations

import json
import math
from pathlib import Path

import detectron2.evaluation.lvis_evaluation
import numpy as np
import pytest

import vitdet_d2
from tests.evaluation import toy_lvis
from vitdet_d2.errors import DataError
from vitdet_d2.evaluation import LVISEvaluator, format_report, summary_line

SEED = 1
GOLDEN = {
    (case["task"], case["limit"]): case["metrics"]
    for case in json.loads(Path(__file__).with_name("golden_lvis.json").read_text())["cases"]
    if case["seed"] == SEED
}
DATASET = toy_lvis.ground_truth(SEED)
FOUND = toy_lvis.results(DATASET, SEED)
MAIN = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")

assert vitdet_d2.__version__, "the package under test has no version"


@pytest.fixture
def name(tmp_path):
    return toy_lvis.register("toy_lvis", tmp_path, DATASET)


def _assert_golden(results, tasks=("bbox", "segm"), limit=300):
    assert list(results) == list(tasks)
    for task, metrics in results.items():
        expected = {k: math.nan if v is None else v for k, v in GOLDEN[task, limit].items()}
        assert tuple(metrics)[:9] == MAIN
        np.testing.assert_allclose(
            [metrics[key] for key in expected], list(expected.values()), rtol=0, atol=1e-9
        )


@pytest.mark.parametrize("limit", [None, 5])
def test_equals_the_package_lvis(name, limit):
    evaluator = LVISEvaluator(name, distributed=False, max_dets_per_image=limit)
    toy_lvis.feed(evaluator, DATASET, FOUND)
    results = evaluator.evaluate()
    _assert_golden(results, limit=limit or 300)
    assert repr(evaluator.results) == repr(results)


def test_detectron2_name_with_the_bundled_runtime():
    if vitdet_d2.runtime.current().name == "bundled":
        assert detectron2.evaluation.lvis_evaluation.LVISEvaluator is LVISEvaluator


def test_box_task_alone_and_a_second_round(name):
    evaluator = LVISEvaluator(name, ("bbox",), distributed=False)
    toy_lvis.feed(evaluator, DATASET, [])
    assert evaluator.evaluate()["bbox"]["AP"] == 0
    toy_lvis.feed(evaluator, DATASET, FOUND)
    _assert_golden(evaluator.evaluate(), ("bbox",))


def test_no_predictions_score_zero(name, caplog):
    evaluator = LVISEvaluator(name, distributed=False)
    toy_lvis.feed(evaluator, DATASET, [])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == results["segm"]["AP"] == 0
    assert "predicted nothing on 6 images" in caplog.text


def test_files(name, tmp_path):
    evaluator = LVISEvaluator(name, distributed=False, output_dir=str(tmp_path / "inference"))
    toy_lvis.feed(evaluator, DATASET, FOUND)
    results = evaluator.evaluate()
    written = json.loads((tmp_path / "inference/lvis_instances_results.json").read_text())
    order = [image["id"] for image in DATASET["images"]]
    expected = sorted(FOUND, key=lambda row: order.index(row["image_id"]))
    assert [r["category_id"] for r in written] == [r["category_id"] for r in expected]
    assert [r["score"] for r in written] == [r["score"] for r in expected]
    np.testing.assert_allclose(
        [r["bbox"] for r in written], [r["bbox"] for r in expected], atol=1e-9
    )
    assert [r["segmentation"] for r in written] == [r["segmentation"] for r in expected]
    classes = json.loads((tmp_path / "inference/lvis_class_ap.json").read_text())
    assert [row["id"] for row in classes] == sorted(toy_lvis.CATEGORIES)
    rare = [row["bbox"] for row in classes if row["frequency"] == "r" and row["bbox"] is not None]
    assert np.mean(rare) == pytest.approx(results["bbox"]["APr"])


def test_files_of_nothing(name, tmp_path):
    evaluator = LVISEvaluator(name, distributed=False, output_dir=str(tmp_path))
    toy_lvis.feed(evaluator, DATASET, [])
    evaluator.evaluate()
    assert json.loads((tmp_path / "lvis_instances_results.json").read_text()) == []


def test_a_test_set_has_results_only(tmp_path):
    dataset = {**DATASET, "annotations": []}
    name = toy_lvis.register("toy_lvis_test", tmp_path, dataset)
    evaluator = LVISEvaluator(name, distributed=False, output_dir=str(tmp_path))
    toy_lvis.feed(evaluator, dataset, FOUND)
    assert evaluator.evaluate() == {}
    assert len(json.loads((tmp_path / "lvis_instances_results.json").read_text())) == len(FOUND)


@pytest.mark.parametrize("field", ["pred_boxes", "scores"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_predictions_that_are_not_finite_are_refused(name, field, value):
    evaluator = LVISEvaluator(name, distributed=False)
    toy_lvis.feed(evaluator, DATASET, [])
    image = FOUND[0]["image_id"]
    output = toy_lvis.instances([FOUND[0]])
    values = output.pred_boxes.tensor if field == "pred_boxes" else output.scores[:, None]
    values[0, 0] = value
    evaluator.process([{"image_id": image}], [{"instances": output}])
    with pytest.raises(DataError, match=f"NaN or infinite, on 1 images: {image}"):
        evaluator.evaluate()


@pytest.mark.parametrize(
    ("image_id", "category", "message"),
    [(100, 6, r"predicted the classes \[6\].*has 6 classes"), (1, 0, r"images \[1\], which")],
)
def test_predictions_that_have_no_place_are_refused(name, image_id, category, message):
    evaluator = LVISEvaluator(name, distributed=False)
    evaluator.reset()
    output = toy_lvis.instances([FOUND[0]])
    output.pred_classes[0] = category
    evaluator.process([{"image_id": image_id}], [{"instances": output}])
    with pytest.raises(DataError, match=message):
        evaluator.evaluate()


def test_masks_that_are_missing_are_refused(tmp_path):
    dataset = toy_lvis.ground_truth(SEED)
    del dataset["annotations"][2]["segmentation"]
    name = toy_lvis.register("toy_lvis_bare", tmp_path, dataset)
    evaluator = LVISEvaluator(name, distributed=False)
    toy_lvis.feed(evaluator, dataset, FOUND)
    with pytest.raises(DataError, match=r"annotation ids \[3\].*tasks=\('bbox',\)"):
        evaluator.evaluate()
    evaluator = LVISEvaluator(toy_lvis.register("toy_lvis", tmp_path, DATASET), ("segm",), False)
    output = toy_lvis.instances([FOUND[0]])
    output.remove("pred_masks")
    image = FOUND[0]["image_id"]
    evaluator.process([{"image_id": image}], [{"instances": output}])
    with pytest.raises(DataError, match=rf"images \[{image}\] have none"):
        evaluator.evaluate()


def test_wrong_arguments_and_files_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="tasks: expected some of"):
        LVISEvaluator(name, ("keypoints",))
    with pytest.raises(ValueError, match="max_dets_per_image"):
        LVISEvaluator(name, max_dets_per_image=0)
    with pytest.raises(ValueError, match="expected the key 'instances'"):
        LVISEvaluator(name).process([{"image_id": 100}], [{"proposals": None}])
    dataset = toy_lvis.ground_truth(SEED)
    for image in dataset["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
        image["file_name"] = "x.jpg"
    for category in dataset["categories"]:
        del category["frequency"]
    coco = toy_lvis.register("toy_coco_format", tmp_path, dataset)
    with pytest.raises(DataError, match="is not in LVIS's format"):
        LVISEvaluator(coco)


def test_images_without_negatives_are_warned_of(tmp_path, caplog):
    dataset = toy_lvis.ground_truth(SEED)
    for image in dataset["images"]:
        image["neg_category_ids"] = []
    LVISEvaluator(toy_lvis.register("toy_lvis_positive", tmp_path, dataset), distributed=False)
    assert "no image has 'neg_category_ids'" in caplog.text


def test_the_report_shows_frequencies(name):
    evaluator = LVISEvaluator(name, distributed=False)
    toy_lvis.feed(evaluator, DATASET, FOUND)
    results = evaluator.evaluate()
    head, boxes, masks, more, *_ = format_report(results).splitlines()
    assert head.split() == list(MAIN)
    assert boxes.split()[:2] == ["box", "AP"]
    assert boxes.split()[-1] == f"{results['bbox']['APf']:.1f}"
    assert masks.split()[-3] == f"{results['segm']['APr']:.1f}"
    assert more.split() == ["AR@300", "ARs@300", "ARm@300", "ARl@300"]
    assert summary_line(results).startswith(f"box AP {results['bbox']['AP']:.1f}")

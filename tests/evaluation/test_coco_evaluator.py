# SPDX-License-Identifier: Apache-2.0
"""Our evaluator, on whichever runtime is active: checked input, outcome in memory."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from detectron2.data import MetadataCatalog

from tests.evaluation import toy_coco
from vitdet_d2.evaluation import COCOEvaluator

# Measured with COCOEvaluator(use_fast_impl=False) of Detectron2 02b5c4e and pycocotools 2.0.11.
GOLDEN = {
    "bbox": {
        "AP": 44.038125241095536,
        "AP50": 64.49369936993699,
        "AP75": 49.223779520809224,
        "APs": 50.164191419141915,
        "APm": 40.9075907590759,
        "APl": 99.99999999999997,
        "AP-square": 35.01414427157001,
        "AP-bar": 53.062106210621074,
        "AP-ghost": math.nan,
    },
    "segm": {
        "AP": 22.595495263812097,
        "AP50": 53.21069606960695,
        "AP75": 4.207920792079208,
        "APs": 20.16364136413642,
        "APm": 25.709570957095707,
        "APl": 49.99999999999999,
        "AP-square": 17.003771805752006,
        "AP-bar": 28.18721872187219,
        "AP-ghost": math.nan,
    },
}


@pytest.fixture
def name(tmp_path, request) -> str:
    return toy_coco.register(f"ours_{request.node.name}".replace("/", "_"), tmp_path)


def _assert_golden(results) -> None:
    assert list(results) == ["bbox", "segm"]
    for task, expected in GOLDEN.items():
        assert list(results[task]) == list(expected)
        # Only the order of summation may differ.
        assert dict(results[task]) == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_metrics_match_detectron2_and_stay_in_memory(name):
    evaluator = COCOEvaluator(name, distributed=False)
    toy_coco.feed(evaluator)
    results = evaluator.evaluate()
    _assert_golden(results)
    _assert_golden(evaluator.results)
    assert len(evaluator.coco_results) == 22
    assert {r["category_id"] for r in evaluator.coco_results} == set(toy_coco.CLASS_IDS)
    results["bbox"].clear()
    _assert_golden(evaluator.results)
    evaluator.reset()
    assert not evaluator.results
    assert not evaluator.coco_results


def test_no_predictions_score_zero_for_every_task(name, caplog):
    evaluator = COCOEvaluator(name, distributed=False)
    evaluator.reset()
    nothing = toy_coco.detections(0)[:0]
    for image_id in toy_coco.IMAGE_IDS:
        evaluator.process([{"image_id": image_id}], [{"instances": nothing}])
    results = evaluator.evaluate()
    assert list(results) == ["bbox", "segm"]
    for task, metrics in GOLDEN.items():
        expected = {key: 0.0 if math.isfinite(value) else value for key, value in metrics.items()}
        assert dict(results[task]) == pytest.approx(expected, nan_ok=True)
    assert "score threshold" in caplog.text


@pytest.mark.parametrize("change", ["no iscrowd", "ids from 0", "equal ids", "unused root"])
def test_ground_truth_is_repaired(change, tmp_path):
    dataset = toy_coco.ground_truth()
    for number, annotation in enumerate(dataset["annotations"]):
        if change == "no iscrowd" and not annotation["iscrowd"]:
            del annotation["iscrowd"]
        elif change == "ids from 0":
            annotation["id"] = number
        elif change == "equal ids":
            annotation["id"] = 5
    if change == "unused root":
        dataset["categories"].insert(0, {"id": 0, "name": "root", "supercategory": "none"})
    name = toy_coco.register("ours_" + change.replace(" ", "_"), tmp_path, dataset)
    evaluator = COCOEvaluator(name, distributed=False)
    toy_coco.feed(evaluator)
    _assert_golden(evaluator.evaluate())


@pytest.mark.parametrize("field", ["pred_boxes", "scores"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_predictions_that_are_not_finite_are_refused(name, field, value):
    evaluator = COCOEvaluator(name, distributed=False)
    toy_coco.feed(evaluator, images=(0, 2, 3))
    found = toy_coco.detections(1)
    values = found.pred_boxes.tensor if field == "pred_boxes" else found.scores[:, None]
    values[1, 0] = value
    evaluator.process([{"image_id": 12}], [{"instances": found}])
    with pytest.raises(ValueError, match="NaN or infinite, on 1 images: 12"):
        evaluator.evaluate()


def test_a_class_outside_of_the_data_set_is_refused(name):
    evaluator = COCOEvaluator(name, distributed=False)
    toy_coco.feed(evaluator)
    found = toy_coco.detections(0)
    found.pred_classes[0] = 3
    evaluator.process([{"image_id": 11}], [{"instances": found}])
    with pytest.raises(ValueError, match=r"predicted the classes \[3\].*has 3 classes"):
        evaluator.evaluate()


def test_masks_against_ground_truth_without_them_are_refused(tmp_path):
    dataset = toy_coco.ground_truth()
    del dataset["annotations"][1]["segmentation"]
    name = toy_coco.register("ours_boxes_only", tmp_path, dataset)
    evaluator = COCOEvaluator(name, distributed=False)
    toy_coco.feed(evaluator)
    with pytest.raises(ValueError, match=r"annotation ids \[2\].*tasks=\('bbox',\)"):
        evaluator.evaluate()


def test_ground_truth_that_cannot_be_evaluated_is_refused_before_any_work(tmp_path):
    dataset = toy_coco.ground_truth()
    dataset["annotations"][2]["category_id"] = 333
    name = toy_coco.register("ours_unknown_category", tmp_path, dataset)
    with pytest.raises(ValueError, match="333"):
        COCOEvaluator(name, distributed=False)
    MetadataCatalog.pop(name)


def test_files_are_written(name, tmp_path):
    evaluator = COCOEvaluator(name, distributed=False, output_dir=str(tmp_path / "inference"))
    toy_coco.feed(evaluator)
    evaluator.evaluate()
    written = sorted(path.name for path in (tmp_path / "inference").iterdir())
    assert written == ["coco_instances_results.json", "instances_predictions.pth"]


def _evaluate_share(rank: int, rendezvous: str, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2
    )
    name = toy_coco.register(f"ours_rank_{rank}", Path(folder))
    evaluator = COCOEvaluator(name)
    toy_coco.feed(evaluator, images=((0, 1), (2, 3))[rank])
    results = evaluator.evaluate()
    Path(folder, f"results_{rank}.json").write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_same_metrics(tmp_path):
    arguments = (str(tmp_path / "rendezvous"), str(tmp_path))
    mp.start_processes(_evaluate_share, args=arguments, nprocs=2, start_method="spawn")
    results = json.loads((tmp_path / "results_0.json").read_text())
    _assert_golden(results)
    assert json.loads((tmp_path / "results_1.json").read_text()) == {}, "only rank 0 reports"

# SPDX-License-Identifier: Apache-2.0
"""COCO evaluation: goldens of the original, run lengths, files, bad input.

Two processes: tests/evaluation/test_coco_evaluator.py.
"""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import encode_masks, instances_to_coco_json
from detectron2.evaluation.coco_scoring import format_columns
from detectron2.structures import Boxes, Instances

from tests.evaluation import toy_coco

# Measured with COCOEvaluator(use_fast_impl=False) of Detectron2 02b5c4e and pycocotools 2.0.11 on
# tests/evaluation/toy_coco.py.
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
GOLDEN_TWO_IMAGES = {  # the same with evaluate(img_ids=[11, 15])
    "AP": 41.507425742574256,
    "AP50": 61.386138613861384,
    "AP75": 35.396039603960396,
    "APs": 34.45544554455445,
    "APm": 45.44554455445544,
    "APl": 99.99999999999997,
    "AP-square": 37.56930693069307,
    "AP-bar": 45.44554455445544,
    "AP-ghost": math.nan,
}
GOLDEN_RESULT = {  # the third entry of coco_instances_results.json
    "image_id": 11,
    "category_id": 3,
    "bbox": [89.75, 12.25, 25.125, 30.75],
    "score": 0.574999988079071,
    "segmentation": {
        "size": [160, 200],
        "counts": "\\R>k0U400000000000000000000000000000000000000000dg=",
    },
}


@pytest.fixture
def name(tmp_path, request) -> str:
    return toy_coco.register(f"toy_{request.node.name}".replace("/", "_"), tmp_path)


def _close(actual, expected) -> None:
    assert list(actual) == list(expected), "keys or their order"
    # Only the order of summation may differ.
    assert actual == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_metrics_match_detectron2(name):
    evaluator = COCOEvaluator(name, distributed=False)
    toy_coco.feed(evaluator)
    results = evaluator.evaluate()
    assert list(results) == ["bbox", "segm"]
    for task, expected in GOLDEN.items():
        _close(results[task], expected)
    _close(evaluator.evaluate(img_ids=[11, 15])["bbox"], GOLDEN_TWO_IMAGES)


def test_files_match_detectron2(name, tmp_path):
    evaluator = COCOEvaluator(name, distributed=False, output_dir=str(tmp_path / "new" / "out"))
    toy_coco.feed(evaluator)
    evaluator.evaluate()
    written = json.loads((tmp_path / "new/out/coco_instances_results.json").read_text())
    assert len(written) == 22
    assert written[2] == GOLDEN_RESULT
    path = tmp_path / "new/out/instances_predictions.pth"
    predictions = torch.load(path, weights_only=True)
    assert [p["image_id"] for p in predictions] == list(toy_coco.IMAGE_IDS)
    assert predictions[0]["instances"][2] == {**GOLDEN_RESULT, "category_id": 0}


def test_the_order_of_images_does_not_matter(name):
    evaluator = COCOEvaluator(name, distributed=False)
    toy_coco.feed(evaluator, images=(3, 1, 0, 2))
    for task, metrics in evaluator.evaluate().items():
        _close(metrics, GOLDEN[task])


def test_boxes_alone_and_chosen_tasks(name):
    evaluator = COCOEvaluator(name, distributed=False)
    toy_coco.feed(evaluator, with_masks=False)
    assert list(evaluator.evaluate()) == ["bbox"]
    evaluator = COCOEvaluator(name, tasks=["segm"], distributed=False)
    toy_coco.feed(evaluator)
    assert list(evaluator.evaluate()) == ["segm"]


def test_an_image_never_processed_counts_as_missed(name):
    evaluator = COCOEvaluator(name, distributed=False)
    toy_coco.feed(evaluator, images=(0, 1, 2))
    assert evaluator.evaluate()["bbox"]["AP"] < GOLDEN["bbox"]["AP"]


@pytest.mark.parametrize("limit", [1, 5, 10, 100])
def test_limit_on_detections(name, limit):
    """A limit per image and class keeps the best scores: equal to dropping the rest by hand."""
    limited = COCOEvaluator(name, distributed=False, max_dets_per_image=limit)
    toy_coco.feed(limited)
    by_hand = COCOEvaluator(name, distributed=False)
    by_hand.reset()
    for image, image_id in enumerate(toy_coco.IMAGE_IDS):
        found = toy_coco.detections(image)
        found = found[found.scores.argsort(descending=True, stable=True)]
        kept = [
            i
            for i, c in enumerate(found.pred_classes.tolist())
            if (found.pred_classes[:i] == c).sum() < limit
        ]
        by_hand.process([{"image_id": image_id}], [{"instances": found[kept]}])
    expected = by_hand.evaluate()
    for task, metrics in limited.evaluate().items():
        _close(metrics, expected[task])
    if limit == 1:
        assert expected["bbox"]["AP"] < GOLDEN["bbox"]["AP"], "the limit cuts nothing off"


def test_no_predictions_score_zero_with_a_hint(name, caplog):
    evaluator = COCOEvaluator(name, distributed=False)
    evaluator.reset()
    for image, image_id in enumerate(toy_coco.IMAGE_IDS):
        evaluator.process([{"image_id": image_id}], [{"instances": toy_coco.detections(image)[:0]}])
    results = evaluator.evaluate()
    assert "score threshold" in caplog.text
    for task, metrics in GOLDEN.items():
        expected = {key: 0.0 if math.isfinite(value) else value for key, value in metrics.items()}
        _close(results[task], expected)


def test_more_masks_than_pycocotools_takes_at_once(name):
    evaluator = COCOEvaluator(name, distributed=False)
    toy_coco.feed(evaluator)
    low = Instances.cat([toy_coco.detections(0)] * 60)
    low.scores = low.scores / 100
    evaluator.process([{"image_id": 11}], [{"instances": low}])
    # Copies below every other score can only be found after all objects that they could match.
    assert evaluator.evaluate()["segm"]["AP"] == pytest.approx(GOLDEN["segm"]["AP"])


def test_no_images_give_no_results(name, caplog):
    evaluator = COCOEvaluator(name, distributed=False)
    evaluator.reset()
    assert evaluator.evaluate() == {}
    assert "has processed no image" in caplog.text


def test_class_without_ground_truth_is_shown_as_not_available(name, caplog):
    evaluator = COCOEvaluator(name, distributed=False)
    toy_coco.feed(evaluator)
    with caplog.at_level(logging.INFO):
        metrics = evaluator.evaluate()["bbox"]
    assert metrics["AP"] == pytest.approx((metrics["AP-square"] + metrics["AP-bar"]) / 2)
    assert "| ghost" in caplog.text
    assert "| n/a" in caplog.text


def test_a_single_class_has_no_per_class_metrics(tmp_path):
    dataset = toy_coco.ground_truth()
    dataset["categories"] = dataset["categories"][:1]
    dataset["annotations"] = [a for a in dataset["annotations"] if a["category_id"] == 3]
    name = toy_coco.register("toy_single_class", tmp_path, dataset)
    MetadataCatalog.pop(name)
    MetadataCatalog.get(name).set(
        json_file=str(tmp_path / f"{name}.json"),
        thing_classes=["square"],
        thing_dataset_id_to_contiguous_id={3: 0},
    )
    evaluator = COCOEvaluator(name, distributed=False)
    evaluator.reset()
    found = toy_coco.detections(0)
    found = found[found.pred_classes == 0]
    evaluator.process([{"image_id": 11}], [{"instances": found}])
    assert list(evaluator.evaluate()["bbox"]) == ["AP", "AP50", "AP75", "APs", "APm", "APl"]


def test_an_image_twice_is_reported(name, caplog):
    evaluator = COCOEvaluator(name, distributed=False)
    toy_coco.feed(evaluator, images=(0, 1, 2, 3, 3))
    evaluator.evaluate()
    assert "1 images were processed more than once" in caplog.text


# ---- ground truth that pycocotools would score wrongly or not at all


def _without(key):
    def change(dataset):
        for annotation in dataset["annotations"]:
            if not (key == "iscrowd" and annotation["iscrowd"]):
                del annotation[key]

    return change


def _ids_from_zero(dataset):
    for number, annotation in enumerate(dataset["annotations"]):
        annotation["id"] = number


def _equal_ids(dataset):
    for annotation in dataset["annotations"]:
        annotation["id"] = 5


def _unused_root(dataset):
    dataset["categories"].insert(0, {"id": 0, "name": "root", "supercategory": "none"})


@pytest.mark.parametrize(
    "change", [_without("iscrowd"), _without("area"), _ids_from_zero, _equal_ids, _unused_root]
)
def test_repaired_ground_truth_gives_the_same_numbers(change, tmp_path, request):
    dataset = toy_coco.ground_truth()
    change(dataset)
    name = toy_coco.register(f"toy_{abs(hash(request.node.name))}", tmp_path, dataset)
    evaluator = COCOEvaluator(name, distributed=False)
    toy_coco.feed(evaluator)
    for task, metrics in evaluator.evaluate().items():
        _close(metrics, GOLDEN[task])


def test_masks_against_ground_truth_without_them_are_refused(tmp_path):
    dataset = toy_coco.ground_truth()
    del dataset["annotations"][1]["segmentation"]
    name = toy_coco.register("toy_boxes_only", tmp_path, dataset)
    evaluator = COCOEvaluator(name, distributed=False)
    toy_coco.feed(evaluator)
    with pytest.raises(ValueError, match=r"1 have none \(annotation ids \[2\]\).*tasks="):
        evaluator.evaluate()
    assert evaluator.evaluate(img_ids=[15, 40])["segm"]["AP"] > 0, "those images have all masks"
    evaluator = COCOEvaluator(name, tasks=("bbox",), distributed=False)
    toy_coco.feed(evaluator)
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(GOLDEN["bbox"]["AP"])


def test_without_annotations_results_are_only_written(tmp_path, caplog):
    dataset = toy_coco.ground_truth()
    del dataset["annotations"]
    name = toy_coco.register("toy_test_split", tmp_path, dataset)
    evaluator = COCOEvaluator(name, distributed=False, output_dir=str(tmp_path))
    toy_coco.feed(evaluator)
    with caplog.at_level(logging.INFO):
        assert evaluator.evaluate() == {}
    assert "no annotations" in caplog.text
    assert len(json.loads((tmp_path / "coco_instances_results.json").read_text())) == 22


def test_annotations_of_a_class_unknown_to_the_registration_are_refused(tmp_path):
    dataset = toy_coco.ground_truth()
    dataset["categories"].append({"id": 21, "name": "late"})
    dataset["annotations"][0]["category_id"] = 21
    name = toy_coco.register("toy_late_class", tmp_path, dataset)
    with pytest.raises(ValueError, match=r"category ids \[21\], without which it was registered"):
        COCOEvaluator(name, distributed=False)


# ---- predictions that must not be scored


@pytest.mark.parametrize("field", ["pred_boxes", "scores"])
def test_predictions_that_are_not_finite_are_refused(name, field):
    evaluator = COCOEvaluator(name, distributed=False)
    toy_coco.feed(evaluator)
    found = toy_coco.detections(1)
    values = found.pred_boxes.tensor if field == "pred_boxes" else found.scores[:, None]
    values[1, 0] = math.nan
    evaluator.process([{"image_id": 12}], [{"instances": found}])
    with pytest.raises(ValueError, match=r"NaN or infinite, on 1 images: 12"):
        evaluator.evaluate()


def test_a_class_outside_of_the_data_set_is_refused(name):
    evaluator = COCOEvaluator(name, distributed=False)
    toy_coco.feed(evaluator)
    found = toy_coco.detections(0)
    found.pred_classes[0] = 3
    evaluator.process([{"image_id": 11}], [{"instances": found}])
    with pytest.raises(
        ValueError, match=r"predicted the classes \[3\].*has 3 classes.*num_classes"
    ):
        evaluator.evaluate()


def test_an_image_outside_of_the_data_set_is_refused(name):
    evaluator = COCOEvaluator(name, distributed=False)
    toy_coco.feed(evaluator)
    evaluator.process([{"image_id": 99}], [{"instances": toy_coco.detections(0)}])
    with pytest.raises(ValueError, match="image_id 99"):
        evaluator.evaluate()


def test_proposals_alone_are_refused(name):
    evaluator = COCOEvaluator(name, distributed=False)
    with pytest.raises(ValueError, match=r"expected the key 'instances', got \['proposals'\]"):
        evaluator.process([{"image_id": 11}], [{"proposals": toy_coco.detections(0)}])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tasks": "bbox"}, TypeError, "expected a sequence"),
        ({"tasks": {"bbox": 1}}, TypeError, "expected a sequence"),
        ({"tasks": ("bbox", "keypoints")}, ValueError, r"got \['keypoints'\]"),
        ({"kpt_oks_sigmas": (0.1,)}, ValueError, "keypoint evaluation is not part"),
        ({"max_dets_per_image": 0}, ValueError, "at least 1, got 0"),
    ],
)
def test_arguments_are_checked(name, arguments, error, message):
    with pytest.raises(error, match=message):
        COCOEvaluator(name, distributed=False, **arguments)


def test_a_data_set_without_json_needs_a_folder():
    MetadataCatalog.get("toy_without_json").set(thing_classes=["a"])
    with pytest.raises(
        ValueError, match="output_dir: data set 'toy_without_json' has no COCO JSON"
    ):
        COCOEvaluator("toy_without_json", distributed=False)


# ---- run lengths


def _masks() -> torch.Tensor:
    height, width = 13, 21
    ys, xs = torch.arange(height)[:, None], torch.arange(width)[None]
    disk = (ys - 6) ** 2 + (xs - 9) ** 2 <= 25
    checks = (ys + xs) % 2 == 0
    corners = ((ys == 0) | (ys == height - 1)) & ((xs == 0) | (xs == width - 1))
    empty = torch.zeros(height, width, dtype=torch.bool)
    return torch.stack([disk, checks, corners, empty, ~empty])


def _one_by_one(masks: torch.Tensor) -> list[dict]:
    rles = []
    for mask in masks.numpy():
        rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
        rles.append({"size": rle["size"], "counts": rle["counts"].decode("ascii")})
    return rles


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_run_lengths_equal_those_of_single_masks(dtype):
    masks = _masks()
    assert encode_masks(masks.to(dtype)) == _one_by_one(masks)


def test_run_lengths_of_views_and_of_nothing():
    masks = _masks()
    turned = masks.transpose(1, 2)
    assert encode_masks(turned) == _one_by_one(turned)
    assert encode_masks(masks[::2]) == _one_by_one(masks[::2])
    assert encode_masks(masks[:0]) == []


# pycocotools 2.0.11 is not yet written for the copy keyword of numpy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_run_lengths_decode_to_the_mask():
    for mask, rle in zip(_masks(), encode_masks(_masks()), strict=True):
        assert (mask_util.decode(rle) == mask.numpy()).all()


def test_instances_to_json_of_nothing_and_of_boxes():
    found = Instances((10, 10), pred_boxes=Boxes(torch.tensor([[1.0, 2.0, 4.0, 8.0]])))
    found.scores, found.pred_classes = torch.tensor([0.5]), torch.tensor([2])
    assert instances_to_coco_json(found[:0], 7) == []
    assert instances_to_coco_json(found, 7) == [
        {"image_id": 7, "category_id": 2, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.5}
    ]
    found.pred_keypoints = torch.zeros(1, 1, 3)
    with pytest.raises(ValueError, match="does not evaluate keypoints"):
        instances_to_coco_json(found, 7)


def test_tables_align_and_show_missing_values():
    table = format_columns({"a": 1.0, "long": math.nan, "b": 22.5}, ("class", "AP"), columns=2)
    assert table.split("\n") == [
        "| class | AP     | class | AP     |",
        "|:------|:-------|:------|:-------|",
        "| a     | 1.000  | long  | n/a    |",
        "| b     | 22.500 |       |        |",
    ]

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from detectron2.layers import CycleBatchNormList, ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, RetinaNet
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7
from detectron2.modeling.meta_arch.dense_detector import DenseDetector, permute_to_N_HWA_K
from detectron2.modeling.meta_arch.dense_losses import summed_focal_loss
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from tests.parity import retinanet_case
from tests.parity.retinanet_case import CASES, Stages

# Measured on Detectron2 02b5c4e with torch 2.15 on the CPU:
#   VITDET_D2_RUNTIME=installed python -m tests.parity.retinanet_case \
#       l1 tests/runtime/bundled/modeling/goldens/retinanet_l1.json --dtype float64 --golden
GOLDEN = Path(__file__).parent / "goldens" / "retinanet_l1.json"


def test_whole_model_equals_stored_detectron2_results() -> None:
    golden = json.loads(GOLDEN.read_text())
    found = retinanet_case.summary(retinanet_case.run(CASES["l1"], torch.float64))
    for a, b in zip(found["eval"], golden["eval"], strict=True):
        assert len(b["classes"]) >= 20
        assert len(set(b["classes"])) >= 3
        assert a["classes"] == b["classes"]
        np.testing.assert_allclose(a["boxes"], b["boxes"], rtol=0, atol=1e-3)  # float32 boxes
        np.testing.assert_allclose(a["scores"], b["scores"], rtol=0, atol=1e-9)
    assert found["losses"] == pytest.approx(golden["losses"], rel=1e-9)
    assert found["logged"] == pytest.approx(golden["logged"], rel=1e-9)
    assert found["gradients"].keys() == golden["gradients"].keys()
    for name, (largest, projection) in golden["gradients"].items():
        assert largest > 0
        # The projection sums the whole tensor, so that its error is that of the largest element.
        assert found["gradients"][name] == pytest.approx(
            [largest, projection], rel=1e-7, abs=1e-7 * largest
        ), name


def _model(**changes: Any) -> RetinaNet:
    model = retinanet_case.build(CASES["l1"], "train")
    for name, value in changes.items():
        assert hasattr(model, name), name
        setattr(model, name, value)
    return model


def _losses(model: RetinaNet, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
    with EventStorage():
        return model.train()(batch)


def _slow_losses(model: RetinaNet, batch: list[dict[str, Any]]) -> tuple[float, float]:
    """The losses, anchor by anchor and class by class, in Python's own numbers."""
    images = model.preprocess_image(batch)
    maps = model.backbone(images.tensor)
    logits, deltas = model.head([maps[name] for name in model.head_in_features])
    anchors = model.anchor_generator(list(logits))
    class_loss = box_loss = 0.0
    for i, sample in enumerate(batch):
        truth = sample["instances"]
        places = [
            (level, y, x, a)
            for level, map_ in enumerate(logits)
            for y in range(map_.shape[2])
            for x in range(map_.shape[3])
            for a in range(9)
        ]
        boxes = torch.cat([level.tensor for level in anchors]).tolist()
        ious = [[_iou(box, t) for box in boxes] for t in truth.gt_boxes.tensor.tolist()]
        for index, (level, y, x, a) in enumerate(places):
            overlaps = [row[index] for row in ious]
            best = max(overlaps, default=0.0)
            forced = any(row[index] == max(row) for row in ious)
            if 0.4 <= best < 0.5 and not forced:
                continue
            label = None
            if best >= 0.5 or forced:
                owner = overlaps.index(best)
                label = int(truth.gt_classes[owner])
                predicted = deltas[level][i, 4 * a : 4 * a + 4, y, x].tolist()
                target = _deltas(boxes[index], truth.gt_boxes.tensor[owner].tolist())
                box_loss += sum(abs(p - t) for p, t in zip(predicted, target, strict=True))
            for k in range(model.num_classes):
                p = 1 / (1 + math.exp(-float(logits[level][i, a * model.num_classes + k, y, x])))
                of_class = p if k == label else 1 - p
                alpha = 0.25 if k == label else 0.75
                class_loss -= alpha * (1 - of_class) ** 2 * math.log(of_class)
    return class_loss, box_loss


def _iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def _deltas(source: list[float], target: list[float]) -> list[float]:
    (sw, sh), (tw, th) = ((b[2] - b[0], b[3] - b[1]) for b in (source, target))
    return [
        ((target[0] + target[2]) - (source[0] + source[2])) / 2 / sw,
        ((target[1] + target[3]) - (source[1] + source[3])) / 2 / sh,
        math.log(tw / sw),
        math.log(th / sh),
    ]


def _sample(name: str, size: tuple[int, int], boxes: list[list[float]]) -> dict[str, Any]:
    truth = Instances(size, gt_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)))
    truth.gt_classes = torch.arange(len(boxes))
    image = retinanet_case.closed_form.image(name, *size)
    return {"image": image, "instances": truth}


def test_losses_equal_those_of_a_slow_loop() -> None:
    batch = [
        _sample("a", (64, 64), [[3, 4, 21, 30], [30, 10, 60, 60]]),
        _sample("b", (50, 64), []),
        _sample("c", (64, 40), [[10, 10, 26, 26]]),
    ]
    model = _model()
    with torch.no_grad():
        class_loss, box_loss = _slow_losses(model, batch)
        losses = _losses(model, batch)
    assert model.loss_normalizer > 90
    # The sums of some thousand float32 numbers.
    assert float(losses["loss_cls"]) * model.loss_normalizer == pytest.approx(class_loss, rel=1e-5)
    assert float(losses["loss_box_reg"]) * model.loss_normalizer == pytest.approx(
        box_loss, rel=1e-4
    )


def test_losses_are_divided_by_a_running_average_beside_the_weights() -> None:
    model, batch = _model(), [_sample("a", (64, 64), [[3, 4, 21, 30]])]
    with EventStorage() as storage:
        model(batch)
        count = storage.latest()["num_pos_anchors"][0]
        assert count > 1
        assert model.loss_normalizer == pytest.approx(90 + 0.1 * count)
        model([_sample("b", (64, 64), [])])  # no object counts as one
    assert model.loss_normalizer == pytest.approx(81 + 0.09 * count + 0.1)
    assert not any("normalizer" in name for name in model.state_dict())


def test_a_batch_without_objects_has_no_box_loss_and_gradients_everywhere() -> None:
    model = _model()
    losses = _losses(model, [_sample("a", (64, 64), []), _sample("b", (64, 64), [])])
    assert losses["loss_box_reg"].item() == 0.0
    assert losses["loss_cls"].item() > 0.0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_ignored_anchors_have_no_influence() -> None:
    model = _model()
    anchors = [Boxes(torch.tensor([[0.0, 0, 8, 8], [0, 0, 4, 8], [0, 0, 8, 8], [0, 0, 8, 8]]))]
    labels = [torch.tensor([1, -1, model.num_classes, -1])]
    boxes = [torch.tensor([[0.0, 0, 8, 8]] * 4)]
    logits = torch.randn(1, 4, 5, requires_grad=True)
    deltas = torch.randn(1, 4, 4, requires_grad=True)
    with EventStorage():
        losses = model.losses(anchors, [logits], labels, [deltas], boxes)
    sum(losses.values()).backward()
    used = torch.tensor([True, False, True, False])
    assert logits.grad is not None
    assert logits.grad[0].ne(0).any(dim=1).tolist() == used.tolist()
    assert deltas.grad is not None
    assert deltas.grad[0].ne(0).any(dim=1).tolist() == [True, False, False, False]


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (-1, 1.0), (0.6, 0.0), (0.0, 3.0)])
def test_focal_loss_and_its_gradient_equal_torchvisions(alpha: float, gamma: float) -> None:
    labels = torch.tensor([[2, -1, 3, 0, 1, 3], [3, 3, -1, 2, 2, 0]])  # 3: background
    exact = [torch.randn(2, n, 3, dtype=torch.float64) * 4 for n in (4, 2)]
    exact[0][0, 0] = torch.tensor([-60.0, 60.0, -60.0])  # certain, and wrong
    exact[1][0, 0] = torch.tensor([60.0, 60.0, -60.0])
    levels = [x.requires_grad_() for x in exact]
    loss = summed_focal_loss(levels, labels, alpha=alpha, gamma=gamma)
    gradients = torch.autograd.grad(3 * loss, levels)
    everything = torch.cat(levels, dim=1)[labels >= 0]
    targets = torch.nn.functional.one_hot(labels[labels >= 0], 4)[:, :3].double()
    expected = sigmoid_focal_loss(everything, targets, alpha=alpha, gamma=gamma, reduction="sum")
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(gradients, torch.autograd.grad(3 * expected, levels), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_focal_loss_of_a_certain_logit_has_a_gradient_with_any_exponent() -> None:
    logits = torch.tensor([[[60.0, -60.0]]], dtype=torch.float64, requires_grad=True)
    loss = summed_focal_loss([logits], torch.tensor([[0]]), alpha=0.25, gamma=0.5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.abs().max() < 1e-10  # autograd's has NaN: a root's slope at 0


def test_focal_loss_is_the_integral_of_its_gradient() -> None:
    labels = torch.tensor([[2, -1, 3, 0]])
    logits = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)

    def loss(x: Tensor) -> Tensor:
        return summed_focal_loss([x[:, :3], x[:, 3:]], labels, alpha=0.25, gamma=2.0)

    assert torch.autograd.gradcheck(loss, logits)


def _detect(model: RetinaNet, scores: Tensor, deltas: Tensor, anchors: Tensor) -> Instances:
    return model.inference_single_image([Boxes(anchors)], [scores], [deltas], (50, 50))


def test_inference_thresholds_takes_the_best_and_suppresses_per_class() -> None:
    model = _model(test_topk_candidates=3, max_detections_per_image=2)
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 40, 60], [5, 5, 9, 9]])
    scores = torch.tensor([[0.9, 0.05], [0.8, 0.04], [0.3, 0.7], [0.06, 0.0]])
    found = _detect(model, scores, torch.zeros(4, 4), anchors)
    # 0.8 overlaps 0.9; of 0.3 and 0.06 (0.05 is no higher score) nothing is left of the best 3.
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])
    assert found.pred_classes.tolist() == [0, 1]
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 10, 10], [20, 20, 40, 60]]  # not clipped
    model.test_topk_candidates = model.max_detections_per_image = 10
    every = _detect(model, scores, torch.zeros(4, 4), anchors)
    assert every.scores.tolist() == pytest.approx([0.9, 0.7, 0.3, 0.06])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_predictions_that_are_not_finite_are_dropped(value: float) -> None:
    model = _model()
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    scores, deltas = torch.tensor([[0.9, 0.0], [0.8, 0.0]]), torch.zeros(2, 4)
    deltas[0, 0] = value
    assert _detect(model, scores, deltas, anchors).scores.tolist() == pytest.approx([0.8])
    scores[:] = float("nan")
    nothing = _detect(model, scores, torch.zeros(2, 4), anchors)
    assert len(nothing) == 0
    assert nothing.pred_boxes.tensor.shape == (0, 4)
    assert nothing.pred_classes.dtype == torch.int64


def test_broken_features_give_no_detection_and_healthy_neighbours_stay() -> None:
    model = retinanet_case.build(CASES["l1"], "eval").eval()
    batch = retinanet_case.inputs(CASES["l1"])[:2]
    with torch.no_grad():
        healthy = model(batch)[1]["instances"]
        batch[0]["image"] = torch.full_like(batch[0]["image"], float("nan"))
        broken, same = (x["instances"] for x in model(batch))
    assert len(broken) == 0
    assert torch.equal(same.scores, healthy.scores)


@pytest.mark.parametrize("size", [(33, 57), (64, 64), (1, 100)])
def test_any_size_trains_and_detects(size: tuple[int, int]) -> None:
    model = _model()
    height, width = size
    sample = _sample("a", size, [[0, 0, width, height]])
    losses = _losses(model, [sample])
    sum(losses.values()).backward()
    assert all(bool(loss.isfinite()) for loss in losses.values())
    with torch.no_grad():
        (found,) = model.eval()([{**sample, "height": 2 * height, "width": 3 * width}])
    assert found["instances"].image_size == (2 * height, 3 * width)


def test_no_image_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one image, got none"):
        _model().eval()([])


def test_mixed_precision_computes_losses_in_single() -> None:
    model, batch = _model(), retinanet_case.inputs(CASES["l1"])
    exact = _losses(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = _losses(_model(), batch)
        with torch.no_grad():
            detections = model.eval()(batch)[0]["instances"]
    for name, loss in mixed.items():
        assert loss.dtype == torch.float32
        assert float(loss.detach()) == pytest.approx(float(exact[name].detach()), rel=0.02)
    assert detections.pred_boxes.tensor.dtype == torch.float32


def test_training_needs_ground_truth() -> None:
    with pytest.raises(ValueError, match="instances: expected ground truth in every input"):
        _model().train()([{"image": torch.zeros(3, 32, 32)}])


def test_pictures_are_stored_every_period() -> None:
    model = _model(vis_period=2)
    batch = [_sample("a", (64, 96), [[3, 4, 21, 30]])]
    with EventStorage() as storage, patch.object(storage, "put_image") as put_image:
        for _ in range(3):
            model(batch)
            storage.step()
    assert put_image.call_count == 2
    name, picture = put_image.call_args.args
    assert name == "ground truth (left), best detections (right)"
    assert picture.shape == (3, 64, 192)


def _head(**changes: Any) -> RetinaNetHead:
    arguments: dict[str, Any] = {
        "input_shape": [ShapeSpec(channels=8)] * 2,
        "num_classes": 3,
        "num_anchors": 2,
        "conv_dims": [8, 12],
        **changes,
    }
    return RetinaNetHead(**arguments)


def test_head_starts_with_the_prior_and_serves_every_map() -> None:
    head = _head(prior_prob=0.02)
    logits, deltas = head([torch.zeros(1, 8, 6, 4), torch.zeros(1, 8, 3, 2)])
    assert [x.shape for x in logits] == [(1, 6, 6, 4), (1, 6, 3, 2)]
    assert [x.shape for x in deltas] == [(1, 8, 6, 4), (1, 8, 3, 2)]
    assert all(x.sigmoid().allclose(torch.tensor(0.02)) for x in logits)
    assert [k for k in head.state_dict() if k.endswith("weight")] == [
        *(f"{tower}.{i}.weight" for tower in ("cls_subnet", "bbox_subnet") for i in (0, 2)),
        "cls_score.weight",
        "bbox_pred.weight",
    ]
    assert head.cls_subnet[2].weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_batch_norm_of_the_head_keeps_statistics_of_every_map() -> None:
    head = _head(norm="BN").train()
    large, small = torch.randn(4, 8, 6, 6), torch.randn(4, 8, 3, 3)
    head([large, small])
    norm = head.cls_subnet[1]
    assert isinstance(norm, CycleBatchNormList)
    conv = head.cls_subnet[0]
    for layer, x in zip(norm, (large, small), strict=True):
        expected = 0.1 * conv(x).mean((0, 2, 3))
        torch.testing.assert_close(layer.running_mean, expected)
    assert "cls_subnet.1.weight" in head.state_dict()
    assert "cls_subnet.1.0.weight" not in head.state_dict()


def test_shared_batch_norm_of_the_head_warns(caplog: pytest.LogCaptureFixture) -> None:
    head = _head(norm="naiveSyncBN")
    assert type(head.cls_subnet[1]).__name__ == "NaiveSyncBatchNorm"
    assert "all maps share the statistics" in caplog.text
    caplog.clear()
    for norm in ("GN", "FrozenBN", "LN", nn.InstanceNorm2d):
        _head(norm=norm, conv_dims=[32])
    assert not caplog.text


def test_wrong_arguments_are_named() -> None:
    shapes = [ShapeSpec(channels=8), ShapeSpec(channels=4)]
    with pytest.raises(
        ValueError, match=r"input_shape: expected maps .* same channels, got \[4, 8"
    ):
        _head(input_shape=shapes)
    with pytest.raises(ValueError, match=r"conv_dims: expected one or more numbers > 0, got \[\]"):
        _head(conv_dims=[])
    with pytest.raises(ValueError, match=r"prior_prob: expected a probability in \(0, 1\), got 1"):
        _head(prior_prob=1)
    with pytest.raises(ValueError, match="features: expected 2 maps, got 1"):
        _head()([torch.zeros(1, 8, 2, 2)])
    with pytest.raises(ValueError, match="box_reg_loss_type: expected one of smooth_l1"):
        retinanet_case.build(retinanet_case.Case(box_loss="l2"), "eval")
    with pytest.raises(
        ValueError, match="head_in_features: expected names out of res3, res4, res5"
    ):
        DenseDetector(Stages(), _head(), ["p3"], pixel_mean=[0.0], pixel_std=[1.0])


def test_a_head_for_other_classes_or_anchors_is_refused() -> None:
    model = _model()
    arguments: dict[str, Any] = {
        "backbone": model.backbone,
        "head": model.head,
        "head_in_features": model.head_in_features,
        "anchor_generator": model.anchor_generator,
        "box2box_transform": model.box2box_transform,
        "anchor_matcher": model.anchor_matcher,
        "num_classes": 5,
        "pixel_mean": [0.0] * 3,
        "pixel_std": [1.0] * 3,
    }
    RetinaNet(**arguments)
    with pytest.raises(ValueError, match=r"head: expected num_classes=3 .* got num_classes=5"):
        RetinaNet(**{**arguments, "num_classes": 3})
    anchors = DefaultAnchorGenerator(sizes=[[8]], aspect_ratios=[1.0], strides=[8, 16, 32, 64, 128])
    with pytest.raises(ValueError, match=r"anchors \[1, 1, 1, 1, 1\] .* num_anchors=9 on 5 maps"):
        RetinaNet(**{**arguments, "anchor_generator": anchors})


def test_dense_detector_takes_all_maps_and_asks_for_its_two_halves() -> None:
    detector = DenseDetector(Stages(), nn.Identity(), pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3)
    assert detector.head_in_features == ["res3", "res4", "res5"]
    batch = [{"image": torch.zeros(3, 32, 32), "instances": Instances((32, 32))}]
    with pytest.raises(NotImplementedError, match="DenseDetector defines no forward_training"):
        detector.train()(batch)
    with pytest.raises(NotImplementedError, match="DenseDetector defines no forward_inference"):
        detector.eval()(batch)


def test_predictions_come_in_the_order_of_the_anchors() -> None:
    x = torch.arange(2 * 6 * 2 * 5).view(2, 6, 2, 5)
    found = permute_to_N_HWA_K(x, 3)
    assert found.shape == (2, 20, 3)
    for y in range(2):
        for column in range(5):
            for a in range(2):
                row = found[1, (y * 5 + column) * 2 + a]
                assert torch.equal(row, x[1, 3 * a : 3 * a + 3, y, column])


def test_p6_and_p7_come_from_the_named_map() -> None:
    top = LastLevelP6P7(24, 8)
    fpn = FPN(Stages(), ["res4", "res5"], 8, top_block=top)
    assert list(fpn.output_shape()) == ["p4", "p5", "p6", "p7"]
    x = torch.randn(1, 3, 96, 160)
    with torch.no_grad():
        maps, c5 = fpn(x), fpn.bottom_up(x)["res5"]
        assert [tuple(m.shape[2:]) for m in maps.values()] == [(6, 10), (3, 5), (2, 3), (1, 2)]
        assert torch.equal(maps["p6"], top.p6(c5))
        assert torch.equal(maps["p7"], top.p7(maps["p6"].relu()))
        of_p5 = FPN(Stages(), ["res5"], 8, top_block=LastLevelP6P7(8, 8, "p5"))
        maps = of_p5(x)
        assert torch.equal(maps["p6"], of_p5.top_block.p6(maps["p5"]))
    with pytest.raises(ValueError, match=r"top_block.in_feature: expected one of .*p5, got 'res6'"):
        FPN(Stages(), ["res5"], 8, top_block=LastLevelP6P7(8, 8, "res6"))


def test_inference_reads_only_sizes_of_images_and_features() -> None:
    model = _model().eval()
    images = ImageList(torch.zeros(1, 3, 64, 64), [(60, 64)])
    features = [torch.full((1, 32, 64 // s, 64 // s), float("nan")) for s in (8, 16, 32)]
    features += [torch.zeros(1, 32, 1, 1), torch.zeros(1, 32, 1, 1)]
    predictions = model.head([torch.rand_like(f) for f in features])
    (found,) = model.forward_inference(images, features, predictions)
    assert found.image_size == (60, 64)
    assert META_ARCH_REGISTRY.get("RetinaNet") is RetinaNet

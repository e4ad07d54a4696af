# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
)
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor

SIZE = (64, 64)
IOUS = (0.5, 0.6, 0.7)
NUM_CLASSES = 3


@pytest.fixture(autouse=True)
def storage() -> Iterator[EventStorage]:
    with EventStorage() as storage:
        yield storage


def _latest(storage: EventStorage) -> dict[str, float]:
    return {name: value for name, (value, _) in storage.latest().items()}


def _heads(**options: object) -> CascadeROIHeads:
    arguments = {
        "num_classes": NUM_CLASSES,
        "batch_size_per_image": 16,
        "positive_fraction": 0.25,
        "box_in_features": ["p2"],
        "box_pooler": ROIPooler(2, [1 / 4], 0, "ROIAlignV2"),
        "box_heads": [
            FastRCNNConvFCHead(ShapeSpec(channels=4, height=2, width=2), conv_dims=[], fc_dims=[8])
            for _ in IOUS
        ],
        "box_predictors": [
            FastRCNNOutputLayers(
                ShapeSpec(channels=8),
                box2box_transform=Box2BoxTransform((10 * k, 10 * k, 5 * k, 5 * k)),
                num_classes=NUM_CLASSES,
                cls_agnostic_bbox_reg=True,
            )
            for k in (1, 2, 3)
        ],
        "proposal_matchers": [Matcher([iou], [0, 1]) for iou in IOUS],
        **options,
    }
    return CascadeROIHeads(**arguments)


def _boxes(*rows: list[float]) -> Boxes:
    return Boxes(torch.tensor(rows, dtype=torch.float32).reshape(-1, 4))


def _proposals(count: int) -> Instances:
    corner = torch.rand(count, 2) * 40
    boxes = Boxes(torch.cat([corner, corner + 4 + 20 * torch.rand(count, 2)], dim=1))
    return Instances(SIZE, proposal_boxes=boxes, objectness_logits=torch.rand(count))


def _targets() -> Instances:
    boxes = _boxes([10, 10, 40, 30], [0, 40, 20, 64])
    return Instances(SIZE, gt_boxes=boxes, gt_classes=torch.tensor([2, 0]))


def _no_targets() -> Instances:
    return _targets()[torch.zeros(2, dtype=torch.bool)]


def _iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (both - width * height)


def test_state_dict_keys() -> None:
    assert ROI_HEADS_REGISTRY.get("CascadeROIHeads") is CascadeROIHeads
    layers = ("box_head.{}.fc1", "box_predictor.{}.cls_score", "box_predictor.{}.bbox_pred")
    expected = {
        f"{layer.format(i)}.{leaf}"
        for layer in layers
        for i in range(3)
        for leaf in ("weight", "bias")
    }
    assert set(_heads().state_dict()) == expected


@pytest.mark.parametrize("stage", [1, 2])
def test_matching_equals_a_loop_over_boxes(storage: EventStorage, stage: int) -> None:
    heads, targets = _heads(), _targets()
    near = torch.tensor([[10.0, 10, 40, 30], [0, 40, 20, 64]])[torch.arange(60) % 2]
    proposals = Instances(SIZE, proposal_boxes=Boxes(near + 6 * torch.randn(60, 4)))
    other = Instances(SIZE, proposal_boxes=_proposals(5).proposal_boxes)
    found, background = heads._match_and_label_boxes(
        [proposals, other], stage, [targets, _no_targets()]
    )
    num_foreground = 0
    for i, box in enumerate(found.proposal_boxes.tensor.tolist()):
        overlaps = [_iou(gt, box) for gt in targets.gt_boxes.tensor.tolist()]
        best = overlaps.index(max(overlaps))
        matched = max(overlaps) >= IOUS[stage]
        num_foreground += matched
        assert int(found.gt_classes[i]) == ([2, 0][best] if matched else NUM_CLASSES)
        assert torch.equal(found.gt_boxes.tensor[i], targets.gt_boxes.tensor[best])
    assert 5 < num_foreground < 55
    assert background.gt_classes.tolist() == [NUM_CLASSES] * 5
    assert background.gt_boxes.tensor.tolist() == [[0] * 4] * 5
    logged = _latest(storage)
    assert logged[f"stage{stage}/roi_head/num_fg_samples"] == num_foreground / 2
    assert logged[f"stage{stage}/roi_head/num_bg_samples"] == (65 - num_foreground) / 2


def test_boxes_become_proposals_of_the_next_stage() -> None:
    boxes = torch.tensor([[-5.0, 10, 30, 90], [70, 5, 90, 20], [5, 5, 6, 7]], requires_grad=True)
    heads = _heads()
    first, second = heads._create_proposals_from_boxes([boxes, boxes[2:]], [SIZE, SIZE])
    assert first.proposal_boxes.tensor.tolist() == [[0, 10, 30, 64], [5, 5, 6, 7]]
    assert second.proposal_boxes.tensor.tolist() == [[5, 5, 6, 7]]
    assert not first.proposal_boxes.tensor.requires_grad
    (kept,) = heads.eval()._create_proposals_from_boxes([boxes], [SIZE])
    assert len(kept) == 3


def test_each_stage_takes_the_boxes_of_the_one_before(storage: EventStorage) -> None:
    heads = _heads()
    for predictor in heads.box_predictor:
        torch.nn.init.normal_(predictor.bbox_pred.weight, std=0.3)
    features = {"p2": torch.randn(2, 4, 16, 16)}
    torch.manual_seed(3)
    sampled, losses = heads(
        None, features, [_proposals(30), _proposals(9)], [_targets(), _no_targets()]
    )
    names = [f"loss_{part}_stage{i}" for i in range(3) for part in ("cls", "box_reg")]
    assert list(losses) == names

    boxes = [p.proposal_boxes for p in sampled]
    for i in range(3):
        crops = heads.box_pooler([features["p2"]], boxes)
        logits, deltas = heads.box_predictor[i](heads.box_head[i](crops))
        classes = [sampled[k].gt_classes for k in (0, 1)]
        if i > 0:
            overlaps = torch.tensor(
                [
                    [_iou(gt, box) for gt in _targets().gt_boxes.tensor.tolist()]
                    for box in boxes[0].tensor.tolist()
                ]
            )
            best, which = overlaps.max(dim=1)
            label = torch.tensor([2, 0])[which]
            classes = [
                torch.where(best >= IOUS[i], label, NUM_CLASSES),
                torch.full((len(boxes[1]),), NUM_CLASSES),
            ]
        expected = torch.nn.functional.cross_entropy(logits, torch.cat(classes))
        torch.testing.assert_close(losses[f"loss_cls_stage{i}"], expected)
        moved = heads.box_predictor[i].box2box_transform.apply_deltas(
            deltas.detach(), torch.cat([b.tensor for b in boxes])
        )
        boxes = [Boxes(b) for b in moved.split([len(b) for b in boxes])]
        for b in boxes:
            b.clip(SIZE)
        boxes = [b[b.nonempty()] for b in boxes]
    assert {"stage0/fast_rcnn/cls_accuracy", "stage2/fast_rcnn/cls_accuracy"} <= set(
        _latest(storage)
    )


def test_backbone_gets_the_mean_of_the_stages_and_heads_their_own() -> None:
    heads = _heads()
    proposals, targets = [_proposals(20)], [_targets()]

    def gradients(chosen: list[int]) -> tuple[Tensor, list[Tensor]]:
        features = {"p2": torch.ones(1, 4, 16, 16).cumsum(3).requires_grad_()}
        heads.zero_grad()
        torch.manual_seed(0)
        _, losses = heads(None, features, proposals, targets)
        sum(v for k, v in losses.items() if int(k[-1]) in chosen).backward()
        weights = [predictor.cls_score.weight.grad for predictor in heads.box_predictor]
        return features["p2"].grad, [w.clone() for w in weights if w is not None]

    features, weights = gradients([0, 1, 2])
    alone = [gradients([i]) for i in range(3)]
    torch.testing.assert_close(features, sum(f for f, _ in alone))
    for i in range(3):
        (own,) = alone[i][1]
        torch.testing.assert_close(weights[i], own)
    # Without the cascade's division the maps would get three times as much.
    plain = {"p2": torch.ones(1, 4, 16, 16).cumsum(3).requires_grad_()}
    torch.manual_seed(0)
    sampled = heads.label_and_sample_proposals(proposals, targets)
    crops = heads.box_pooler([plain["p2"]], [p.proposal_boxes for p in sampled])
    predictions = heads.box_predictor[0](heads.box_head[0](crops))
    sum(heads.box_predictor[0].losses(predictions, sampled).values()).backward()
    torch.testing.assert_close(plain["p2"].grad / 3, alone[0][0])


def test_inference_averages_the_scores_of_all_stages() -> None:
    heads = _heads().eval()
    for i, predictor in enumerate(heads.box_predictor):
        predictor.cls_score.weight.data.zero_()
        predictor.bbox_pred.weight.data.zero_()
        predictor.cls_score.bias.data = torch.tensor([3.0 * (i == k) for k in range(4)])
        # Each stage moves the box to the right by a quarter of its width.
        shift = 0.25 * predictor.box2box_transform.weights[0]
        predictor.bbox_pred.bias.data = torch.tensor([shift, 0, 0, 0])
        predictor.test_score_thresh = 0.1
    box = Instances(SIZE, proposal_boxes=_boxes([0, 10, 8, 20]), objectness_logits=torch.zeros(1))
    features = {"p2": torch.randn(1, 4, 16, 16)}
    (found,), losses = heads(None, features, [box])
    assert losses == {}
    assert found.pred_boxes.tensor.tolist() == [[6, 10, 14, 20]] * 3
    probability = torch.tensor([3.0, 0, 0, 0]).softmax(0)
    expected = float(probability[0] + 2 * probability[1]) / 3
    assert found.scores.tolist() == pytest.approx([expected] * 3)
    assert sorted(found.pred_classes.tolist()) == [0, 1, 2]
    (empty,), _ = heads(None, features, [box[torch.tensor([False])]])
    assert len(empty) == 0


@pytest.mark.parametrize("objects", ["some", "none", "one image without"])
@pytest.mark.parametrize("num_proposals", [0, 30])
def test_training_with_few_or_no_objects_and_proposals(objects: str, num_proposals: int) -> None:
    heads = _heads()
    targets = {
        "some": [_targets(), _targets()],
        "none": [_no_targets(), _no_targets()],
        "one image without": [_targets(), _no_targets()],
    }[objects]
    features = {"p2": torch.randn(2, 4, 16, 16, requires_grad=True)}
    proposals = [_proposals(num_proposals), _proposals(num_proposals)]
    sampled, losses = heads(None, features, proposals, targets)
    assert all(bool(loss.isfinite()) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in heads.parameters())
    assert len(sampled) == 2


def test_wrong_arguments() -> None:
    matchers = [Matcher([0.5], [0, 1])] * 2
    message = "expected one of each per stage, got 3, 3 and 2"
    with pytest.raises(ValueError, match=re.escape(message)):
        _heads(proposal_matchers=matchers)
    with pytest.warns(UserWarning, match="train_on_pred_boxes has no effect"):
        _heads(train_on_pred_boxes=True)
    with pytest.raises(ValueError, match="targets: expected ground truth in training"):
        _heads()(None, {}, [])

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.proposal_generator.proposal_utils import (
    add_ground_truth_to_proposals,
    find_top_rpn_proposals,
)
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from torch import Tensor

SIZE = (64, 96)


@pytest.fixture
def storage() -> Iterator[EventStorage]:
    with EventStorage() as storage:
        yield storage


def _rpn(**options: object) -> RPN:
    arguments = {
        "in_features": ["p3", "p4"],
        "head": StandardRPNHead(in_channels=4, num_anchors=2),
        "anchor_generator": DefaultAnchorGenerator(
            sizes=[[16], [32]], aspect_ratios=[0.5, 2.0], strides=[8, 16], offset=0.5
        ),
        "anchor_matcher": Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        "box2box_transform": Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        "batch_size_per_image": 64,
        "positive_fraction": 0.5,
        "pre_nms_topk": (50, 40),
        "post_nms_topk": (20, 10),
        **options,
    }
    return RPN(**arguments)


def _features() -> dict[str, Tensor]:
    return {"p3": torch.randn(2, 4, 8, 12), "p4": torch.randn(2, 4, 4, 6)}


def _images() -> ImageList:
    return ImageList(torch.zeros(2, 3, *SIZE), [SIZE, (60, 90)])


def _gt(*boxes: list[float]) -> Instances:
    return Instances(SIZE, gt_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)))


def test_head_keys_shapes_and_initialisation() -> None:
    one = StandardRPNHead(in_channels=4, num_anchors=3)
    assert sorted(one.state_dict()) == sorted(
        f"{name}.{leaf}"
        for name in ("conv", "objectness_logits", "anchor_deltas")
        for leaf in ("weight", "bias")
    )
    two = StandardRPNHead(in_channels=32, num_anchors=3, conv_dims=[-1, 64])
    assert two.state_dict()["conv.conv1.weight"].shape == (64, 32, 3, 3)
    assert float(two.conv[1].weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert not any(value.any() for name, value in two.state_dict().items() if "bias" in name)
    logits, deltas = two([torch.randn(2, 32, 5, 7)])
    assert (logits[0].shape, deltas[0].shape) == ((2, 3, 5, 7), (2, 12, 5, 7))
    for dims in ([], [0], [-2]):
        with pytest.raises(ValueError, match="conv_dims: expected one or more numbers > 0"):
            StandardRPNHead(in_channels=4, num_anchors=3, conv_dims=dims)


def test_losses_equal_their_definition(storage: EventStorage) -> None:
    rpn = _rpn(loss_weight={"loss_rpn_cls": 2.0})
    gt = [_gt([10, 10, 30, 40], [50, 5, 90, 60]), _gt()]
    torch.manual_seed(5)
    features = _features()
    torch.manual_seed(1)
    proposals, losses = rpn(_images(), features, gt)

    torch.manual_seed(1)
    anchors = rpn.anchor_generator([features["p3"], features["p4"]])
    labels, boxes = rpn.label_and_sample_anchors(anchors, gt)
    flat = torch.cat([a.tensor for a in anchors])
    with torch.no_grad():
        logits, deltas = rpn.rpn_head([features["p3"], features["p4"]])
    losses = {name: loss.detach() for name, loss in losses.items()}
    loss_cls = loss_loc = 0.0
    for image in range(2):
        row = 0
        for level_logits, level_deltas in zip(logits, deltas, strict=True):
            _, num_anchors, height, width = level_logits.shape
            for y in range(height):
                for x in range(width):
                    for a in range(num_anchors):
                        label = int(labels[image][row])
                        logit = float(level_logits[image, a, y, x])
                        if label >= 0:
                            loss_cls += math.log1p(math.exp(-logit if label else logit))
                        if label == 1:
                            target = rpn.box2box_transform.get_deltas(
                                flat[row, None], boxes[image][row, None]
                            )
                            found = level_deltas[image, 4 * a : 4 * a + 4, y, x]
                            loss_loc += float((found - target[0]).abs().sum())
                        row += 1
        assert row == len(flat)
    assert float(losses["loss_rpn_cls"]) == pytest.approx(2 * loss_cls / 128, rel=1e-5)
    assert float(losses["loss_rpn_loc"]) == pytest.approx(loss_loc / 128, rel=1e-5)
    positive = [int((image == 1).sum()) for image in labels]
    assert positive[0] > 0 == positive[1]
    assert [int((image >= 0).sum()) for image in labels] == [64, 64]
    assert storage.latest()["rpn/num_pos_anchors"][0] == sum(positive) / 2
    assert storage.latest()["rpn/num_neg_anchors"][0] == 64 - sum(positive) / 2
    assert [len(p) <= 20 for p in proposals] == [True, True]
    assert not proposals[0].proposal_boxes.tensor.requires_grad


def test_every_object_gets_an_anchor() -> None:
    rpn = _rpn()
    anchors = rpn.anchor_generator(list(_features().values()))
    labels, boxes = rpn.label_and_sample_anchors(anchors, [_gt([1, 1, 5, 5])])
    best = pairwise_iou(Boxes(torch.tensor([[1.0, 1, 5, 5]])), Boxes.cat(anchors))[0]
    assert float(best.max()) < 0.3
    chosen = labels[0] == 1
    assert torch.equal(chosen, best == best.max())
    assert boxes[0][chosen].tolist() == [[1, 1, 5, 5]] * int(chosen.sum())


def test_anchors_beyond_the_border_are_ignored_on_request() -> None:
    rpn = _rpn(anchor_boundary_thresh=0)
    anchors = rpn.anchor_generator(list(_features().values()))
    labels, _ = rpn.label_and_sample_anchors(anchors, [_gt([1, 1, 30, 30])])
    inside = Boxes.cat(anchors).inside_box(SIZE, 0)
    assert 0 < int(inside.sum()) < len(inside)
    assert (labels[0][~inside] == -1).all()


def test_training_without_ground_truth_is_an_error() -> None:
    with pytest.raises(ValueError, match="gt_instances: expected ground truth in training"):
        _rpn()(_images(), _features())


def test_inference_gives_sorted_proposals_inside_each_image_and_no_losses() -> None:
    rpn = _rpn().eval()
    proposals, losses = rpn(_images(), _features())
    assert losses == {}
    for p, (height, width) in zip(proposals, _images().image_sizes, strict=True):
        assert 0 < len(p) <= 10
        assert (p.objectness_logits.diff() <= 0).all()
        assert (p.proposal_boxes.tensor <= torch.tensor([width, height] * 2)).all()


def _find(boxes: Tensor, scores: Tensor, training: bool = False, **limits: float) -> Instances:
    options = {
        "nms_thresh": 0.5,
        "pre_nms_topk": 10,
        "post_nms_topk": 10,
        "min_box_size": 0.0,
        **limits,
    }
    (result,) = find_top_rpn_proposals(
        [boxes[None]], [scores[None]], [(50, 100)], training=training, **options
    )
    return result


BOXES = torch.tensor(
    [[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [90, 40, 140, 80], [200, 0, 210, 9]]
)
SCORES = torch.tensor([1.0, 2, 3, 4, 5])


def test_proposals_are_clipped_filtered_and_without_duplicates() -> None:
    found = _find(BOXES, SCORES)
    # The last box is outside, the first overlaps the better second.
    assert found.proposal_boxes.tensor.tolist() == [
        [90, 40, 100, 50],
        [20, 20, 30, 30],
        [0, 0, 10, 9],
    ]
    assert found.objectness_logits.tolist() == [4, 3, 2]
    assert len(_find(BOXES, SCORES, post_nms_topk=1)) == 1
    assert len(_find(BOXES, SCORES, pre_nms_topk=2)) == 1
    assert _find(BOXES, SCORES, min_box_size=9.5).objectness_logits.tolist() == [4, 3, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_prediction_that_is_no_number_stops_training_and_is_dropped_in_inference(
    bad: float,
) -> None:
    boxes, scores = BOXES.clone(), SCORES.clone()
    boxes[2, 1] = bad
    assert _find(boxes, SCORES).objectness_logits.tolist() == [4, 2]
    with pytest.raises(FloatingPointError, match="training has diverged"):
        _find(boxes, SCORES, training=True)
    scores[3] = bad
    assert _find(BOXES, scores).objectness_logits.tolist() == [3, 2]
    with pytest.raises(FloatingPointError, match="training has diverged"):
        _find(BOXES, scores, training=True)


def test_nothing_is_found_where_nothing_is() -> None:
    assert len(_find(BOXES[4:], SCORES[4:])) == 0
    assert len(_find(BOXES[:0], SCORES[:0])) == 0


def test_ground_truth_is_appended_with_certainty() -> None:
    proposals = Instances(SIZE, proposal_boxes=Boxes(BOXES), objectness_logits=SCORES)
    gt = _gt([1, 2, 3, 4])
    gt.gt_classes = torch.tensor([7])
    for truth in (gt, gt.gt_boxes):
        (joined,) = add_ground_truth_to_proposals([truth], [proposals])
        assert sorted(joined.get_fields()) == ["objectness_logits", "proposal_boxes"]
        assert joined.proposal_boxes.tensor[-1].tolist() == [1, 2, 3, 4]
        # ln(1e10 - 1)
        assert float(joined.objectness_logits[-1]) == pytest.approx(23.02585, abs=1e-5)
        assert len(joined) == 6
    assert len(proposals) == 5
    with pytest.raises(ValueError, match="gt: expected one for each of 1 images, got 2"):
        add_ground_truth_to_proposals([gt, gt], [proposals])
    proposals.extra = SCORES
    with pytest.raises(ValueError, match="gt: expected the field 'extra'"):
        add_ground_truth_to_proposals([gt], [proposals])

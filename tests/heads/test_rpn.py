# SPDX-License-Identifier: Apache-2.0
"""Our RPN against Detectron2's: losses, gradients and proposals; and what it asks of the device."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from detectron2.modeling import proposal_generator
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from vitdet_d2.analysis.host_syncs import count_host_syncs
from vitdet_d2.heads import RPN
from vitdet_d2.heads.late_scalars import collected

SIZE = (64, 96)
EVERYTHING = 100_000


@pytest.fixture(autouse=True)
def storage() -> Iterator[EventStorage]:
    with EventStorage() as storage:
        yield storage


def arguments(**options: object) -> dict[str, object]:
    torch.manual_seed(0)
    head = StandardRPNHead(in_channels=4, num_anchors=2)
    nn.init.ones_(head.conv.bias)  # no location without activity: no two equal logits
    for layer in (head.objectness_logits, head.anchor_deltas):
        nn.init.normal_(layer.weight, std=0.3)
    return {
        "in_features": ["p3", "p4"],
        "head": head,
        "anchor_generator": DefaultAnchorGenerator(
            sizes=[[16], [32]], aspect_ratios=[0.5, 2.0], strides=[8, 16], offset=0.5
        ),
        "anchor_matcher": Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        "box2box_transform": Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        "batch_size_per_image": EVERYTHING,
        "positive_fraction": 0.5,
        "pre_nms_topk": (50, 40),
        "post_nms_topk": (20, 10),
        **options,
    }


def features() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "p3": torch.randn(2, 4, 8, 12, requires_grad=True),
        "p4": torch.randn(2, 4, 4, 6, requires_grad=True),
    }


def images(*sizes: tuple[int, int]) -> ImageList:
    return ImageList(torch.zeros(2, 3, *SIZE), list(sizes or (SIZE, SIZE)))


def truth(*boxes: list[float]) -> Instances:
    return Instances(SIZE, gt_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)))


def targets() -> list[Instances]:
    return [truth([10, 10, 30, 40], [50, 5, 90, 60]), truth()]


def run(
    rpn: nn.Module, *sizes: tuple[int, int]
) -> tuple[list[Instances], dict[str, Tensor], list[Tensor]]:
    maps = features()
    proposals, losses = rpn(images(*sizes), maps, targets() if rpn.training else None)
    wanted = [*maps.values(), *rpn.parameters()]
    grads = torch.autograd.grad(sum(losses.values()), wanted) if losses else []
    return proposals, losses, list(grads)


def assert_same_proposals(found: Instances, expected: Instances) -> None:
    assert found.image_size == expected.image_size
    assert len(found) == len(expected)
    torch.testing.assert_close(found.objectness_logits, expected.objectness_logits)
    torch.testing.assert_close(found.proposal_boxes.tensor, expected.proposal_boxes.tensor)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"smooth_l1_beta": 0.2, "loss_weight": {"loss_rpn_cls": 2.0, "loss_rpn_loc": 0.5}},
        {"box_reg_loss_type": "giou"},
        {"anchor_boundary_thresh": 0.0},
        {"min_box_size": 12.0, "nms_thresh": 0.3},
        {"post_nms_topk": (1000, 1000)},
    ],
    ids=str,
)
@pytest.mark.parametrize("sizes", [(), (SIZE, (60, 90))], ids=["one size", "two sizes"])
def test_losses_gradients_and_proposals_are_those_of_detectron2(
    options: dict[str, object], sizes: tuple[tuple[int, int], ...]
) -> None:
    theirs = proposal_generator.RPN(**arguments(**options))
    ours = RPN(**arguments(**options))
    ours.load_state_dict(theirs.state_dict())
    expected_proposals, expected, expected_grads = run(theirs, *sizes)
    proposals, losses, grads = run(ours, *sizes)
    assert list(losses) == list(expected)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(grads, expected_grads)
    for found, wanted in zip(proposals, expected_proposals, strict=True):
        assert_same_proposals(found, wanted)


def test_proposals_of_inference_are_those_of_detectron2() -> None:
    theirs, ours = proposal_generator.RPN(**arguments()).eval(), RPN(**arguments()).eval()
    sizes = SIZE, (40, 70)
    for found, wanted in zip(run(ours, *sizes)[0], run(theirs, *sizes)[0], strict=True):
        assert_same_proposals(found, wanted)
        assert len(found) == 10


def test_metrics_are_those_of_detectron2(storage: EventStorage) -> None:
    run(proposal_generator.RPN(**arguments(batch_size_per_image=64)))
    expected = storage.latest()
    with EventStorage() as own:
        run(RPN(**arguments(batch_size_per_image=64)))
        assert own.latest() == expected
        assert own.latest()["rpn/num_pos_anchors"][0] > 0


def test_a_sample_has_the_shares_of_the_recipe_and_its_own_loss() -> None:
    rpn = RPN(**arguments(batch_size_per_image=8, positive_fraction=0.125))
    maps = features()
    anchors = [boxes.tensor for boxes in rpn.anchor_generator(list(maps.values()))]
    sampled = rpn.sample_anchors(anchors, targets())
    sample = sampled.sample
    assert sample.has_positive.sum(dim=1).tolist() == [1, 0]
    assert sample.has_negative.sum(dim=1).tolist() == [7, 8]

    raw_logits, raw_deltas = rpn.rpn_head(list(maps.values()))
    logits = [x.permute(0, 2, 3, 1).flatten(1) for x in raw_logits]
    deltas = [x.permute(0, 2, 3, 1).reshape(2, -1, 4) for x in raw_deltas]
    losses = rpn.sampled_losses(anchors, logits, deltas, sampled)
    flat_logits, flat_deltas, flat = torch.cat(logits, 1), torch.cat(deltas, 1), torch.cat(anchors)
    loss_cls = loss_loc = 0.0
    for image in range(2):
        for place, index in enumerate(sample.positive[image]):
            if sample.has_positive[image, place]:
                loss_cls += nn.functional.softplus(-flat_logits[image, index])
                target = rpn.box2box_transform.get_deltas(
                    flat[index, None], sampled.gt_boxes[image, place, None]
                )
                loss_loc += (flat_deltas[image, index] - target[0]).abs().sum()
        for index in sample.negative[image][sample.has_negative[image]]:
            loss_cls += nn.functional.softplus(flat_logits[image, index])
    torch.testing.assert_close(losses["loss_rpn_cls"], loss_cls / 16)
    torch.testing.assert_close(losses["loss_rpn_loc"], loss_loc / 16)


def test_padded_proposals_end_with_rows_that_are_none() -> None:
    options = {"post_nms_topk": (200, 200), "pre_nms_topk": (100, 100), "nms_thresh": 0.3}
    exact, _, _ = run(RPN(**arguments(**options)))
    padded, _, _ = run(RPN(**arguments(**options), pad_proposals=True))
    assert len({len(p) for p in padded}) == 1
    for found, wanted in zip(padded, exact, strict=True):
        assert len(found) > len(wanted)
        assert_same_proposals(found[: len(wanted)], wanted)
        rest = found[len(wanted) :]
        assert (rest.objectness_logits == -torch.inf).all()
        assert not rest.proposal_boxes.tensor.any()
    inference, _, _ = run(RPN(**arguments(**options), pad_proposals=True).eval())
    assert all((p.objectness_logits != -torch.inf).all() for p in inference)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_broken_predictions_spoil_the_losses_in_training(bad: float) -> None:
    rpn = RPN(**arguments())
    with torch.no_grad():
        rpn.rpn_head.anchor_deltas.bias[1] = bad
    _, losses, _ = run(rpn)
    assert all(loss.isnan() for loss in losses.values())
    proposals, _, _ = run(rpn.eval())
    assert all(p.proposal_boxes.tensor.isfinite().all() for p in proposals)


@pytest.mark.parametrize(("padded", "expected"), [(True, 0), (False, 1)])
def test_training_waits_for_the_number_of_proposals_at_most(padded: bool, expected: int) -> None:
    rpn = RPN(**arguments(batch_size_per_image=16), pad_proposals=padded)
    run(rpn)
    with collected():
        syncs = count_host_syncs(lambda: run(rpn, SIZE, (60, 90)))
    assert syncs.total == expected, syncs


def test_inference_waits_once() -> None:
    rpn = RPN(**arguments()).eval()
    run(rpn)
    assert count_host_syncs(lambda: run(rpn)).total == 1


def test_ground_truth_is_needed_in_training() -> None:
    with pytest.raises(ValueError, match="gt_instances: expected ground truth in training"):
        RPN(**arguments())(images(), features(), None)


def test_anchors_follow_the_shapes_and_a_copied_generator() -> None:
    rpn = RPN(**arguments()).eval()
    first = run(rpn)[0][0]
    small = {"p3": torch.randn(2, 4, 4, 6), "p4": torch.randn(2, 4, 2, 3)}
    rpn(images((32, 48), (32, 48)), small)
    assert_same_proposals(run(rpn)[0][0], first)
    other = copy.deepcopy(rpn)
    with torch.no_grad():
        for cells in other.anchor_generator.cell_anchors:
            cells.mul_(0.5)
    changed = run(other)[0][0].proposal_boxes.area().mean()
    assert changed < 0.5 * first.proposal_boxes.area().mean()


def test_weights_have_detectron2s_names() -> None:
    ours, theirs = RPN(**arguments()), proposal_generator.RPN(**arguments())
    assert list(ours.state_dict()) == list(theirs.state_dict())

# SPDX-License-Identifier: Apache-2.0
"""The masked loss against Detectron2's on the boxes that count, gradients included."""

from __future__ import annotations

import pytest
import torch
import torchvision
from detectron2.modeling.box_regression import Box2BoxTransform, Box2BoxTransformLinear
from torch import Tensor

from vitdet_d2.analysis.host_syncs import count_host_syncs
from vitdet_d2.heads.box_loss import box_deltas, masked_box_loss

TRANSFORM = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))


def boxes(count: int) -> Tensor:
    corner = torch.rand(count, 2) * 50
    return torch.cat([corner, corner + 1 + torch.rand(count, 2) * 20], dim=1)


def test_deltas_are_those_of_detectron2() -> None:
    source, target = boxes(9), boxes(9)
    found = box_deltas(TRANSFORM, source, target)
    assert torch.equal(found, TRANSFORM.get_deltas(source, target))
    torch.testing.assert_close(TRANSFORM.apply_deltas(found, source), target)


def test_another_parametrisation_is_asked() -> None:
    transform = Box2BoxTransformLinear(normalize_by_size=True)
    source, target = boxes(4), boxes(4)
    found = box_deltas(transform, source, target)
    assert torch.equal(found, transform.get_deltas(source, target))


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("loss_type", ["smooth_l1", "giou", "diou", "ciou"])
def test_the_loss_is_that_of_the_boxes_that_count(loss_type: str, beta: float) -> None:
    source, target = boxes(8), boxes(8)
    counts = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0], dtype=torch.bool)
    deltas = (torch.randn(8, 4) * 0.5).requires_grad_()
    # By hand from the public parts: on deltas, or on boxes by torchvision's losses.
    chosen = deltas[counts]
    if loss_type == "smooth_l1":
        wanted = TRANSFORM.get_deltas(source[counts], target[counts])
        expected = torch.nn.functional.smooth_l1_loss(chosen, wanted, beta=beta, reduction="sum")
    else:
        predicted = TRANSFORM.apply_deltas(chosen, source[counts])
        by_name = {
            "giou": "generalized_box_iou_loss",
            "diou": "distance_box_iou_loss",
            "ciou": "complete_box_iou_loss",
        }
        loss = getattr(torchvision.ops, by_name[loss_type])
        expected = loss(predicted, target[counts], reduction="sum")
    (expected_grad,) = torch.autograd.grad(expected, deltas)

    source[1], target[1], source[4] = 0.0, 0.0, torch.nan  # flat and broken boxes do not count
    found = masked_box_loss(
        deltas,
        source,
        target,
        counts,
        box2box_transform=TRANSFORM,
        loss_type=loss_type,
        smooth_l1_beta=beta,
    )
    torch.testing.assert_close(found, expected)
    (grad,) = torch.autograd.grad(found, deltas)
    torch.testing.assert_close(grad, expected_grad)
    assert not grad[~counts].any()


def test_no_box_gives_zero_with_a_graph() -> None:
    deltas = torch.full((3, 4), torch.nan, requires_grad=True)
    nothing = torch.zeros(3, dtype=torch.bool)
    loss = masked_box_loss(
        deltas, torch.zeros(3, 4), torch.zeros(3, 4), nothing, box2box_transform=TRANSFORM
    )
    assert loss.item() == 0
    loss.backward()
    assert deltas.grad is not None
    assert deltas.grad.tolist() == [[0.0] * 4] * 3


def test_the_usual_loss_waits_for_nothing() -> None:
    deltas = torch.randn(5, 4, requires_grad=True)
    source, target, counts = boxes(5), boxes(5), torch.ones(5, dtype=torch.bool)
    syncs = count_host_syncs(
        lambda: masked_box_loss(
            deltas, source, target, counts, box2box_transform=TRANSFORM
        ).backward()
    )
    assert not syncs.places, syncs


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of smooth_l1, giou, diou, ciou, got 'iou'"):
        masked_box_loss(
            torch.zeros(1, 4),
            boxes(1),
            boxes(1),
            torch.ones(1, dtype=torch.bool),
            box2box_transform=TRANSFORM,
            loss_type="iou",
        )

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import Counter

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.federated_loss import choose_federated_classes
from torch import Tensor
from torch.nn import functional as F


def _predictor(weights: list[float], num: int) -> FastRCNNOutputLayers:
    return FastRCNNOutputLayers(
        ShapeSpec(channels=2),
        box2box_transform=Box2BoxTransform((1, 1, 1, 1)),
        num_classes=len(weights),
        use_sigmoid_ce=True,
        use_fed_loss=True,
        fed_loss_num_classes=num,
        get_fed_loss_cls_weights=lambda: torch.tensor(weights),
    )


def _drawn_by_multinomial(gt_classes: Tensor, num: int, weights: Tensor) -> list[int]:
    present = sorted(set(gt_classes.tolist()))
    chances = [0.0 if i in present else float(w) for i, w in enumerate(weights)]
    chances.append(0.0)  # background
    missing = num - len(present)
    if missing <= 0:
        return present
    return present + torch.multinomial(torch.tensor(chances), missing).tolist()


@pytest.mark.parametrize("num", [1, 4, 5, 12, 30])
def test_draw_uses_the_random_numbers_of_multinomial(num: int) -> None:
    weights = torch.rand(40) + 0.1
    for seed in range(20):
        gt_classes = torch.randint(41, (6,), generator=torch.Generator().manual_seed(seed))
        torch.manual_seed(seed)
        found = choose_federated_classes(gt_classes, num, weights)
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        assert found.tolist() == _drawn_by_multinomial(gt_classes, num, weights)
        assert torch.equal(torch.get_rng_state(), state)


def test_classes_are_drawn_as_often_as_their_weights_say() -> None:
    weights = torch.tensor([8.0, 1, 3, 0, 4])
    gt_classes = torch.tensor([0, 5, 0])  # 5 is background
    drawn = Counter(choose_federated_classes(gt_classes, 3, weights)[2].item() for _ in range(4000))
    assert set(drawn) == {1, 2, 4}
    for label, expected in ((1, 1 / 8), (2, 3 / 8), (4, 4 / 8)):
        # Five standard deviations of a share over 4000 draws.
        assert drawn[label] / 4000 == pytest.approx(expected, abs=0.04)


def test_more_classes_are_asked_for_than_there_are() -> None:
    found = choose_federated_classes(torch.tensor([1, 1]), 50, torch.tensor([1.0, 1, 0]))
    assert sorted(found.tolist()) == [0, 1, 2, 3]


def test_loss_counts_only_the_chosen_classes() -> None:
    logits = torch.randn(3, 6, requires_grad=True)
    gt_classes = torch.tensor([1, 5, 3])
    predictor = _predictor([1.0, 1, 0, 1, 0], 4)  # 1, 3, background, and of the rest only 0
    loss = predictor.sigmoid_cross_entropy_loss(logits, gt_classes)
    expected = 0.0
    for row, label in zip(logits, gt_classes.tolist(), strict=True):
        for k in (0, 1, 3):
            p = row[k].sigmoid()
            expected -= float((p if k == label else 1 - p).log().detach())
    assert float(loss.detach()) == pytest.approx(expected / 3, rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad != 0).any(dim=0).tolist() == [True, True, False, True, False, False]


def test_ignored_regions_count_as_background() -> None:
    logits = torch.randn(2, 4)
    predictor = _predictor([1.0, 1, 1], 9)
    found = predictor.sigmoid_cross_entropy_loss(logits, torch.tensor([-1, 0]))
    target = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    expected = F.binary_cross_entropy_with_logits(logits[:, :3], target, reduction="sum") / 2
    torch.testing.assert_close(found, expected)


def test_a_subclass_may_choose_the_classes() -> None:
    class First(FastRCNNOutputLayers):
        def get_fed_loss_classes(self, *_: object, **__: object) -> Tensor:
            return torch.tensor([0])

    predictor = _predictor([1.0, 1, 1], 4)
    predictor.__class__ = First
    logits = torch.zeros(2, 4)
    loss = predictor.sigmoid_cross_entropy_loss(logits, torch.tensor([2, 3]))
    assert float(loss) == pytest.approx(0.693147, rel=1e-5)


@pytest.mark.parametrize("weights", [[1.0, -1.0], [0.0, 0.0], [1.0, float("nan")]])
def test_weights_that_nothing_can_be_drawn_by(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="expected finite weights, none below 0 and some above"):
        _predictor(weights, 2)

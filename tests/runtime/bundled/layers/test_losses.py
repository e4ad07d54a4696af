# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from detectron2.layers import ciou_loss, diou_loss


def _expected(a: list[float], b: list[float], *, shape: bool) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    sizes = [(x[2] - x[0], x[3] - x[1]) for x in (a, b)]
    iou = width * height / (sum(w * h for w, h in sizes) - width * height)
    distance = sum(((a[i] + a[i + 2]) / 2 - (b[i] + b[i + 2]) / 2) ** 2 for i in (0, 1))
    diagonal = sum((max(a[i + 2], b[i + 2]) - min(a[i], b[i])) ** 2 for i in (0, 1))
    loss = 1 - iou + distance / diagonal
    if shape:
        (w0, h0), (w1, h1) = sizes
        v = 4 / math.pi**2 * (math.atan(w0 / h0) - math.atan(w1 / h1)) ** 2
        loss += v * v / (1 - iou + v) if v else 0.0
    return loss


@pytest.mark.parametrize("loss", [diou_loss, ciou_loss])
def test_losses_equal_their_definition(loss: object) -> None:
    a = [[0.0, 0, 4, 2], [0, 0, 1, 1], [1, 2, 7, 9], [0, 0, 9, 9]]
    b = [[1.0, 0, 4, 5], [5, 6, 8, 7], [1, 2, 7, 9], [2, 3, 4, 8]]
    expected = [_expected(x, y, shape=loss is ciou_loss) for x, y in zip(a, b, strict=True)]
    first, second = torch.tensor(a), torch.tensor(b)
    assert loss(first, second).tolist() == pytest.approx(expected, abs=1e-5)
    assert float(loss(first[0], second[0])) == pytest.approx(expected[0], abs=1e-5)
    assert float(loss(first, second, reduction="sum")) == pytest.approx(sum(expected), abs=1e-5)
    assert float(loss(first, second, reduction="mean")) == pytest.approx(
        sum(expected) / 4, abs=1e-5
    )
    assert float(loss(first[:0], second[:0], reduction="mean")) == 0

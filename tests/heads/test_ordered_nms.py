# SPDX-License-Identifier: Apache-2.0
"""Suppression in sorted lists against torchvision's operator and by a loop; kernels interpreted."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

from vitdet_d2.analysis.host_syncs import count_host_syncs
from vitdet_d2.heads import ordered_nms as module
from vitdet_d2.heads.ordered_nms import ordered_nms


def crowd(*shape: int) -> Tensor:
    """Boxes of which many overlap."""
    corner = torch.rand(*shape, 2) * 40
    return torch.cat([corner, corner + 5 + torch.rand(*shape, 2) * 30], dim=-1)


def by_loop(boxes: Tensor, threshold: float) -> list[bool]:
    overlap = box_iou(boxes, boxes)
    kept: list[bool] = []
    for i in range(len(boxes)):
        kept.append(not any(kept[j] and overlap[j, i] > threshold for j in range(i)))
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_lists_are_those_of_a_loop_and_of_torchvision(threshold: float) -> None:
    boxes, sizes = crowd(3, 50), [20, 1, 29]
    kept = ordered_nms(boxes, sizes, threshold)
    for image in range(3):
        parts = zip(boxes[image].split(sizes), kept[image].split(sizes), strict=True)
        for part, found in parts:
            assert found.tolist() == by_loop(part, threshold)
            scores = torch.linspace(1, 0, len(part))
            assert sorted(nms(part, scores, threshold).tolist()) == found.nonzero()[:, 0].tolist()


def test_lists_do_not_see_each_other_and_empty_boxes_do_nothing() -> None:
    same = torch.tensor([[0.0, 0.0, 9.0, 9.0]]).expand(4, 4)
    assert ordered_nms(same[None], [2, 2], 0.5).tolist() == [[True, False, True, False]]
    assert ordered_nms(torch.zeros(1, 3, 4), [3], 0.0).tolist() == [[True] * 3]
    mixed = torch.cat([torch.zeros(1, 4), same])[None]
    assert ordered_nms(mixed, [5], 0.5).tolist() == [[True, True, False, False, False]]


def test_no_box_is_no_problem() -> None:
    assert ordered_nms(torch.zeros(2, 0, 4), [0, 0], 0.5).shape == (2, 0)
    assert ordered_nms(torch.zeros(0, 3, 4), [3], 0.5).shape == (0, 3)


def test_sizes_must_add_up() -> None:
    with pytest.raises(ValueError, match="expected lists of 5 boxes in all, got"):
        ordered_nms(crowd(1, 5), [2, 2], 0.5)


def test_nothing_waits() -> None:
    boxes = crowd(2, 30)
    assert not count_host_syncs(lambda: ordered_nms(boxes, [10, 20], 0.5)).places


def test_without_kernels_lists_are_done_one_by_one_and_it_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # On the CPU Triton runs no kernels, as on a GPU whose machine has no C compiler.
    module._has_kernels.cache_clear()
    boxes, sizes = crowd(2, 30), [10, 20]
    for _ in range(2):
        found = module._all_lists(boxes, sizes, 0.5)
        assert torch.equal(found, ordered_nms(boxes, sizes, 0.5))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "suppressed list by list" in caplog.text


KERNELS = """
import torch
import vitdet_d2
from tests.heads.test_ordered_nms import crowd
from vitdet_d2.heads.ordered_nms import ordered_nms
from vitdet_d2.heads.ordered_nms_triton import keep_of_lists

torch.manual_seed(0)
for lists, boxes in ((1, 1), (2, 40)):
    crowded = crowd(lists, boxes)
    crowded[0, boxes // 2 :: 3] = 0
    expected = ordered_nms(crowded, [boxes], 0.5)
    assert torch.equal(keep_of_lists(crowded, 0.5), expected), (lists, boxes)
"""


def test_kernels_keep_what_the_cpu_keeps() -> None:
    pytest.importorskip("triton", reason="the kernels are written in Triton")
    subprocess.run(
        [sys.executable, "-c", KERNELS],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_keeps_what_the_cpu_keeps() -> None:
    boxes, sizes = crowd(4, 4768), [2000, 2000, 768]
    kept = ordered_nms(boxes.cuda(), sizes, 0.7)
    assert torch.equal(kept.cpu(), ordered_nms(boxes, sizes, 0.7))

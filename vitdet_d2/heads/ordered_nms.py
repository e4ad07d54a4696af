# SPDX-License-Identifier: Apache-2.0
"""Non-maximum suppression of many sorted lists at once, with a result of fixed size.

torchvision's operator returns as many indices as boxes remain, and Python waits for that number;
here every box gets a bit. On CUDA all lists of a batch take two kernels; where Triton cannot build
them, torchvision's operator does the work there too, and Python waits once per list.

Shapes: ``N`` images, ``L`` lists of each, one after the other along ``R = sum(sizes)``.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import nms

__all__ = ["ordered_nms"]

logger = logging.getLogger(__name__)

# Boxes of the trial: as many as the recipes' RPN has on a level, for which the kernels are built.
_TRIAL_BOXES = 2000


def ordered_nms(boxes: Tensor, sizes: Sequence[int], threshold: float) -> Tensor:
    """Mark the boxes that no better box of their list overlaps.

    Args:
        boxes: ``(N, R, 4)`` XYXY; every list begins with its best box. A box without area neither
            suppresses nor is suppressed.
        sizes: of the lists.
        threshold: IoU above which the worse of two boxes is dropped; ``>= 0``.

    Returns:
        ``(N, R)`` bool.

    Raises:
        ValueError: the sizes do not add up.

    Source: what `torchvision.ops.nms` keeps of each list.
    """
    if sum(sizes) != boxes.shape[1]:
        raise ValueError(
            f"sizes: expected lists of {boxes.shape[1]} boxes in all, got {list(sizes)}"
        )
    kept: Tensor = _ordered_nms(boxes.float(), list(sizes), float(threshold))
    return kept


# One operator, so that what it costs an accelerator does not depend on how the CPU does it.
@torch.library.custom_op(
    "vitdet_d2::ordered_nms",
    mutates_args=(),
    schema="(Tensor boxes, SymInt[] sizes, float threshold) -> Tensor",
)
def _ordered_nms(boxes: Tensor, sizes: Sequence[int], threshold: float) -> Tensor:
    return _list_by_list(boxes, sizes, threshold)


@_ordered_nms.register_fake
def _(boxes: Tensor, sizes: Sequence[int], threshold: float) -> Tensor:
    del sizes, threshold
    return boxes.new_empty(boxes.shape[:2], dtype=torch.bool)


@_ordered_nms.register_kernel("cuda")
def _all_lists(boxes: Tensor, sizes: Sequence[int], threshold: float) -> Tensor:
    if boxes.numel() == 0 or not _has_kernels(boxes.device):
        return _list_by_list(boxes, sizes, threshold)
    from vitdet_d2.heads.ordered_nms_triton import keep_of_lists

    num_images, longest = boxes.shape[0], max(sizes)
    # Empty boxes fill the shorter lists.
    lists = boxes.new_zeros(num_images, len(sizes), longest, 4)
    for number, part in enumerate(boxes.split(list(sizes), dim=1)):
        lists[:, number, : part.shape[1]] = part
    kept = keep_of_lists(lists.flatten(0, 1), threshold).view(num_images, len(sizes), longest)
    return torch.cat([kept[:, number, :size] for number, size in enumerate(sizes)], dim=1)


def _list_by_list(boxes: Tensor, sizes: Sequence[int], threshold: float) -> Tensor:
    """Ask torchvision's operator for one list after the other."""
    kept = boxes.new_zeros(boxes.shape[:2], dtype=torch.bool)
    for image, image_kept in zip(boxes, kept, strict=True):
        for part, part_kept in zip(
            image.split(list(sizes)), image_kept.split(list(sizes)), strict=True
        ):
            order = torch.arange(len(part), 0, -1, device=part.device, dtype=part.dtype)
            part_kept[nms(part, order, threshold)] = True
    return kept


@functools.cache
def _has_kernels(device: torch.device) -> bool:
    """Try the kernels, once per device; what Triton lacks must not stop a training."""
    try:
        from vitdet_d2.heads.ordered_nms_triton import keep_of_lists

        keep_of_lists(torch.zeros(1, _TRIAL_BOXES, 4, device=device), 0.5)
    except Exception as error:
        logger.warning(
            "Proposals are suppressed list by list, which is slower: the kernels for it do not run "
            "on %s (%s: %s); Triton and a C compiler (CC) are needed",
            device,
            type(error).__name__,
            error,
        )
        return False
    return True

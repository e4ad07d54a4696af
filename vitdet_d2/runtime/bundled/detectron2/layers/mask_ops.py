# SPDX-License-Identifier: Apache-2.0
"""Pasting small square masks into full images.

A mask of ``M x M`` cells covers its box; cell centres stand at half-integer positions, and outside
of the box the mask is 0. N: masks, H, W: the image in pixels.

Source: the behaviour of detectron2 ``layers/mask_ops.py``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vitdet_d2.runtime.absent import absent_attribute

__all__ = ["paste_masks_in_image"]

__getattr__ = absent_attribute(__name__)

BYTES_PER_FLOAT = 4
GPU_MEM_LIMIT = 1024**3  # bytes of one chunk's float masks on an accelerator


def paste_masks_in_image(
    masks: Tensor,
    boxes: Tensor | object,
    image_shape: tuple[int, int],
    threshold: float = 0.5,
) -> Tensor:
    """Resample each mask onto the pixels of its box, and threshold it.

    Args:
        masks: ``(N, M, M)``, values in [0, 1].
        boxes: ``(N, 4)`` or ``Boxes``, XYXY in pixels.
        image_shape: ``(H, W)``.
        threshold: pixels of at least this value belong to the object; below 0, no thresholding.

    Returns:
        ``(N, H, W)``, bool; with a negative threshold uint8 in 0 to 255.

    Raises:
        ValueError: the masks are not square, or there are not as many boxes.
    """
    corners = boxes if isinstance(boxes, Tensor) else boxes.tensor  # type: ignore[attr-defined]
    if masks.dim() != 3 or masks.shape[-1] != masks.shape[-2]:
        raise ValueError(f"masks: expected square ones (N, M, M), got {tuple(masks.shape)}")
    if len(corners) != len(masks):
        raise ValueError(f"boxes: expected one per mask ({len(masks)}), got {len(corners)}")
    height, width = int(image_shape[0]), int(image_shape[1])
    dtype = torch.bool if threshold >= 0 else torch.uint8
    pasted = torch.zeros(len(masks), height, width, dtype=dtype, device=masks.device)
    for start, stop in _chunks(len(masks), height * width, masks.device):
        window = _window(corners[start:stop], height, width)
        soft = _sample(masks[start:stop], corners[start:stop], window)
        rows, columns = window
        pasted[start:stop, rows, columns] = (
            soft >= threshold if threshold >= 0 else (soft * 255).to(torch.uint8)
        )
    return pasted


def _chunks(num_masks: int, num_pixels: int, device: torch.device) -> list[tuple[int, int]]:
    """Split the masks: one by one on the CPU, as many as fit the memory limit elsewhere."""
    per_chunk = 1
    if device.type != "cpu":
        per_chunk = max(1, math.floor(GPU_MEM_LIMIT / max(1, num_pixels * BYTES_PER_FLOAT)))
    return [(start, min(start + per_chunk, num_masks)) for start in range(0, num_masks, per_chunk)]


def _window(boxes: Tensor, height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns that can be inside one of the boxes, with a pixel to spare.

    On an accelerator it is the whole image: finding less would wait for the device.
    """
    if boxes.device.type != "cpu" or not torch.isfinite(boxes).all():
        return slice(0, height), slice(0, width)
    limit = boxes.new_tensor([width, height])
    low = torch.minimum((boxes[:, :2].amin(0).floor() - 1).clamp(min=0), limit)
    high = torch.minimum((boxes[:, 2:].amax(0).ceil() + 1).clamp(min=0), limit)
    (left, top), (right, bottom) = low.long().tolist(), high.long().tolist()
    return slice(top, max(top, bottom)), slice(left, max(left, right))


def _sample(masks: Tensor, boxes: Tensor, window: tuple[slice, slice]) -> Tensor:
    """Interpolate ``(n, M, M)`` masks at the pixel centres of a window: ``(n, h, w)``."""
    rows, columns = window
    values = masks.to(torch.promote_types(masks.dtype, torch.float32))
    x1, y1, x2, y2 = boxes.split(1, dim=1)  # (n, 1) each
    y = torch.arange(rows.start, rows.stop, device=masks.device, dtype=torch.float32) + 0.5
    x = torch.arange(columns.start, columns.stop, device=masks.device, dtype=torch.float32) + 0.5
    y = (y - y1) / (y2 - y1) * 2 - 1  # (n, h); -1 and 1 are the edges of the mask
    x = (x - x1) / (x2 - x1) * 2 - 1  # (n, w)
    shape = (len(masks), y.shape[1], x.shape[1])
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3)
    return F.grid_sample(values[:, None], grid.to(values.dtype), align_corners=False)[:, 0]

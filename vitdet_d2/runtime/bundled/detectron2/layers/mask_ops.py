# SPDX-License-Identifier: Apache-2.0
"""Pasting small square masks into full images.

A mask of ``M x M`` cells covers its box; cell centres stand at half-integer positions, and outside
of the box the mask is 0. N: masks, H, W: the image in pixels.

Source: the behaviour of detectron2 ``layers/mask_ops.py``.
"""

from __future__ import annotations

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
    boxes: Tensor,
    image_shape: tuple[int, int],
    threshold: float = 0.5,
) -> Tensor:
    """Resample each mask onto the pixels of its box, and threshold it.

    Written in the part of Python that ``torch.jit.script`` compiles.

    Args:
        masks: ``(N, M, M)``, values in [0, 1].
        boxes: ``(N, 4)``, XYXY in pixels; outside of a script also ``Boxes``.
        image_shape: ``(H, W)``.
        threshold: pixels of at least this value belong to the object; below 0, no thresholding.

    Returns:
        ``(N, H, W)``, bool; with a negative threshold uint8 in 0 to 255.

    Raises:
        ValueError: the masks are not square, or there are not as many boxes.
    """
    if not isinstance(boxes, Tensor):
        boxes = boxes.tensor
    if masks.dim() != 3 or masks.shape[-1] != masks.shape[-2]:
        raise ValueError(f"masks: expected square ones (N, M, M), got {list(masks.shape)}")
    if len(boxes) != len(masks):
        raise ValueError(f"boxes: expected one per mask ({len(masks)}), got {len(boxes)}")
    height, width = int(image_shape[0]), int(image_shape[1])
    dtype = torch.bool if threshold >= 0 else torch.uint8
    pasted = torch.zeros([len(masks), height, width], dtype=dtype, device=masks.device)
    step = _chunk_size(height * width, masks.device.type == "cpu")
    for start in range(0, len(masks), step):
        stop = min(start + step, len(masks))
        top, bottom, left, right = _window(boxes[start:stop], height, width)
        soft = _sample(masks[start:stop], boxes[start:stop], top, bottom, left, right)
        hard = soft >= threshold if threshold >= 0 else (soft * 255).to(torch.uint8)
        pasted[start:stop, top:bottom, left:right] = hard
    return pasted


def _chunk_size(
    num_pixels: int, on_cpu: bool, limit: int = GPU_MEM_LIMIT // BYTES_PER_FLOAT
) -> int:
    """Return how many masks to paste at once: one on the CPU, elsewhere what the limit holds."""
    return 1 if on_cpu else max(1, limit // max(1, num_pixels))


def _window(boxes: Tensor, height: int, width: int) -> tuple[int, int, int, int]:
    """Return top, bottom, left, right of what can be inside one of the boxes, with a pixel more.

    On an accelerator it is the whole image: finding less would wait for the device.
    """
    if boxes.device.type != "cpu" or not bool(torch.isfinite(boxes).all()):
        return 0, height, 0, width
    limit = torch.tensor([width, height], dtype=boxes.dtype)
    low = torch.minimum((boxes[:, :2].amin(0).floor() - 1).clamp(min=0), limit)
    high = torch.minimum((boxes[:, 2:].amax(0).ceil() + 1).clamp(min=0), limit)
    left, top = int(low[0]), int(low[1])
    return top, max(top, int(high[1])), left, max(left, int(high[0]))


def _sample(masks: Tensor, boxes: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Interpolate ``(n, M, M)`` masks at the pixel centres of a window: ``(n, h, w)``."""
    values = masks if masks.dtype == torch.float64 else masks.float()
    x1, y1, x2, y2 = boxes.split(1, dim=1)  # (n, 1) each
    y = torch.arange(top, bottom, device=masks.device, dtype=torch.float32) + 0.5
    x = torch.arange(left, right, device=masks.device, dtype=torch.float32) + 0.5
    y = (y - y1) / (y2 - y1) * 2 - 1  # (n, h); -1 and 1 are the edges of the mask
    x = (x - x1) / (x2 - x1) * 2 - 1  # (n, w)
    shape = [len(masks), y.shape[1], x.shape[1]]
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3)
    return F.grid_sample(values[:, None], grid.to(values.dtype), align_corners=False)[:, 0]

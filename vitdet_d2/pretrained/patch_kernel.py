# SPDX-License-Identifier: Apache-2.0
"""Kernels of patch embeddings for another patch size.

Source: FlexiViT, arXiv 2212.08013, section 3.4 (pseudo-inverse).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PatchResize = Literal["pinv", "bicubic"]


def resize_patch_kernel(
    kernel: Tensor, size: tuple[int, int], method: PatchResize = "pinv"
) -> Tensor:
    """Resize the kernel of a patch embedding.

    Args:
        kernel: ``(D, C, h, w)``; any floating type, also on the meta device.
        size: ``(h', w')`` in pixels.
        method: ``pinv``: a patch that is resized bilinearly along with the kernel has the same
            embedding; ``bicubic``: the kernel is resized as an image is, which multiplies the
            embeddings by about ``h' * w' / (h * w)``; released "p14to16" files were made so.

    Returns:
        ``(D, C, h', w')`` of the same type; the kernel itself if the size stays.

    Raises:
        ValueError: the method is unknown.
    """
    if method not in ("pinv", "bicubic"):
        raise ValueError(f"patch_resize: expected pinv or bicubic, got {method!r}")
    old = (kernel.shape[2], kernel.shape[3])
    if old == tuple(size):
        return kernel
    if method == "bicubic":
        resized = F.interpolate(kernel.float(), size=size, mode="bicubic", align_corners=False)
        return resized.to(kernel.dtype)
    if kernel.is_meta:
        return kernel.new_empty(*kernel.shape[:2], *size)
    # B: patches (h * w) -> resized patches (h' * w'); <x, k> = <B x, k'> for k' = pinv(B)^T k.
    inverse = torch.linalg.pinv(_resize_matrix(old, size, kernel.device))  # (h * w, h' * w')
    flat = kernel.flatten(2).double() @ inverse
    return flat.unflatten(2, size).to(kernel.dtype)


def _resize_matrix(old: tuple[int, int], new: tuple[int, int], device: torch.device) -> Tensor:
    """Return ``(h' * w', h * w)``: the bilinear resize of patches, with antialiasing."""
    basis = torch.eye(old[0] * old[1], dtype=torch.float64, device=device)
    images = basis.unflatten(1, old)[:, None]
    images = F.interpolate(images, size=new, mode="bilinear", align_corners=False, antialias=True)
    return images.flatten(1).t()

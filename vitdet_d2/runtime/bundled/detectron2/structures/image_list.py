# SPDX-License-Identifier: Apache-2.0
"""A batch of images of different sizes, padded on the right and at the bottom.

N: images, C: channels, H, W: the padded size in pixels.

Source: the behaviour of detectron2 ``structures/image_list.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

CONSTRAINTS = ("size_divisibility", "square_size")


class ImageList:
    """Padded images, ``tensor`` of shape ``(N, C, H, W)``, and their own sizes."""

    tensor: Tensor
    image_sizes: list[tuple[int, int]]

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]) -> None:
        """Wrap a padded batch.

        Args:
            tensor: ``(N, H, W)`` or ``(N, ..., H, W)``.
            image_sizes: ``(height, width)`` of each image before padding.
        """
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> Tensor:
        """Return one image without its padding, ``(..., h, w)``."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> ImageList:
        """Return the batch on another device or in another type."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: Sequence[Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: Mapping[str, int] | None = None,
    ) -> ImageList:
        """Pad images to a common size.

        Args:
            tensors: images ``(..., h, w)`` that differ in their last two sizes only.
            size_divisibility: the common height and width are multiples of it; 0 or 1: no matter.
            pad_value: what the padding holds.
            padding_constraints: a backbone's wishes. ``size_divisibility`` overrules the argument
                above; ``square_size``, where positive, is the side of the square to pad to.

        Returns:
            The batch, with memory of its own.

        Raises:
            ValueError: no image, images that cannot be stacked, an unknown constraint, or an image
                larger than ``square_size``.
        """
        if len(tensors) == 0:
            raise ValueError("ImageList.from_tensors: expected at least one image, got none")
        leading = tensors[0].shape[:-2]
        if any(image.shape[:-2] != leading for image in tensors):
            shapes = [tuple(image.shape) for image in tensors]
            raise ValueError(f"ImageList.from_tensors: the channels differ: {shapes}")
        constraints = dict(padding_constraints or {})
        unknown = sorted(set(constraints) - set(CONSTRAINTS))
        if unknown:
            raise ValueError(f"padding_constraints: expected {CONSTRAINTS}, got {unknown}")
        sizes = [(image.shape[-2], image.shape[-1]) for image in tensors]
        height, width = _padded_size(
            sizes,
            constraints.get("size_divisibility", size_divisibility),
            constraints.get("square_size", 0),
        )
        if all(size == (height, width) for size in sizes):
            return ImageList(torch.stack(list(tensors)), sizes)
        batch = tensors[0].new_full((len(tensors), *leading, height, width), pad_value)
        for index, (image, (rows, columns)) in enumerate(zip(tensors, sizes, strict=True)):
            batch[index, ..., :rows, :columns].copy_(image)
        return ImageList(batch, sizes)


def _padded_size(
    sizes: list[tuple[int, int]], divisibility: int, square_size: int
) -> tuple[int, int]:
    height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
    if square_size > 0:
        if max(height, width) > square_size:
            raise ValueError(
                f"an image of {height} x {width} pixels does not fit the padded square of "
                f"{square_size}: resize to at most {square_size}, or raise the backbone's "
                "square_pad (padding_constraints['square_size'])"
            )
        height = width = square_size
    step = max(1, divisibility)
    return -(-height // step) * step, -(-width // step) * step

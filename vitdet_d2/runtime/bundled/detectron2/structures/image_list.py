# SPDX-License-Identifier: Apache-2.0
"""A batch of images of different sizes, padded on the right and at the bottom.

N: images, C: channels, H, W: the padded size in pixels.

Source: the behaviour of detectron2 ``structures/image_list.py``.
"""

# torch.jit.script compiles no generator expressions, only lists.
# ruff: noqa: C419

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from detectron2.layers.wrappers import shapes_to_tensor
from torch import Tensor
from torch import device as Device  # the name that torch.jit.script knows


class ImageList:
    """Padded images, ``tensor`` of shape ``(N, C, H, W)``, and their own sizes.

    Written in the part of Python that ``torch.jit.script`` compiles, ``to`` apart; it can be traced
    too.
    """

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

    @torch.jit.unused
    def to(self, *args: Any, **kwargs: Any) -> ImageList:
        """Return the batch on another device or in another type."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> Device:
        """Where the images are."""
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: list[Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> ImageList:
        """Pad images to a common size.

        Args:
            tensors: images ``(..., h, w)`` that differ in their last two sizes only, in a list or
                tuple.
            size_divisibility: the common height and width are multiples of it; 0 or 1: no matter.
            pad_value: what the padding holds.
            padding_constraints: a backbone's wishes. ``size_divisibility`` overrules the argument
                above; ``square_size``, where positive, is the side of the square to pad to.

        Returns:
            The batch, with memory of its own. While tracing, ``image_sizes`` are ``(2,)`` tensors,
            and the trace holds for images of other sizes, though not for another number of them.

        Raises:
            ValueError: no image, images that cannot be stacked, an unknown constraint, or an image
                larger than ``square_size``.
        """
        if len(tensors) == 0:
            raise ValueError("ImageList.from_tensors: expected at least one image, got none")
        square_size = 0
        if padding_constraints is not None:
            _check_constraints(padding_constraints)
            size_divisibility = padding_constraints.get("size_divisibility", size_divisibility)
            square_size = padding_constraints.get("square_size", 0)
        if not torch.jit.is_scripting():
            if torch.jit.is_tracing():
                return _pad_traced(tensors, size_divisibility, square_size, pad_value)
        leading = tensors[0].shape[:-2]
        if any([image.shape[:-2] != leading for image in tensors]):
            shapes = [list(image.shape) for image in tensors]
            raise ValueError(f"ImageList.from_tensors: the channels differ: {shapes}")
        sizes = [(image.shape[-2], image.shape[-1]) for image in tensors]
        height, width = _padded_size(sizes, size_divisibility, square_size)
        if all([size == (height, width) for size in sizes]):
            return ImageList(torch.stack(tensors), sizes)
        shape = [len(tensors)] + list(leading) + [height, width]  # noqa: RUF005
        batch = tensors[0].new_full(shape, pad_value)
        for index, image in enumerate(tensors):
            batch[index, ..., : image.shape[-2], : image.shape[-1]].copy_(image)
        return ImageList(batch, sizes)


def _check_constraints(constraints: dict[str, int]) -> None:
    known = ["size_divisibility", "square_size"]
    for name in constraints.keys():
        if name not in known:
            raise ValueError(f"padding_constraints: expected {known}, got {name}")


def _padded_size(
    sizes: list[tuple[int, int]], divisibility: int, square_size: int
) -> tuple[int, int]:
    height, width = max([size[0] for size in sizes]), max([size[1] for size in sizes])
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


def _pad_traced(
    tensors: list[Tensor], divisibility: int, square_size: int, pad_value: float
) -> ImageList:
    """Pad with sizes that are tensors, so that they do not become constants of the trace."""
    sizes = [shapes_to_tensor(image.shape[-2:]) for image in tensors]
    target = torch.stack(sizes).amax(dim=0)
    if square_size > 0:
        target = torch.full_like(target, square_size)
    step = max(1, divisibility)
    target = torch.div(target + (step - 1), step, rounding_mode="floor") * step
    padded = []
    for image, size in zip(tensors, sizes, strict=True):
        missing = target - size
        margins = cast("list[int]", [0, missing[1], 0, missing[0]])
        padded.append(F.pad(image, margins, value=pad_value))
    return ImageList(torch.stack(padded), cast("list[tuple[int, int]]", sizes))

# SPDX-License-Identifier: Apache-2.0
"""Reference boxes ("anchors") that the region proposal network deforms into proposals.

Shapes: ``A`` anchors per location, ``(H, W)`` the grid of one feature map. Anchors are XYXY in
pixels of the padded input image; they may reach beyond its border.

Source: Faster R-CNN, arXiv 1506.01497, section 3.1.1; equals detectron2 ``anchor_generator.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.by_name import part_by_name
from detectron2.structures import Boxes
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from vitdet_d2.runtime.absent import absent_attribute

__all__ = [
    "ANCHOR_GENERATOR_REGISTRY",
    "BufferList",
    "DefaultAnchorGenerator",
    "build_anchor_generator",
]

__getattr__ = absent_attribute(__name__)

ANCHOR_GENERATOR_REGISTRY = Registry("ANCHOR_GENERATOR")
ANCHOR_GENERATOR_REGISTRY.__doc__ = """Anchor generators by name: ``obj(cfg, input_shape)``."""


class BufferList(nn.Module):
    """A sequence of tensors that move with their module and stay out of checkpoints."""

    def __init__(self, buffers: Sequence[Tensor]) -> None:
        """Register the buffers under their positions.

        Args:
            buffers: tensors of any shape.
        """
        super().__init__()
        for i, buffer in enumerate(buffers):
            self.register_buffer(str(i), buffer, persistent=False)

    def __len__(self) -> int:
        return len(self._buffers)

    def __iter__(self) -> Iterator[Tensor]:
        for buffer in self._buffers.values():
            assert buffer is not None, "a registered anchor buffer was removed"
            yield buffer


def _one_list_per_feature(value: Any, num_features: int, name: str) -> list[list[float]]:
    """Repeat one list of numbers for every feature map, or check that there is one per map.

    Raises:
        ValueError: no list, or another number of lists.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) == 0:
        raise ValueError(f"{name}: expected a non-empty list of numbers or of lists, got {value!r}")
    nested = [list(v) for v in value] if isinstance(value[0], Sequence) else [list(value)]
    if len(nested) == 1:
        return nested * num_features
    if len(nested) != num_features:
        raise ValueError(
            f"{name}: expected 1 list or one for each of the {num_features} strides, "
            f"got {len(nested)} lists"
        )
    return nested


@ANCHOR_GENERATOR_REGISTRY.register()
class DefaultAnchorGenerator(nn.Module):
    """Place the same set of boxes, of several sizes and shapes, at every feature location."""

    box_dim: int = 4
    """Numbers that describe one anchor."""

    cell_anchors: BufferList

    @configurable
    def __init__(
        self,
        *,
        sizes: Sequence[float] | Sequence[Sequence[float]],
        aspect_ratios: Sequence[float] | Sequence[Sequence[float]],
        strides: Sequence[int],
        offset: float = 0.5,
    ) -> None:
        """Compute the boxes of one location for every feature map.

        Args:
            sizes: square roots of the anchor areas in pixels, for each feature map, or one list
                for all of them.
            aspect_ratios: height / width, for each feature map, or one list for all of them.
            strides: pixels between neighbouring locations of each feature map.
            offset: position of the first location in units of the stride, in ``[0, 1)``.

        Raises:
            ValueError: a list that does not fit ``strides``, or ``offset`` outside its range.
        """
        super().__init__()
        if not 0.0 <= offset < 1.0:
            raise ValueError(f"offset: expected a value in [0, 1), got {offset}")
        self.strides = strides
        self.num_features = len(strides)
        self.offset = offset
        self.cell_anchors = BufferList(
            [
                self.generate_cell_anchors(s, r)
                for s, r in zip(
                    _one_list_per_feature(sizes, self.num_features, "sizes"),
                    _one_list_per_feature(aspect_ratios, self.num_features, "aspect_ratios"),
                    strict=True,
                )
            ]
        )

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Sequence[ShapeSpec]) -> dict[str, Any]:
        """Return the arguments that ``MODEL.ANCHOR_GENERATOR`` holds.

        Args:
            cfg: the yacs configuration.
            input_shape: of each feature map.
        """
        node = cfg.MODEL.ANCHOR_GENERATOR
        return {
            "sizes": node.SIZES,
            "aspect_ratios": node.ASPECT_RATIOS,
            "offset": node.OFFSET,
            "strides": [shape.stride for shape in input_shape],
        }

    @property
    def num_anchors(self) -> list[int]:
        """Number of anchors per location, for each feature map."""
        return [len(anchors) for anchors in self.cell_anchors]

    @property
    def num_cell_anchors(self) -> list[int]:
        """Same as ``num_anchors``."""
        return self.num_anchors

    def generate_cell_anchors(
        self,
        sizes: Sequence[float] = (32, 64, 128, 256, 512),
        aspect_ratios: Sequence[float] = (0.5, 1, 2),
    ) -> Tensor:
        """Return the anchors of a location at the origin.

        Args:
            sizes: square roots of areas, in pixels.
            aspect_ratios: height / width.

        Returns:
            ``(len(sizes) * len(aspect_ratios), 4)`` float32, XYXY around ``(0, 0)``; the ratio
            varies fastest.
        """
        boxes = []
        for size in sizes:
            for ratio in aspect_ratios:
                width = math.sqrt(size**2 / ratio)
                height = ratio * width
                boxes.append([-width / 2, -height / 2, width / 2, height / 2])
        return torch.tensor(boxes, dtype=torch.float32)

    def _place(self, cell_anchors: Tensor, stride: int, grid_hw: tuple[int, int]) -> Tensor:
        """Copy ``(A, 4)`` anchors to every location: ``(H * W * A, 4)``, location by location."""
        y, x = (
            (torch.arange(n, dtype=torch.float32, device=cell_anchors.device) + self.offset)
            * stride
            for n in grid_hw
        )
        centers = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (H, W, 2), (x, y)
        shifts = centers.repeat(1, 1, 2).view(-1, 1, 4)
        return (shifts + cell_anchors).reshape(-1, 4)

    def forward(self, features: Sequence[Tensor]) -> list[Boxes]:
        """Return the anchors of every feature map.

        Args:
            features: one ``(N, C, H, W)`` map per stride; only the shapes matter.

        Returns:
            For each map the ``H * W * A`` anchors, location by location.
        """
        return [
            Boxes(self._place(anchors, stride, (feature.shape[-2], feature.shape[-1])))
            for anchors, stride, feature in zip(
                self.cell_anchors, self.strides, features, strict=True
            )
        ]


def build_anchor_generator(cfg: Any, input_shape: Sequence[ShapeSpec]) -> Any:
    """Build the anchors ``MODEL.ANCHOR_GENERATOR.NAME``.

    Args:
        cfg: the yacs configuration.
        input_shape: of each feature map.

    Raises:
        KeyError: no anchor generator has the name.
    """
    name = cfg.MODEL.ANCHOR_GENERATOR.NAME
    build = part_by_name(ANCHOR_GENERATOR_REGISTRY, name, "MODEL.ANCHOR_GENERATOR.NAME")
    return build(cfg, input_shape)

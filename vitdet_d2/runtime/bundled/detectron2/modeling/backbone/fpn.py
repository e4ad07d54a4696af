# SPDX-License-Identifier: Apache-2.0
"""Feature pyramid network: the maps of a backbone, fused from coarse to fine.

Level ``l`` has stride ``2 ** l`` and is called ``p<l>``.

Source: FPN, arXiv 1612.03144, section 3; equals detectron2 ``backbone/fpn.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling.backbone.backbone import Backbone
from detectron2.modeling.weight_fill import fill_xavier
from torch import Tensor, nn

__all__ = ["FPN", "LastLevelMaxPool", "LastLevelP6P7"]


class FPN(Backbone):
    """Give every level of a backbone the same channels and the context of the coarser levels."""

    top_block: Any

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        norm: str = "",
        top_block: nn.Module | None = None,
        fuse_type: Literal["sum", "avg"] = "sum",
        square_pad: int = 0,
    ) -> None:
        """Build a lateral and an output convolution per level.

        Args:
            bottom_up: the backbone.
            in_features: names of its maps, from fine to coarse, each twice the stride of the last.
            out_channels: channels of every level of the pyramid.
            norm: normalisation after each convolution, see ``get_norm``; "" for none.
            top_block: makes coarser levels; has ``num_levels`` and ``in_feature``, the name of the
                map, of the backbone or of the pyramid, that it reads.
            fuse_type: add what comes from above, or average with it.
            square_pad: > 0 pads images to squares of this side, in pixels.

        Raises:
            ValueError: no features, one that the backbone has not, strides that do not double, an
                unknown ``fuse_type``, or a ``top_block`` that reads a map that is not there.
        """
        super().__init__()
        if fuse_type not in ("sum", "avg"):
            raise ValueError(f"fuse_type: expected 'sum' or 'avg', got {fuse_type!r}")
        shapes = bottom_up.output_shape()
        _require_maps(in_features, list(shapes))
        strides = [shapes[name].stride or 0 for name in in_features]
        if not all(strides) or not strides or any(b != 2 * a for a, b in pairwise(strides)):
            raise ValueError(f"in_features: expected strides that double, got {strides}")
        levels = [int(math.log2(stride)) for stride in strides]

        lateral_convs, output_convs = [], []
        for name, level in zip(in_features, levels, strict=True):
            lateral = Conv2d(
                shapes[name].channels or 0,
                out_channels,
                kernel_size=1,
                bias=norm == "",
                norm=get_norm(norm, out_channels),
            )
            output = Conv2d(
                out_channels,
                out_channels,
                kernel_size=3,
                padding=1,
                bias=norm == "",
                norm=get_norm(norm, out_channels),
            )
            fill_xavier(lateral)
            fill_xavier(output)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", output)
            lateral_convs.append(lateral)
            output_convs.append(output)
        # Plain lists, coarse to fine: the state dict knows these layers by the names above.
        self.lateral_convs = lateral_convs[::-1]
        self.output_convs = output_convs[::-1]
        self.in_features = tuple(in_features)
        self.bottom_up = bottom_up
        self.top_block = top_block
        num_extra = 0 if top_block is None else self.top_block.num_levels
        known = [*shapes, *(f"p{level}" for level in levels)]
        if top_block is not None and self.top_block.in_feature not in known:
            raise ValueError(
                f"top_block.in_feature: expected one of {', '.join(known)}, got "
                f"{self.top_block.in_feature!r}"
            )
        levels += range(levels[-1] + 1, levels[-1] + 1 + num_extra)
        self._out_feature_strides = {f"p{level}": 2**level for level in levels}
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._size_divisibility = strides[-1]
        self._square_pad = square_pad
        self._fuse_type = fuse_type

    @property
    def size_divisibility(self) -> int:
        """The stride of the coarsest map of the backbone."""
        return self._size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        """The wish for squares."""
        return {"square_size": self._square_pad}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the pyramid.

        Args:
            x: ``(N, 3, H, W)`` images, sides divisible by ``size_divisibility``.

        Returns:
            ``p<l>``: ``(N, out_channels, H / 2**l, W / 2**l)``, from fine to coarse.
        """
        maps = self.bottom_up(x)
        outputs: list[Tensor] = []
        above: Tensor | None = None
        for name, lateral, output in zip(
            reversed(self.in_features), self.lateral_convs, self.output_convs, strict=True
        ):
            merged = lateral(maps[name])
            if above is not None:
                merged = merged + F.interpolate(above, scale_factor=2.0, mode="nearest")
                if self._fuse_type == "avg":
                    merged = merged / 2
            outputs.append(output(merged))
            above = merged
        pyramid = dict(zip(self._out_features, reversed(outputs), strict=False))
        if self.top_block is not None:
            source = str(self.top_block.in_feature)
            extra = self.top_block(maps[source] if source in maps else pyramid[source])
            pyramid.update(zip(self._out_features[len(outputs) :], extra, strict=True))
        return pyramid


class LastLevelMaxPool(nn.Module):
    """Make ``p6`` from every second pixel of ``p5``."""

    def __init__(self) -> None:
        """Set what FPN-like necks ask of a top block."""
        super().__init__()
        self.num_levels = 1
        self.in_feature = "p5"

    def forward(self, x: Tensor) -> list[Tensor]:
        """Subsample.

        Args:
            x: ``(N, C, H, W)``.

        Returns:
            One map, ``(N, C, ceil(H / 2), ceil(W / 2))``.
        """
        return [F.max_pool2d(x, kernel_size=1, stride=2, padding=0)]


def _require_maps(names: Sequence[str], known: Sequence[str]) -> None:
    """Require maps that the backbone has.

    Raises:
        ValueError: one is not there.
    """
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"in_features: the backbone has no map {', '.join(map(repr, missing))}; expected some "
            f"of {', '.join(known)}"
        )


class LastLevelP6P7(nn.Module):
    """Make ``p6`` and ``p7`` by strided convolutions of the backbone's last map (or of ``p5``)."""

    def __init__(self, in_channels: int, out_channels: int, in_feature: str = "res5") -> None:
        """Build the two convolutions.

        Args:
            in_channels: channels of the map ``in_feature``.
            out_channels: channels of the pyramid.
            in_feature: the map, of the backbone or of the pyramid, that ``p6`` is made from.
        """
        super().__init__()
        self.num_levels = 2
        self.in_feature = in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, kernel_size=3, stride=2, padding=1)
        fill_xavier(self.p6)
        fill_xavier(self.p7)

    def forward(self, c5: Tensor) -> list[Tensor]:
        """Subsample twice.

        Args:
            c5: ``(N, in_channels, H, W)``.

        Returns:
            Two maps, ``(N, out_channels, ceil(H / 2), ceil(W / 2))`` and its half.
        """
        p6 = self.p6(c5)
        return [p6, self.p7(F.relu(p6))]

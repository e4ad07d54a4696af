# SPDX-License-Identifier: Apache-2.0
"""Anchors, computed once for every shape of the feature maps."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes
from torch import Tensor, nn

__all__ = ["AnchorCache"]

# Shapes that are remembered: images of many sizes come in batches of many shapes, of up to 5 MB
# each, and with images of one size there is one.
_LIMIT = 16


class AnchorCache:
    """Remembers what Detectron2's anchor generator returned; any other is called every time.

    Detectron2 makes the locations on the host and copies them, two tensors for each map.
    """

    def __init__(self) -> None:
        self._known: dict[object, list[Tensor]] = {}

    def __call__(self, generator: nn.Module, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the anchors of every map, ``(R_l, 4)``; do not change them.

        Args:
            generator: makes them.
            maps: ``(N, C, H, W)`` each.
        """
        if type(generator) is not DefaultAnchorGenerator:
            return _tensors(generator(maps))
        # A generator that was moved has other tensors, one that was changed another version.
        cells = [(a.data_ptr(), a._version, a.device, a.dtype) for a in generator.cell_anchors]
        key = (*(m.shape[-2:] for m in maps), *cells)
        if key not in self._known:
            if len(self._known) == _LIMIT:
                self._known.pop(next(iter(self._known)))
            self._known[key] = _tensors(generator(maps))
        return self._known[key]


def _tensors(anchors: Sequence[Boxes]) -> list[Tensor]:
    return [boxes.tensor for boxes in anchors]

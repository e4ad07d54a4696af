# SPDX-License-Identifier: Apache-2.0
"""Every tensor of a batch changed in the same way: pinned, copied to a device.

A batch is made of lists, tuples and dictionaries of tensors and ``Instances``; whatever else is in
it stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor

from vitdet_d2.geometry.packed_polygons import PackedPolygons

Change = Callable[[Tensor], Tensor]


class PackedPolygonMasks(PolygonMasks):
    """Polygons that also lie in few tensors, which may be on a device; a selection has none.

    The constructor is Detectron2's, whose ``cat`` calls it: what is joined has no tensors, either.
    """

    packed: PackedPolygons | None = None

    @classmethod
    def of(cls, masks: PolygonMasks, packed: PackedPolygons) -> PackedPolygonMasks:
        """Keep both.

        Args:
            masks: the polygons; they are shared.
            packed: the same ones.
        """
        both = cls.__new__(cls)
        both.polygons = masks.polygons
        both.packed = packed
        return both

    def __getitem__(self, item: Any) -> PolygonMasks:
        """Select instances, as of plain polygon masks.

        Args:
            item: an index, a slice, or a list, array or tensor.
        """
        plain = PolygonMasks.__new__(PolygonMasks)
        plain.polygons = self.polygons
        return plain[item]


def change_tensors(value: Any, change: Change) -> Any:
    """Return a batch with other tensors.

    Args:
        value: a batch or a part of it; not changed.
        change: called with every tensor.
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Instances):
        fields = {k: change_tensors(v, change) for k, v in value.get_fields().items()}
        return Instances(value.image_size, **fields)
    if type(value) in (Boxes, BitMasks):
        return type(value)(change(value.tensor))
    if isinstance(value, PackedPolygonMasks) and value.packed is not None:
        return PackedPolygonMasks.of(value, value.packed.map(change))
    if isinstance(value, Mapping):
        return {k: change_tensors(v, change) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(change_tensors(item, change) for item in value)
    return value


def pack_polygons(value: Any) -> Any:
    """Return a batch whose polygon masks also lie in tensors, which can be pinned and copied.

    Args:
        value: a batch or a part of it; not changed.
    """
    if isinstance(value, Instances):
        fields = {k: pack_polygons(v) for k, v in value.get_fields().items()}
        return Instances(value.image_size, **fields)
    if type(value) is PolygonMasks:
        return PackedPolygonMasks.of(value, PackedPolygons.pack(value.polygons))
    if isinstance(value, Mapping):
        return {k: pack_polygons(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(pack_polygons(item) for item in value)
    return value

# SPDX-License-Identifier: Apache-2.0
"""From the yacs keys of a head to the pooler that crops for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler


def pooler_of_head(
    head: Any, in_features: Sequence[str], input_shape: Mapping[str, ShapeSpec]
) -> tuple[ROIPooler, ShapeSpec]:
    """Build the pooler of a head.

    Args:
        head: node with ``POOLER_RESOLUTION``, ``POOLER_SAMPLING_RATIO`` and ``POOLER_TYPE``, for
            example ``cfg.MODEL.ROI_BOX_HEAD``.
        in_features: names of the maps, from fine to coarse.
        input_shape: shapes of all maps, by name.

    Returns:
        The pooler, and the shape of one crop.

    Raises:
        ValueError: a map is missing, or they differ in channels: one head serves them all.
    """
    missing = [name for name in in_features if name not in input_shape]
    if missing or not in_features:
        raise ValueError(
            f"MODEL.ROI_HEADS.IN_FEATURES: expected names out of {', '.join(input_shape)}, got "
            f"{list(in_features)}"
        )
    shapes = [input_shape[name] for name in in_features]
    channels = {shape.channels for shape in shapes}
    if len(channels) > 1:
        raise ValueError(
            "MODEL.ROI_HEADS.IN_FEATURES: expected maps with the same number of channels, got "
            f"{[shape.channels for shape in shapes]}"
        )
    side = head.POOLER_RESOLUTION
    pooler = ROIPooler(
        output_size=side,
        scales=[1.0 / (shape.stride or 1) for shape in shapes],
        sampling_ratio=head.POOLER_SAMPLING_RATIO,
        pooler_type=head.POOLER_TYPE,
    )
    return pooler, ShapeSpec(channels=channels.pop(), height=side, width=side)

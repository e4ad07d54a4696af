# SPDX-License-Identifier: Apache-2.0
"""What one module promises the next about a feature map.

Source: the behaviour of detectron2 ``layers/shape_spec.py``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """Channels, size and stride of a feature map; ``None`` where it is not known in advance.

    ``stride`` is in pixels of the network's input, ``height`` and ``width`` in cells of the map.
    """

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None

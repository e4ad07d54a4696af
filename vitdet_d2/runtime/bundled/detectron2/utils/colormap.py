# SPDX-License-Identifier: Apache-2.0
"""A palette of vivid colours whose neighbours differ strongly, and random picks from it."""

from __future__ import annotations

import colorsys
from functools import lru_cache

import numpy as np

_NUM_COLORS = 72
# Successive hues are a golden ratio of the circle apart: no prefix of the palette is crowded.
_HUE_STEP = 0.618033988749895
# Saturation and value take turns, which separates the hues that do come near each other.
_TONES = ((0.90, 0.95), (0.65, 1.00), (1.00, 0.72))


@lru_cache(maxsize=1)
def _palette() -> np.ndarray:
    colors = [
        colorsys.hsv_to_rgb((0.58 + index * _HUE_STEP) % 1.0, *_TONES[index % len(_TONES)])
        for index in range(_NUM_COLORS)
    ]
    return np.asarray(colors, dtype=np.float32)


def _scaled(rgb: bool, maximum: int) -> np.ndarray:
    if maximum not in {1, 255}:
        raise ValueError(f"maximum: expected 1 or 255, got {maximum}")
    palette = _palette() * maximum
    return palette if rgb else palette[:, ::-1]


def colormap(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """Return the palette.

    Args:
        rgb: channel order RGB; otherwise BGR.
        maximum: the value of a full channel, 1 or 255.

    Returns:
        ``(72, 3)`` float32, no two alike and none of them gray.
    """
    return _scaled(rgb, maximum)


def random_color(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """Pick a colour of the palette, without touching NumPy's global generator.

    Args:
        rgb: channel order RGB; otherwise BGR.
        maximum: the value of a full channel, 1 or 255.

    Returns:
        ``(3,)`` float32.
    """
    return random_colors(1, rgb, maximum)[0]


def random_colors(N: int, rgb: bool = False, maximum: int = 255) -> list[np.ndarray]:
    """Pick N different colours of the palette, without touching NumPy's global generator.

    Args:
        N: how many, at most 72.
        rgb: channel order RGB; otherwise BGR.
        maximum: the value of a full channel, 1 or 255.

    Returns:
        N arrays ``(3,)`` float32.
    """
    chosen = np.random.default_rng().choice(_NUM_COLORS, size=N, replace=False)
    return list(_scaled(rgb, maximum)[chosen])

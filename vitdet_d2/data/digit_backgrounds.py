# SPDX-License-Identifier: Apache-2.0
"""Backgrounds of the digits data set: papers, gradients, clouds, stripes, patches, scribbles.

Every background is an ``(S, S, 3)`` RGB uint8 array. Its grey levels keep to a band of limited
height (``SPAN``), so that an ink with good contrast always exists.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

# Height of the band in grey levels, noise and scribbles included: leaves 85 to the farther end.
SPAN = 84

Random = np.random.RandomState
Colour = tuple[int, int, int]


class _Palette:
    """Colours of one picture: near a grey level in the middle of the band, of two related hues."""

    def __init__(self, random: Random) -> None:
        """Choose the band and the tint.

        Args:
            random: source of the choice.
        """
        self._random = random
        self._middle = int(random.randint(SPAN // 2, 256 - SPAN // 2))
        self._tint = random.randint(-28, 29, 3)

    def colour(self, reach: int = SPAN // 2 - 14) -> Colour:
        """Draw a colour whose grey level is at most ``reach`` from the middle of the band."""
        level = self._middle + int(self._random.randint(-reach, reach + 1))
        offset = self._tint + self._random.randint(-14, 15, 3)
        # Green weighs most in a grey level; subtracting the weighted mean keeps the level.
        shift = int(299 * offset[0] + 587 * offset[1] + 114 * offset[2]) // 1000
        red, green, blue = (int(min(max(level + value - shift, 0), 255)) for value in offset)
        return red, green, blue


def draw_background(random: Random, side: int) -> np.ndarray:
    """Draw a background at random.

    Args:
        random: source of everything random.
        side: of the square picture in pixels.

    Returns:
        ``(side, side, 3)`` RGB uint8.
    """
    palette = _Palette(random)
    kinds = (_flat, _gradient, _clouds, _stripes, _ruled_paper, _patches)
    kind: Callable[[Random, int, _Palette], Image.Image] = kinds[random.randint(len(kinds))]
    picture = kind(random, side, palette)
    if random.randint(2):
        _scribble(random, picture, palette)
    pixels = np.asarray(picture)
    grain = int(random.randint(0, 13))
    if not grain:
        return pixels.copy()
    # Grain of paper and film: the same on all channels half of the time, else coloured.
    shape = (side, side, 1) if random.randint(2) else (side, side, 3)
    noise = random.randint(-grain, grain + 1, shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def _flat(_: Random, side: int, palette: _Palette) -> Image.Image:
    return Image.new("RGB", (side, side), palette.colour())


def _gradient(_: Random, side: int, palette: _Palette) -> Image.Image:
    """A smooth change between four corner colours."""
    corners = Image.new("RGB", (2, 2))
    for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
        corners.putpixel((x, y), palette.colour())
    return corners.resize((side, side), Image.Resampling.BILINEAR)


def _clouds(random: Random, side: int, palette: _Palette) -> Image.Image:
    """A few by a few colours, enlarged smoothly: stains of any size."""
    cells = int(random.randint(3, 17))
    small = Image.new("RGB", (cells, cells))
    for index in range(cells * cells):
        small.putpixel((index % cells, index // cells), palette.colour())
    return small.resize((side, side), Image.Resampling.BICUBIC)


def _stripes(random: Random, side: int, palette: _Palette) -> Image.Image:
    """Bars of two colours in any direction."""
    picture = Image.new("RGB", (side, side), palette.colour())
    draw = ImageDraw.Draw(picture)
    colour = palette.colour()
    width = int(random.randint(side // 48 + 1, side // 8))
    lean = int(random.randint(-side, side + 1))
    for start in range(-abs(lean) - width, side + abs(lean) + width, 2 * width):
        draw.line([(start, 0), (start + lean, side)], fill=colour, width=width)
    return picture if random.randint(2) else picture.transpose(Image.Transpose.TRANSPOSE)


def _ruled_paper(random: Random, side: int, palette: _Palette) -> Image.Image:
    """Lines or squares of a notebook."""
    picture = (
        _gradient(random, side, palette) if random.randint(2) else _flat(random, side, palette)
    )
    draw = ImageDraw.Draw(picture)
    colour = palette.colour(SPAN // 2)
    step = int(random.randint(side // 20, side // 6))
    for position in range(int(random.randint(step)), side, step):
        draw.line([(0, position), (side, position)], fill=colour)
    if random.randint(2):
        for position in range(int(random.randint(step)), side, step):
            draw.line([(position, 0), (position, side)], fill=colour)
    return picture


def _patches(random: Random, side: int, palette: _Palette) -> Image.Image:
    """Rectangles and ellipses over each other."""
    picture = Image.new("RGB", (side, side), palette.colour())
    draw = ImageDraw.Draw(picture)
    for _ in range(int(random.randint(4, 16))):
        left, top = (int(v) for v in random.randint(-side // 4, side, 2))
        width, height = (int(v) for v in random.randint(side // 12, side // 2, 2))
        shape = draw.rectangle if random.randint(2) else draw.ellipse
        shape([left, top, left + width, top + height], fill=palette.colour())
    return picture


def _scribble(random: Random, picture: Image.Image, palette: _Palette) -> None:
    """Faint pencil strokes: clutter that is no digit."""
    draw = ImageDraw.Draw(picture)
    side = picture.width
    for _ in range(int(random.randint(2, 8))):
        points = [tuple(int(v) for v in random.randint(0, side, 2))]
        for _ in range(int(random.randint(1, 5))):
            step = random.randint(-side // 4, side // 4 + 1, 2)
            points.append((points[-1][0] + int(step[0]), points[-1][1] + int(step[1])))
        draw.line(points, fill=palette.colour(), width=int(random.randint(1, 4)), joint="curve")

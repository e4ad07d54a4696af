# SPDX-License-Identifier: Apache-2.0
"""Pictures of the digits data set: how scanned digits are enlarged, inked and placed.

Vocabulary: a *sample* is one 8x8 scan; a *canvas* is an ``(S, S, 3)`` RGB uint8 image in the
making; *owner* is an ``(S, S)`` map that says which digit is visible at a pixel, 0 for the
background. Only integer and plain float32 arithmetic, numpy's frozen ``RandomState`` and
Pillow's fixed-point resizing take part, so that every machine draws the same pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from .digit_backgrounds import draw_background

MAX_DIGITS = 8
# Of the image's side, for the longer side of a digit's box.
MIN_SIDE, MAX_SIDE = 1 / 8, 1 / 2
# A digit whose ink is hidden by more than this is no longer legible for sure.
MAX_HIDDEN = 0.05
# Of the smaller box, that two boxes may share: a 1 drawn inside a 4 is hard to read for anybody.
MAX_SHARED = 0.1
# Grey levels between the ink and everything but outliers of the background below it.
MIN_CONTRAST = 85
# Of the sample's darkest value; thinner strokes of the scans are broken above, blobs below.
INK_THRESHOLD = 0.42
# Places tried for a digit before a smaller one is tried, and sizes tried before it is left out.
PLACES, SIZES = 12, 4
# Thousandths of red, green and blue in a grey level (ITU-R BT.601).
LUMA = (299, 587, 114)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """``(x0, y0, x1, y1)`` in pixels around the true entries of a non-empty ``(H, W)`` mask."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def draw_picture(
    samples: np.ndarray, deck: Iterator[int], random: np.random.RandomState, side: int
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Draw one picture of 1 to 8 digits.

    Args:
        samples: ``(N, 8, 8)`` uint8 scans.
        deck: indices of the samples to draw next.
        random: source of everything else that is random.
        side: of the square picture in pixels.

    Returns:
        The canvas, the owner map (digit ``k`` from 1), and the sample of each digit.
    """
    canvas = draw_background(random, side)
    owner = np.zeros((side, side), np.uint8)
    used: list[int] = []
    wanted = random.randint(1, MAX_DIGITS + 1)
    # More small digits than large ones; large ones first, as small ones still find room between.
    ratios = MIN_SIDE + (MAX_SIDE - MIN_SIDE) * random.random_sample(wanted) ** 2
    for ratio in np.sort(ratios)[::-1]:
        sample = next(deck)
        if _place(canvas, owner, len(used) + 1, samples[sample], float(ratio) * side, random):
            used.append(sample)
    assert used, "an empty image has room for a digit of half its side"
    return canvas, owner, used


def _place(
    canvas: np.ndarray,
    owner: np.ndarray,
    number: int,
    scan: np.ndarray,
    length: float,
    random: np.random.RandomState,
) -> bool:
    """Ink one digit where it hides little of the others; smaller where there is no room.

    Returns:
        Whether a place was found; canvas and owner are changed only then.
    """
    side = len(owner)
    boxes = np.array([box_of(owner == other) for other in range(1, number)]).reshape(-1, 4)
    areas = np.bincount(owner.ravel(), minlength=number + 1)
    stretch = float(random.uniform(0.85, 1.15))
    for _ in range(SIZES):
        alpha = _ink_alpha(scan, length, MIN_SIDE * side, MAX_SIDE * side, stretch)
        mask = alpha >= 0.5
        height, width = mask.shape
        for _ in range(PLACES):
            top, left = random.randint(0, side - height + 1), random.randint(0, side - width + 1)
            window = np.s_[top : top + height, left : left + width]
            place = np.array([left, top, left + width, top + height])
            if _is_apart(place, boxes) and _is_free(owner, window, mask, areas):
                _ink(canvas[window], alpha, _ink_colour(canvas[window], mask, random))
                owner[window][mask] = number
                return True
        length *= 0.75
    return False


def _is_apart(place: np.ndarray, boxes: np.ndarray) -> bool:
    """Whether a box ``(4,)`` shares little with each of ``(K, 4)`` others, XYXY pixels."""
    overlap = np.minimum(place[2:], boxes[:, 2:]) - np.maximum(place[:2], boxes[:, :2])
    shared = np.maximum(overlap, 0).prod(1)
    sizes = np.minimum((place[2:] - place[:2]).prod(), (boxes[:, 2:] - boxes[:, :2]).prod(1))
    return not (shared > MAX_SHARED * sizes).any()


def _is_free(
    owner: np.ndarray, window: tuple[slice, slice], mask: np.ndarray, areas: np.ndarray
) -> bool:
    """Whether a digit placed here hides little of every other, and keeps each box large enough."""
    hidden = np.bincount(owner[window][mask], minlength=len(areas))
    hidden[0] = 0
    if (hidden > MAX_HIDDEN * areas).any():
        return False
    touched = np.flatnonzero(hidden)
    if not len(touched):
        return True
    after = owner.copy()
    after[window][mask] = 0
    shortest = MIN_SIDE * len(owner)
    for number in touched:
        left, top, right, bottom = box_of(after == number)
        if max(right - left, bottom - top) < shortest:
            return False
    return True


def _ink_alpha(
    scan: np.ndarray, length: float, shortest: float, longest: float, stretch: float
) -> np.ndarray:
    """Enlarge a sample smoothly to soft-edged ink.

    Args:
        scan: ``(8, 8)`` uint8.
        length: wanted longer side of the ink's box in pixels.
        shortest: smallest longer side in pixels.
        longest: largest longer side in pixels.
        stretch: width over height, relative to the sample's.

    Returns:
        ``(h, w)`` float32 in [0, 1], trimmed to the ink's box; >= 0.5 is ink.
    """
    # One pixel of paper around it, so that strokes at the scan's border get a rounded end.
    paper = Image.fromarray(np.pad(scan, 1))
    cutoff = np.float32(INK_THRESHOLD * int(scan.max()))
    scale = length / len(scan)
    for _ in range(6):
        size = (max(10, round(10 * scale * stretch)), max(10, round(10 * scale)))
        grey = np.asarray(paper.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
        left, top, right, bottom = box_of(grey >= cutoff)
        longer = max(right - left, bottom - top)
        if shortest <= longer <= longest and abs(longer - length) < 2:
            break
        # Half a pixel inside the bounds, as sizes are rounded.
        scale *= min(max(length, shortest + 0.5), longest - 0.5) / longer
    # An edge of the scan is one scan pixel wide; two pixels here, whatever the enlargement.
    alpha = np.clip((grey - cutoff) * np.float32(scale / 2 / 255) + np.float32(0.5), 0, 1)
    return alpha[top:bottom, left:right]


def _ink(canvas: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> None:
    """Blend ``colour`` ``(3,)`` into a view of the canvas in place."""
    weight = alpha[..., None]
    canvas[:] = (canvas * (1 - weight) + colour * weight + np.float32(0.5)).astype(np.uint8)


def _ink_colour(canvas: np.ndarray, mask: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Draw an ink that stands out from what lies below it.

    Returns:
        ``(3,)`` float32 RGB whose grey level is ``MIN_CONTRAST`` away from the 5 % to 95 % range of
        the background; backgrounds span so little that black or white always does.
    """
    grey = np.sort(_grey(canvas[mask]))
    low, high = int(grey[len(grey) // 20]), int(grey[len(grey) - 1 - len(grey) // 20])
    colours = random.randint(0, 256, (20, 3))
    levels = _grey(colours)
    contrasting = (levels <= low - MIN_CONTRAST) | (levels >= high + MIN_CONTRAST)
    if contrasting.any():
        return colours[contrasting.argmax()].astype(np.float32)
    return np.full(3, 10 if low > 255 - high else 245, np.float32)


def _grey(colours: np.ndarray) -> np.ndarray:
    """Grey levels ``(N,)`` of RGB colours ``(N, 3)``, both 0 to 255."""
    red, green, blue = colours.astype(np.int32).T
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue) // 1000

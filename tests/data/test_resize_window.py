# SPDX-License-Identifier: Apache-2.0
"""Windows of resized images, against resizing the whole image and cropping it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vitdet_d2.data.resize_window import resize_pillow, resize_tensor

SIZES = [(48, 64), (64, 48), (7, 300), (300, 7), (31, 31)]


def _noise(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def _windows(size, rng):
    """The whole, its corners, and random ones."""
    height, width = size
    yield (0, 0, width, height)
    yield (0, 0, max(width // 2, 1), max(height // 3, 1))
    yield (width // 2, height // 3, width, height)
    yield (width // 3, 0, max(width // 2, width // 3 + 1), height)
    for _ in range(4):
        x0, y0 = int(rng.integers(width)), int(rng.integers(height))
        yield x0, y0, int(rng.integers(x0, width)) + 1, int(rng.integers(y0, height)) + 1


@pytest.mark.parametrize("interp", list(Image.Resampling), ids=lambda i: i.name)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pillow_gives_the_pixels_of_the_whole_bit_for_bit(size, interp):
    rng = np.random.default_rng(3)
    image = Image.fromarray(_noise(size))
    for factor in (0.13, 0.7, 1.0, 1.9, 3.3):
        new = tuple(max(round(side * factor), 1) for side in size)
        whole = np.asarray(image.resize(new[::-1], interp))
        for x0, y0, x1, y1 in _windows(new, rng):
            part = resize_pillow(image, new, (x0, y0, x1, y1), interp)
            np.testing.assert_array_equal(np.asarray(part), whole[y0:y1, x0:x1])


@pytest.mark.parametrize("size", [*SIZES, (240, 320)], ids=str)
def test_torch_differs_by_a_grey_value(size):
    rng = np.random.default_rng(4)
    pixels = _noise(size)
    image = Image.fromarray(pixels)
    for factor in (0.13, 0.7, 1.0, 1.9, 3.3):
        new = tuple(max(round(side * factor), 1) for side in size)
        whole = np.asarray(image.resize(new[::-1], Image.Resampling.BILINEAR)).astype(int)
        for x0, y0, x1, y1 in _windows(new, rng):
            part = resize_tensor(torch.from_numpy(pixels), new, (x0, y0, x1, y1))
            assert part.shape == (y1 - y0, x1 - x0, 3)
            difference = np.abs(part.numpy().astype(int) - whole[y0:y1, x0:x1])
            # Two roundings, each of which may go the other way: noise shows one in a million twice.
            assert difference.max() <= 2
            assert (difference > 1).mean() < 1e-4


def test_torch_keeps_no_memory_of_what_was_cut():
    part = resize_tensor(torch.from_numpy(_noise((48, 64))), (96, 128), (3, 40, 90, 70))
    assert part.is_contiguous()
    assert part.untyped_storage().nbytes() == part.numel()

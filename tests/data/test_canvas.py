# SPDX-License-Identifier: Apache-2.0
"""Images that transforms are applied to at once, against one transform after the other."""

from __future__ import annotations

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from fvcore.transforms.transform import (
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    VFlipTransform,
)
from PIL import Image

from vitdet_d2.data.canvas import PillowCanvas, TensorCanvas, apply_known

PIXELS = np.random.default_rng(1).integers(0, 256, (37, 53, 3), dtype=np.uint8)
CHAINS = {
    "nothing": [NoOpTransform()],
    "crop_after_resize": [
        HFlipTransform(53),
        T.ResizeTransform(37, 53, 74, 106),
        CropTransform(20, 10, 48, 48),
    ],
    "flip_between": [
        T.ResizeTransform(37, 53, 74, 106, Image.Resampling.BICUBIC),
        VFlipTransform(74),
        CropTransform(20, 10, 200, 48),
    ],
    "crop_first": [CropTransform(3, 4, 30, 20), T.ResizeTransform(20, 30, 11, 17)],
    "twice": [T.ResizeTransform(37, 53, 74, 106), T.ResizeTransform(74, 106, 20, 20)],
    "nearest": [
        T.ResizeTransform(37, 53, 74, 106, Image.Resampling.NEAREST),
        CropTransform(20, 10, 48, 48),
    ],
}


def _canvases():
    return PillowCanvas(Image.fromarray(PIXELS)), TensorCanvas(torch.from_numpy(PIXELS.copy()))


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")  # fvcore's flip
@pytest.mark.parametrize("name", CHAINS)
def test_pixels_are_those_of_one_after_the_other(name):
    expected = PIXELS
    for transform in CHAINS[name]:
        expected = transform.apply_image(expected)
    for canvas, tolerance in zip(_canvases(), (0, 2 if name == "twice" else 1), strict=True):
        result, count = apply_known(canvas, CHAINS[name])
        assert count == len(CHAINS[name])
        assert result.size == expected.shape[:2]
        np.testing.assert_allclose(result.array().astype(int), expected, atol=tolerance)
        np.testing.assert_array_equal(result.tensor().permute(1, 2, 0), result.array())


def test_stops_at_an_unknown_transform():
    chain = [HFlipTransform(53), PadTransform(0, 0, 3, 3, 53, 37), VFlipTransform(40)]
    for canvas in _canvases():
        result, count = apply_known(canvas, chain)
        assert count == 1
        np.testing.assert_array_equal(result.array(), PIXELS[:, ::-1])


def test_tensor_is_writable_and_of_its_own():
    for canvas in _canvases():
        before = canvas.array().copy()
        tensor = apply_known(canvas, [CropTransform(0, 0, 9, 9)])[0].tensor()
        tensor += 1
        np.testing.assert_array_equal(canvas.array(), before)

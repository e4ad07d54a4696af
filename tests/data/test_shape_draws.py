# SPDX-License-Identifier: Apache-2.0
"""Augmentations drawn from a size, against drawing them while the image is transformed."""

from __future__ import annotations

import detectron2.data.transforms as T
import numpy as np
import pytest
from fvcore.transforms.transform import CropTransform

from vitdet_d2.data.fixed_size_crop import FixedSizeCrop
from vitdet_d2.data.shape_draws import draw_from_shape, window_of

CHAINS = {
    "large_scale_jitter": [
        T.RandomFlip(horizontal=True, prob=0.5),
        T.ResizeScale(0.1, 2.0, 48, 48),
        FixedSizeCrop((48, 48), pad=False),
    ],
    "one_scale": [T.ResizeShortestEdge((20, 30), 40), T.RandomFlip(horizontal=True)],
    "crop_between": [
        T.RandomCrop("relative_range", (0.5, 0.5)),
        T.ResizeScale(0.5, 2.0, 32, 40),
        T.RandomFlip(horizontal=False, vertical=True),
        T.FixedSizeCrop((24, 32), pad=False),
    ],
}


def _attributes(transform):
    return type(transform).__name__, {
        k: v for k, v in sorted(vars(transform).items()) if isinstance(v, (int, float, np.integer))
    }


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")  # fvcore's flip
@pytest.mark.parametrize("name", CHAINS)
def test_draws_are_those_of_detectron2(name):
    image = np.zeros((37, 53, 3), np.uint8)
    for seed in range(20):
        np.random.seed(seed)
        expected = T.AugmentationList(CHAINS[name])(T.AugInput(image)).transforms
        following = np.random.uniform()
        np.random.seed(seed)
        drawn, count = draw_from_shape(CHAINS[name], (37, 53))
        assert count == len(CHAINS[name])
        assert list(map(_attributes, drawn)) == list(map(_attributes, expected))
        assert np.random.uniform() == following


class _LooksAtPixels(T.RandomFlip):
    def get_transform(self, image):
        assert image.mean() > 0
        return super().get_transform(image)


@pytest.mark.parametrize("looking", [_LooksAtPixels(), T.RandomBrightness(0.5, 2.0)])
def test_stops_before_what_may_look_at_pixels(looking):
    drawn, count = draw_from_shape([T.RandomFlip(prob=1.0), looking, T.RandomFlip()], (4, 5))
    assert (len(drawn), count) == (1, 1)


def test_stops_after_a_size_that_is_not_known():
    chain = [FixedSizeCrop((9, 9), pad=True), T.RandomFlip()]
    drawn, count = draw_from_shape(chain, (4, 5))
    assert (len(drawn), count) == (2, 1)  # crop and padding


@pytest.mark.parametrize("place", [(0, 0, 5, 4), (2, 1, 9, 9), (1, 2, 2, 1)])
def test_window_is_the_slice_of_an_array(place):
    crop = CropTransform(*place)
    image = np.arange(20).reshape(4, 5)
    x0, y0, x1, y1 = window_of(crop, (4, 5))
    np.testing.assert_array_equal(image[y0:y1, x0:x1], crop.apply_image(image))

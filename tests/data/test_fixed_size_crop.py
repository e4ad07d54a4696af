# SPDX-License-Identifier: Apache-2.0
"""Our crop against Detectron2's: the same window, and polygons cut without shapely."""

from __future__ import annotations

import sys

import detectron2.data.transforms as T
import numpy as np
import pytest

from vitdet_d2.data.fixed_size_crop import FixedSizeCrop


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("size", [(40, 60), (20, 90), (10, 12)])
def test_same_window_as_detectron2(size: tuple[int, int], pad: bool) -> None:
    image = np.arange(size[0] * size[1], dtype=np.float32).reshape(size)
    results = []
    for crop in (FixedSizeCrop((24, 32), pad=pad), T.FixedSizeCrop((24, 32), pad=pad)):
        np.random.seed(3)
        transform = crop.get_transform(image)
        results.append((transform.apply_image(image), np.random.uniform()))
    (ours, our_next), (theirs, their_next) = results
    np.testing.assert_array_equal(ours, theirs)
    assert our_next == their_next


def test_polygons_are_cut_without_shapely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shapely", None)
    monkeypatch.setitem(sys.modules, "shapely.geometry", None)
    transform = FixedSizeCrop((10, 10), pad=False).get_transform(np.zeros((10, 10)))
    square = np.array([[5.0, 5.0], [15.0, 5.0], [15.0, 15.0], [5.0, 15.0]])
    (piece,) = transform.apply_polygons([square])
    assert (piece.min(), piece.max()) == (5, 10)

# SPDX-License-Identifier: Apache-2.0
"""Clipped polygons: hand cases, a raster reference, shapely where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

from vitdet_d2.geometry.crop_transform import CropTransform
from vitdet_d2.geometry.polygon_clip import clip_polygon

SQUARE = np.array([[2.0, 2], [8, 2], [8, 8], [2, 8]])
# A "U" open to the top: two arms, joined below y = 6
CUP = np.array([[0.0, 0], [2, 0], [2, 6], [8, 6], [8, 0], [10, 0], [10, 10], [0, 10]])


def _area(polygon):
    x, y = polygon.T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _corners(polygon):
    return sorted(map(tuple, polygon.tolist()))


def test_inside_stays_as_it_is():
    (piece,) = clip_polygon(SQUARE, (0, 0, 10, 10))
    np.testing.assert_array_equal(piece, SQUARE)


@pytest.mark.parametrize("window", [(8, 0, 12, 10), (0, 8, 10, 9), (-5, 0, 2, 10), (0, -5, 10, 2)])
def test_outside_or_touching_leaves_nothing(window):
    assert clip_polygon(SQUARE, window) == []


@pytest.mark.parametrize("order", [1, -1])
def test_corner_of_a_square(order):
    (piece,) = clip_polygon(SQUARE[::order], (5, 6, 20, 20))
    assert _corners(piece) == [(5, 6), (5, 8), (8, 6), (8, 8)]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("shift", range(8))
def test_concave_polygon_falls_into_its_pieces(order, shift):
    polygon = np.roll(CUP, shift, axis=0)[::order]
    pieces = clip_polygon(polygon, (-5, 1, 15, 5))  # only the arms: no bridge between them
    corners = sorted(_corners(piece) for piece in pieces)
    assert corners == [[(0, 1), (0, 5), (2, 1), (2, 5)], [(8, 1), (8, 5), (10, 1), (10, 5)]]


def test_polygon_around_a_corner_of_the_window_is_not_there():
    # An "L" that goes around the window's lower left corner without entering it: Sutherland-Hodgman
    # would leave that corner behind.
    angle = np.array([[0.0, 0], [10, 0], [10, 1], [1, 1], [1, 10], [0, 10]])
    assert clip_polygon(angle, (2, 2, 10, 10)) == []


def test_edge_on_the_window():
    (piece,) = clip_polygon(SQUARE, (2, 0, 10, 5))
    assert _corners(piece) == [(2, 2), (2, 5), (8, 2), (8, 5)]


@pytest.mark.parametrize("order", [1, -1])
def test_spike_that_touches_the_line_keeps_area_and_direction(order):
    # a "W": its middle tip touches y = 0, which cuts off everything above
    teeth = np.array([[0.0, -2], [4, 4], [5, 0], [6, 4], [10, -2], [10, 8], [0, 8]])[::order]
    pieces = clip_polygon(teeth, (-1, 0, 11, 20))
    lower = clip_polygon(teeth, (-1, -5, 11, 0))
    assert sum(map(_area, pieces)) + sum(map(_area, lower)) == pytest.approx(_area(teeth))


def test_flat_polygon_is_dropped():
    assert clip_polygon(np.array([[0.0, 0], [4, 4], [8, 8]]), (1, 1, 9, 9)) == []


def _evenodd(polygons, height, width):
    """Sample ``(4 height, 4 width)`` points: whether an odd number of edges lies to their right."""
    y, x = np.mgrid[0:height:0.25, 0:width:0.25] + 0.125
    crossed = np.zeros(x.shape, dtype=int)
    for polygon in polygons:
        for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            if y1 != y2:
                spans = (y1 > y) != (y2 > y)
                crossed += spans & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    return crossed % 2 == 1


def test_any_polygon_fills_the_same_points_as_before():
    rng = np.random.default_rng(0)
    for _ in range(60):  # random corners: nearly all cross themselves
        polygon = rng.uniform(0, 30, (rng.integers(3, 9), 2))
        x0, y0 = rng.integers(0, 15, 2).tolist()
        crop = CropTransform(x0, y0, 14, 11)
        pieces = crop.apply_polygons([polygon])
        assert (_evenodd(pieces, 11, 14) == _evenodd([polygon - (x0, y0)], 11, 14)).all()
        assert all((p >= 0).all() and (p <= (14, 11)).all() for p in pieces)


def test_simple_polygons_match_shapely():
    geometry = pytest.importorskip("shapely.geometry")
    rng = np.random.default_rng(1)
    for trial in range(150):
        count = rng.integers(3, 40)
        angles = np.sort(rng.uniform(0, 2 * np.pi, count))
        radii = rng.uniform(5, 60, count)
        star = np.stack([50 + radii * np.cos(angles), 50 + radii * np.sin(angles)], axis=1)
        if trial % 2:
            star = np.round(star)  # corners and edges on the window's lines
        if not geometry.Polygon(star).is_valid:
            continue
        x0, y0, w, h = (int(v) for v in rng.integers((0, 0, 5, 5), (60, 60, 60, 60)))
        pieces = clip_polygon(star, (x0, y0, x0 + w, y0 + h))
        expected = geometry.Polygon(star).intersection(geometry.box(x0, y0, x0 + w, y0 + h))
        assert sum(map(_area, pieces)) == pytest.approx(expected.area, abs=1e-9)
        if pieces:
            corners = np.concatenate(pieces)
            extent = (*corners.min(axis=0), *corners.max(axis=0))
            if expected.geom_type in ("Polygon", "MultiPolygon"):
                np.testing.assert_allclose(extent, expected.bounds, atol=1e-9)

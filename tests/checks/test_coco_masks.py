# SPDX-License-Identifier: Apache-2.0
"""Run lengths against pycocotools' packing; polygons against hand cases."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from vitdet_d2.checks.coco_masks import check_polygons, check_rles
from vitdet_d2.errors import DataError


def _random_masks(number: int) -> list[np.ndarray]:
    random = np.random.RandomState(0)
    masks = []
    for _ in range(number):
        height, width = random.randint(1, 90, 2)
        density = random.choice([0, 0.01, 0.3, 0.99, 1])
        masks.append((random.random_sample((height, width)) < density).astype(np.uint8))
    return masks


@pytest.mark.parametrize("kind", ["str", "bytes", "list"])
def test_areas_of_run_lengths_match_pycocotools(kind: str) -> None:
    masks = _random_masks(200)
    rles = []
    for mask in masks:
        rle = coco_mask.encode(np.asfortranarray(mask))
        if kind == "str":
            rle["counts"] = rle["counts"].decode()
        if kind == "list":
            columns = mask.ravel(order="F")
            edges = np.flatnonzero(np.diff(columns, prepend=0)).tolist()
            rle["counts"] = np.diff([0, *edges, len(columns)]).tolist()
        rles.append(rle)
    sizes = np.array([mask.shape for mask in masks])
    areas = check_rles(rles, sizes, str)
    np.testing.assert_array_equal(areas, [mask.sum() for mask in masks])


def test_every_truncation_of_packed_counts_is_noticed() -> None:
    mask = next(mask for mask in _random_masks(50) if 20 < mask.sum() < 200)
    rle = coco_mask.encode(np.asfortranarray(mask))
    text = rle["counts"]
    assert len(text) > 3
    for length in range(1, len(text)):
        with pytest.raises(DataError, match="mask number 0: the mask's"):
            check_rles(
                [{"size": list(mask.shape), "counts": text[:length]}],
                np.array([mask.shape]),
                lambda row: f"mask number {row}",
            )


@pytest.mark.parametrize("counts", ["P", "PPPPPPPP1", "oooooooo", " ", "1\u00e9", "~1"])
def test_strings_that_pack_nothing_are_refused(counts: str) -> None:
    good = {"size": [2, 3], "counts": [6]}
    with pytest.raises(DataError, match=r"^1: the mask's .*encode the mask again"):
        check_rles([good, {"size": [2, 3], "counts": counts}], np.array([[2, 3]] * 2), str)


def test_no_masks() -> None:
    assert check_rles([], np.zeros((0, 2), np.int64), str).shape == (0,)
    rows, positions = check_polygons([], np.zeros(0), str)
    assert (len(rows), len(positions)) == (0, 0)


def test_polygons_without_area_are_located() -> None:
    square = [0, 0, 4, 0, 4, 4]
    polygons = [[square], [[1, 2], square, [1] * 5], [square, [*square, 1]], [[]]]
    rows, positions = check_polygons(polygons, np.full(4, 10), str)
    assert list(zip(rows.tolist(), positions.tolist(), strict=True)) == [
        (1, 0),
        (1, 2),
        (2, 1),
        (3, 0),
    ]


def test_polygons_may_reach_beyond_the_image_within_reason() -> None:
    def check(value: float) -> None:
        check_polygons([[[0, 0, value, 0, 4, 4]]], np.array([10]), str)

    check(-160)
    check(160)
    with pytest.raises(DataError, match=r"coordinate 160\.5 is far outside"):
        check(160.5)


def test_blocks_do_not_change_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitdet_d2.checks.coco_masks.BLOCK", 2)
    square = [0, 0, 4, 0, 4, 4]
    polygons = [[square], [square], [square, [1, 1]], [[1]], [[2, 2]]]
    rows, positions = check_polygons(polygons, np.full(5, 10), str)
    assert (rows.tolist(), positions.tolist()) == ([2, 3, 4], [1, 0, 0])
    rles = [{"size": [1, n], "counts": [n - 1, 1]} for n in (2, 3, 4, 5, 6)]
    sizes = np.array([[1, n] for n in (2, 3, 4, 5, 6)])
    assert check_rles(rles, sizes, str).tolist() == [1] * 5
    rles[4]["counts"] = [9, 9]
    with pytest.raises(DataError, match=r"^4: "):
        check_rles(rles, sizes, str)

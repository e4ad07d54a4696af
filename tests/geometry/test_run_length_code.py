# SPDX-License-Identifier: Apache-2.0
"""Run lengths of windows, against pycocotools' code of the whole mask."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest

from vitdet_d2.geometry.run_length_code import Window, bitmap_windows, encode_windows


def _expected(masks: np.ndarray) -> list[dict]:
    codes = mask_util.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    return [{"size": c["size"], "counts": c["counts"].decode("ascii")} for c in codes]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (13, 17), (300, 420)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_codes_are_those_of_pycocotools(size, share):
    random = np.random.default_rng(0)
    masks = random.random((7, *size)) < share
    masks[3] = False
    masks[5] = True
    assert encode_windows(bitmap_windows(masks), *size) == _expected(masks)


@pytest.mark.parametrize(
    ("left", "top", "width", "height"),
    [
        (0, 0, 9, 6),
        (2, 0, 4, 6),
        (3, 1, 5, 5),
        (0, 2, 9, 3),
        (8, 5, 1, 1),
        (4, 2, 0, 0),
        (2, 0, 7, 6),
    ],
)
def test_windows_stand_where_they_say(left, top, width, height):
    random = np.random.default_rng(1)
    columns = random.random((4, width, height)) < 0.6
    columns[1] = True
    masks = np.zeros((4, 6, 9), bool)
    masks[:, top : top + height, left : left + width] = columns.transpose(0, 2, 1)
    windows = [Window(left=left, top=top, columns=part) for part in columns]
    assert encode_windows(windows, 6, 9) == _expected(masks)


def test_runs_of_thousands_of_pixels_take_several_digits():
    masks = np.zeros((2, 1500, 2000), bool)
    masks[0, 700:, 3:1990] = True
    masks[1, 0, 0] = masks[1, -1, -1] = True
    assert encode_windows(bitmap_windows(masks), 1500, 2000) == _expected(masks)


def test_no_masks_have_no_codes():
    assert encode_windows([], 4, 5) == []

# SPDX-License-Identifier: Apache-2.0
"""Resizing of relative position bias tables, against scipy's splines and by identities."""

import numpy as np
import pytest
import torch
from scipy.interpolate import RectBivariateSpline

from tests.closed_form import tensor
from vitdet_d2.layers.bias_table import geometric_offsets, resize_bias_table

# Old and new grid. Growing, shrinking, from and to BEiT's sizes; not square; one axis that stays;
# a ratio at its bounds; grids too small for a cubic.
GRIDS = [
    ((14, 14), (24, 24)),
    ((14, 14), (32, 32)),
    ((14, 14), (64, 64)),
    ((14, 14), (7, 7)),
    ((24, 24), (14, 14)),
    ((14, 14), (50, 80)),
    ((4, 7), (4, 9)),
    ((6, 5), (3, 5)),
    ((3, 3), (9, 40)),
    ((2, 2), (4, 5)),
]


def table_for(hw, heads=2):
    return tensor(f"table{hw}", ((2 * hw[0] - 1) * (2 * hw[1] - 1), heads))


def positions(old, new):
    """The old offsets on the new axis, by the words of the specification."""
    if old == new:
        return [float(i) for i in range(1 - old, old)]
    size, target = 2 * old - 1, 2 * new - 1
    left, right = 1.01, 1.5
    while right - left > 1e-6:
        q = (left + right) / 2
        if sum(q**i for i in range(size // 2)) > target // 2:
            right = q
        else:
            left = q
    one_side = [sum(q**i for i in range(n)) for n in range(1, size // 2 + 1)]
    return [-p for p in one_side[::-1]] + [0.0] + one_side


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_resizing_matches_scipy(old, new):
    table = table_for(old)
    y, x = (positions(a, b) for a, b in zip(old, new, strict=True))
    at = [np.arange(1 - n, n, dtype=float) for n in new]
    degrees = {"kx": min(3, len(y) - 1), "ky": min(3, len(x) - 1)}
    for head in range(2):
        numbers = table[:, head].numpy().reshape(len(y), len(x))
        expected = RectBivariateSpline(y, x, numbers, s=0, **degrees)(*at)
        actual = resize_bias_table(table, old, new)[:, head].numpy()
        assert np.abs(actual - expected.ravel()).max() < 1e-10


@pytest.mark.parametrize(("new", "ratio"), [(24, 1.090307), (32, 1.134918), (64, 1.237505)])
def test_ratio_of_beit(new, ratio):
    """The ratios of BEiT's own search from 14 tokens."""
    offsets = geometric_offsets(14, new)
    assert offsets[15] - offsets[14] == pytest.approx(ratio, abs=1e-6)
    assert offsets[-1] == pytest.approx(new - 1, abs=2e-3)


def test_offsets_by_hand():
    """With two and three tokens there is a choice only within the bounds of the ratio."""
    assert geometric_offsets(1, 9).tolist() == [0.0]
    assert geometric_offsets(2, 9).tolist() == [-1.0, 0.0, 1.0]
    assert geometric_offsets(3, 9)[-1] == pytest.approx(2.5, abs=1e-5)
    assert geometric_offsets(9, 3)[-1] == pytest.approx(sum(1.01**i for i in range(8)), abs=1e-4)


def test_near_offsets_keep_their_numbers():
    resized = resize_bias_table(table_for((5, 4)), (5, 4), (9, 11)).reshape(17, 21, 2)
    table = table_for((5, 4)).reshape(9, 7, 2)
    torch.testing.assert_close(resized[7:10, 9:12], table[3:6, 2:5])


def test_one_token_is_a_constant():
    table = table_for((1, 1))
    torch.testing.assert_close(resize_bias_table(table, (1, 1), (3, 2)), table.expand(15, 2))
    line = table_for((1, 3))
    resized = resize_bias_table(line, (1, 3), (2, 3)).reshape(3, 5, 2)
    torch.testing.assert_close(resized, line.expand(3, 5, 2))
    assert resize_bias_table(line, (1, 3), (1, 1)).shape == (1, 2)


def test_the_same_grid_is_the_same_table():
    table = table_for((3, 4))
    assert resize_bias_table(table, (3, 4), (3, 4)) is table


def test_gradient():
    table = table_for((4, 3), heads=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: resize_bias_table(t, (4, 3), (6, 2)), (table,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_types_are_kept_and_autocast_rounds_nothing(dtype):
    table = table_for((4, 4)).to(dtype)
    expected = resize_bias_table(table.double(), (4, 4), (7, 7)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        actual = resize_bias_table(table, (4, 4), (7, 7))
    assert actual.dtype == dtype
    assert torch.equal(actual, expected)


def test_on_the_meta_device_and_in_inference_mode():
    assert resize_bias_table(table_for((5, 5)).to("meta"), (5, 5), (8, 6)).shape == (165, 2)
    with torch.inference_mode():
        resize_bias_table(table_for((5, 5)), (5, 5), (8, 6))
    # What was cached there can still be trained with.
    table = table_for((5, 5)).requires_grad_()
    resize_bias_table(table, (5, 5), (8, 6)).sum().backward()
    assert table.grad.abs().max() > 0


def test_compiled_in_one_graph():
    table = table_for((4, 4))
    for dynamic in (False, True):
        compiled = torch.compile(
            resize_bias_table, fullgraph=True, dynamic=dynamic, backend="aot_eager"
        )
        for new in ((6, 8), (5, 7)):
            expected = resize_bias_table(table, (4, 4), new)
            torch.testing.assert_close(compiled(table, (4, 4), new), expected)


def test_bad_shapes_raise():
    with pytest.raises(ValueError, match=r"expected \(729, heads\) .* got \(732, 2\); the 3 more"):
        resize_bias_table(torch.zeros(732, 2), (14, 14), (14, 14))
    with pytest.raises(ValueError, match=r"expected \(25, heads\) .* got \(25,\)"):
        resize_bias_table(torch.zeros(25), (3, 3), (4, 4))
    with pytest.raises(
        ValueError, match=r"new_hw: expected sides of at least 1 token, got \(0, 4\)"
    ):
        resize_bias_table(torch.zeros(25, 2), (3, 3), (0, 4))

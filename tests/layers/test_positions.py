# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn.functional as F

from vitdet_d2.layers.absolute_position import get_abs_pos
from vitdet_d2.layers.relative_position import decomposed_terms, get_rel_pos, spread_over_keys


def slow_terms(q, table, axis, hw):
    """Loop over every query and key coordinate of one axis."""
    size = hw[axis]
    if table.shape[0] != 2 * size - 1:
        table = F.interpolate(table.T[None], size=2 * size - 1, mode="linear")[0].T
    out = q.new_zeros(*q.shape[:3], size)
    for query in range(q.shape[2]):
        coordinate = divmod(query, hw[1])[axis]
        for key in range(size):
            out[:, :, query, key] = q[:, :, query] @ table[coordinate - key + size - 1]
    return out


def test_get_rel_pos_of_a_drawn_table():
    table = torch.tensor([[-2.0], [-1.0], [0.0], [1.0], [2.0]])  # the row of a distance is itself
    expected = [[0, -1, -2], [1, 0, -1], [2, 1, 0]]
    assert get_rel_pos(3, table).squeeze(-1).tolist() == expected


def test_get_rel_pos_of_one_token():
    assert get_rel_pos(1, torch.tensor([[3.0, 4.0]])).tolist() == [[[3.0, 4.0]]]


@pytest.mark.parametrize("rows", [5, 7, 9])
def test_decomposed_terms_match_loops(rows):
    hw = (4, 3)  # tables of 7 and 5 rows; others are resized
    q = torch.randn(2, 3, 12, 8, dtype=torch.float64)
    tables = torch.randn(2, rows, 8, dtype=torch.float64)
    rel_h, rel_w = decomposed_terms(q, tables[0], tables[1], hw)
    torch.testing.assert_close(rel_h, slow_terms(q, tables[0], 0, hw))
    torch.testing.assert_close(rel_w, slow_terms(q, tables[1], 1, hw))


def test_spread_over_keys_is_row_major():
    rel_h, rel_w = torch.tensor([[10.0, 20.0]]), torch.tensor([[1.0, 2.0, 3.0]])
    assert spread_over_keys(rel_h, rel_w).tolist() == [[11, 12, 13, 21, 22, 23]]


def test_abs_pos_drops_the_class_token_and_keeps_a_matching_grid():
    tokens = torch.arange(5.0).reshape(1, 5, 1)
    assert get_abs_pos(tokens, True, (2, 2)).squeeze(-1).tolist() == [[[1, 2], [3, 4]]]


def test_abs_pos_keeps_a_constant_at_any_grid():
    tokens = torch.full((1, 16, 2), 0.5)
    out = get_abs_pos(tokens, False, (3, 7))
    torch.testing.assert_close(out, torch.full((1, 3, 7, 2), 0.5))


def test_abs_pos_does_not_mix_height_and_width():
    rows = torch.arange(4.0)[:, None].expand(4, 4).reshape(1, 16, 1)
    out = get_abs_pos(rows, False, (8, 4))[0, :, :, 0]
    assert torch.equal(out, out[:, :1].expand(8, 4))
    assert (out[1:, 0] > out[:-1, 0]).all()


def test_abs_pos_refuses_tokens_that_form_no_square():
    with pytest.raises(ValueError, match="square number of patch tokens, got 17"):
        get_abs_pos(torch.zeros(1, 17, 4), False, (4, 4))

# SPDX-License-Identifier: Apache-2.0
"""Fixed position embeddings, against a loop and each other."""

from __future__ import annotations

import math

import pytest
import torch

from vitdet_d2.pretrained.sincos import fixed_positions, is_fixed


@pytest.mark.parametrize("first", ["columns", "rows"])
def test_fixed_positions_match_the_formula_written_out(first: str):
    side, width = 3, 8
    found = fixed_positions(side, width, first)
    for row in range(side):
        for column in range(side):
            halves = (column, row) if first == "columns" else (row, column)
            wanted = []
            for place in halves:
                angles = [place / 10000 ** (i / (width // 4)) for i in range(width // 4)]
                wanted += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            torch.testing.assert_close(found[0, row * side + column], torch.tensor(wanted))


def test_either_order_is_the_transpose_of_the_other():
    columns, rows = fixed_positions(14, 768, "columns"), fixed_positions(14, 768, "rows")
    turned = columns.unflatten(1, (14, 14)).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(turned, rows)


def test_is_fixed_needs_the_right_order_zero_prefix_and_a_grid():
    columns = fixed_positions(4, 24, "columns")
    assert is_fixed(columns, 0, "columns")
    assert not is_fixed(columns, 0, "rows")
    assert is_fixed(torch.cat([torch.zeros(1, 1, 24), columns], dim=1), 1, "columns")
    assert not is_fixed(torch.cat([torch.ones(1, 1, 24), columns], dim=1), 1, "columns")
    assert not is_fixed(columns[:, 1:], 0, "columns")
    assert not is_fixed(columns[:, :1], 0, "columns")
    assert not is_fixed(columns.to("meta"), 0, "columns")

# SPDX-License-Identifier: Apache-2.0
import pytest

from vitdet_d2.backbones.placement import (
    all_blocks,
    check_block_indexes,
    even_blocks,
    first_blocks,
    last_blocks,
)
from vitdet_d2.errors import RecipeError


@pytest.mark.parametrize(
    ("depth", "count", "expected"),
    [
        (12, 4, [2, 5, 8, 11]),
        (24, 4, [5, 11, 17, 23]),
        (32, 4, [7, 15, 23, 31]),
        (24, 2, [11, 23]),
        (24, 1, [23]),
        (3, 3, [0, 1, 2]),
        (10, 4, [1, 4, 6, 9]),  # parts of 2, 3, 2 and 3 blocks
    ],
)
def test_even_blocks_end_equal_parts(depth, count, expected):
    assert even_blocks(depth, count) == expected


def test_first_last_and_all():
    assert first_blocks(24) == [0, 1, 2, 3]
    assert last_blocks(24) == [20, 21, 22, 23]
    assert last_blocks(24, 1) == [23]
    assert all_blocks(3) == first_blocks(3, 3) == last_blocks(3, 3) == [0, 1, 2]


@pytest.mark.parametrize("place", [even_blocks, first_blocks, last_blocks])
@pytest.mark.parametrize("count", [0, 13])
def test_counts_out_of_range_raise(place, count):
    with pytest.raises(RecipeError, match=rf"expected 1 to 12 blocks \(depth=12\), got {count}"):
        place(12, count)


def test_block_numbers_are_checked():
    assert check_block_indexes("name", [3, 1], 4) == (3, 1)
    with pytest.raises(RecipeError, match=r"name: expected block numbers from 0 to 3 .* got \[4\]"):
        check_block_indexes("name", [1, 4], 4)
    with pytest.raises(RecipeError, match=r"got \[-1\] in \[-1\]; count from 0"):
        check_block_indexes("name", [-1], 4)
    with pytest.raises(RecipeError, match=r"name: expected each block once, got \[1, 1\]"):
        check_block_indexes("name", [1, 1], 4)
    for wrong in (3, "12", [1.0], [[1]]):
        with pytest.raises(RecipeError, match="name: expected a list of block numbers"):
            check_block_indexes("name", wrong, 4)

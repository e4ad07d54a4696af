# SPDX-License-Identifier: Apache-2.0
"""Tables of another size: as the backbone resizes them when it runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.closed_form import tensor
from vitdet_d2.layers.bias_table import resize_bias_table
from vitdet_d2.layers.relative_position import get_rel_pos
from vitdet_d2.pretrained.relative_tables import fit_table, resize_relative_table


def table(length: int = 27) -> Tensor:
    return tensor("table", (length, 8)).float()


@pytest.mark.parametrize("size", [5, 14, 15, 64])
def test_the_backbone_sees_the_same(size: int) -> None:
    resized = resize_relative_table(table(), 2 * size - 1)
    assert resized.shape == (2 * size - 1, 8)
    assert torch.equal(get_rel_pos(size, resized), get_rel_pos(size, table()))


@pytest.mark.parametrize(("old", "new"), [(27, 127), (127, 27), (5, 9)])
def test_linear_between_centres(old: int, new: int) -> None:
    """Against numpy: row i is the middle of the i-th of `length` equal parts."""
    rows = table(old).double().numpy()
    places = (np.arange(new) + 0.5) * old / new - 0.5
    columns = [np.interp(places, np.arange(old), column) for column in rows.T]
    expected = torch.from_numpy(np.stack(columns, axis=1)).float()
    # 1e-5: the places are rounded to float32.
    torch.testing.assert_close(resize_relative_table(table(old), new), expected, atol=1e-5, rtol=0)


def test_identity_types_and_the_meta_device() -> None:
    own = table()
    assert resize_relative_table(own, 27) is own
    half = resize_relative_table(own.half(), 127)
    assert half.dtype == torch.float16
    assert torch.equal(half, resize_relative_table(own.half().float(), 127).half())
    assert resize_relative_table(own.to("meta"), 127).shape == (127, 8)


@pytest.mark.parametrize(
    "name", ["blocks.0.attn.relative_position_bias_table", "net.rel_pos_bias_window"]
)
@pytest.mark.parametrize("extra", [0, 3])
def test_the_name_tells_how_a_table_is_resized(name: str, extra: int) -> None:
    biases = tensor("biases", (25 + extra, 2)).float()
    expected = resize_bias_table(biases[:25], (3, 3), (5, 5))
    assert torch.equal(fit_table(name, biases, (81, 2)), expected)
    assert torch.equal(fit_table(name, biases, (25, 2)), biases[:25])
    decomposed = fit_table("blocks.0.attn.rel_pos_h", table(), (31, 8))
    assert torch.equal(decomposed, resize_relative_table(table(), 31))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("blocks.0.attn.rel_pos_h", (31, 16)),  # of other heads
        ("blocks.0.attn.relative_position_bias_table", (81, 8)),  # the file has 27 rows
        ("blocks.0.attn.proj.weight", (31, 8)),
    ],
)
def test_what_is_no_other_size_stays(name: str, wanted: tuple[int, int]) -> None:
    own = table()
    assert fit_table(name, own, wanted) is own

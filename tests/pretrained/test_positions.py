# SPDX-License-Identifier: Apache-2.0
"""Position embeddings of another grid."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.closed_form import tensor
from vitdet_d2.layers.absolute_position import get_abs_pos
from vitdet_d2.pretrained.positions import resize_position_grid, resize_positions


def test_grid_is_resized_and_class_token_kept() -> None:
    positions = torch.rand(1, 17, 6)
    resized = resize_positions(positions, 50)
    assert resized.shape == (1, 50, 6)
    assert torch.equal(resized[:, 0], positions[:, 0])
    maps = positions[:, 1:].reshape(1, 4, 4, 6).permute(0, 3, 1, 2)
    expected = F.interpolate(maps, size=(7, 7), mode="bicubic", align_corners=False)
    torch.testing.assert_close(resized[:, 1:].reshape(1, 7, 7, 6).permute(0, 3, 1, 2), expected)


def test_class_token_comes_and_goes() -> None:
    positions = torch.rand(1, 16, 3)
    with_class = resize_positions(positions, 17)
    assert not with_class[:, 0].any()
    assert torch.equal(with_class[:, 1:], positions)
    assert torch.equal(resize_positions(with_class, 16), positions)


@pytest.mark.parametrize("tokens", [3, 18, 198])
def test_no_square_grid(tokens: int) -> None:
    with pytest.raises(ValueError, match=f"{tokens} positions are no square grid"):
        resize_positions(torch.zeros(1, tokens, 2), 16)


@pytest.mark.parametrize("num_prefix", [0, 1, 2, 5])
@pytest.mark.parametrize(
    ("old", "new"), [((4, 4), (7, 7)), ((4, 4), (3, 9)), ((2, 8), (8, 2)), ((6, 3), (4, 4))]
)
def test_any_grid_behind_any_prefix(
    num_prefix: int, old: tuple[int, int], new: tuple[int, int]
) -> None:
    positions = tensor("positions", (1, num_prefix + old[0] * old[1], 6)).float()
    resized = resize_position_grid(positions, num_prefix, old, new)
    assert torch.equal(resized[:, :num_prefix], positions[:, :num_prefix])
    maps = positions[:, num_prefix:].reshape(1, *old, 6).permute(0, 3, 1, 2)
    expected = F.interpolate(maps, size=new, mode="bicubic", align_corners=False)
    assert torch.equal(resized[:, num_prefix:], expected.flatten(2).transpose(1, 2))


def test_a_square_is_resized_as_the_backbone_does() -> None:
    positions = tensor("positions", (1, 17, 6)).float()
    resized = resize_position_grid(positions, 1, None, (5, 3))
    assert torch.equal(resized[:, 1:].reshape(1, 5, 3, 6), get_abs_pos(positions, True, (5, 3)))


def test_rows_and_columns_are_told_apart() -> None:
    """MoCo v3's positions are MAE's, transposed."""
    positions = tensor("positions", (1, 16, 6)).float()
    transposed = positions.reshape(1, 4, 4, 6).transpose(1, 2).reshape(1, 16, 6)
    grid, other = (resize_position_grid(x, 0, None, (5, 7)) for x in (positions, transposed))
    assert not torch.allclose(grid, other)
    turned = resize_position_grid(transposed, 0, None, (7, 5))
    torch.testing.assert_close(turned.reshape(1, 7, 5, 6).transpose(1, 2).reshape(1, 35, 6), grid)


def test_identity_types_and_the_meta_device() -> None:
    own = tensor("positions", (1, 17, 6)).float()
    assert resize_position_grid(own, 1, None, (4, 4)) is own
    half = resize_position_grid(own.half(), 1, (4, 4), (7, 3))
    assert half.dtype == torch.float16
    assert torch.equal(half, resize_position_grid(own.half().float(), 1, (4, 4), (7, 3)).half())
    assert resize_position_grid(own.to("meta"), 1, (4, 4), (7, 3)).shape == (1, 22, 6)


@pytest.mark.parametrize(
    ("tokens", "num_prefix", "old"), [(17, 0, None), (16, 1, None), (198, 1, None), (17, 1, (3, 5))]
)
def test_prefix_rows_are_never_guessed(
    tokens: int, num_prefix: int, old: tuple[int, int] | None
) -> None:
    """198 rows of a distilled model, of which one prefix row was declared, and other mistakes."""
    with pytest.raises(ValueError, match=rf"{tokens} positions, {num_prefix} of them of prefix"):
        resize_position_grid(torch.zeros(1, tokens, 2), num_prefix, old, (4, 4))

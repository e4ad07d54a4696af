# SPDX-License-Identifier: Apache-2.0
"""Position embeddings of another grid."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vitdet_d2.pretrained.positions import resize_positions


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

# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from vitdet_d2.layers.window_partition import window_partition, window_unpartition


def test_windows_of_a_drawn_grid():
    x = torch.arange(1, 7).reshape(1, 2, 3, 1)  # 1 2 3 / 4 5 6, padded to 2 x 4
    windows, pad_hw = window_partition(x, 2)
    assert pad_hw == (2, 4)
    assert windows.squeeze(-1).tolist() == [[[1, 2], [4, 5]], [[3, 0], [6, 0]]]


def test_padding_takes_the_fill_value():
    x = torch.zeros(1, 1, 1, 2)
    windows, _ = window_partition(x, 2, fill=torch.tensor([5.0, 7.0]))
    assert windows[0, 0, 0].tolist() == [0, 0]
    for row, column in ((0, 1), (1, 0), (1, 1)):
        assert windows[0, row, column].tolist() == [5, 7]


def test_fill_receives_the_gradient_of_the_padding_alone():
    x = torch.zeros(2, 3, 3, 1, requires_grad=True)
    fill = torch.zeros(1, requires_grad=True)
    windows, _ = window_partition(x, 2, fill=fill)
    windows.sum().backward()
    assert fill.grad.item() == 2 * (16 - 9)
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("hw", [(1, 1), (4, 4), (5, 9), (14, 3)])
@pytest.mark.parametrize("window_size", [1, 3, 4])
def test_round_trip(hw, window_size):
    x = torch.randn(2, *hw, 3).transpose(1, 2)  # not contiguous
    hw = tuple(x.shape[1:3])
    windows, pad_hw = window_partition(x, window_size)
    assert windows.shape[1:] == (window_size, window_size, 3)
    assert torch.equal(window_unpartition(windows, window_size, pad_hw, hw), x)

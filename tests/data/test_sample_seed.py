# SPDX-License-Identifier: Apache-2.0
"""Random numbers of one sample: repeatable, different, and leaving no trace."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from vitdet_d2.data.sample_seed import sample_generator, sample_random_state


def _draw():
    return np.random.uniform(), random.random(), torch.rand(()).item()


def _drawn_in(seed, position):
    with sample_random_state(seed, position):
        return _draw()


def _fail_in(seed, position):
    with sample_random_state(seed, position):
        _draw()
        raise KeyError("inside")


def test_same_place_same_numbers():
    assert _drawn_in(3, 7) == _drawn_in(3, 7)
    places = [(3, 7), (3, 8), (4, 7), (7, 3), (0, 0), (2**40, 0), (0, 2**40)]
    drawn = [_drawn_in(*place) for place in places]
    for generator in range(3):
        assert len({numbers[generator] for numbers in drawn}) == len(places)


def test_generators_go_on_as_if_nothing_had_been_drawn():
    expected = [_draw(), _draw()]
    np.random.seed(0)
    random.seed(0)
    torch.manual_seed(0)
    found = [_draw()]
    _drawn_in(1, 2)
    with pytest.raises(KeyError, match=r"inside"):
        _fail_in(1, 3)
    found.append(_draw())
    assert found == expected


def test_streams_of_one_sample_differ():
    assert sample_generator(1, 2).random() == sample_generator(1, 2).random()
    assert sample_generator(1, 2).random() != sample_generator(1, 2, stream=1).random()

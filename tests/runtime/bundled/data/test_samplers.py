# SPDX-License-Identifier: Apache-2.0
"""Orders against hand-written streams, and the sharing among processes."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from detectron2.data.samplers import (
    GroupedBatchSampler,
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm
from torch.utils.data import SequentialSampler


def _as_process(monkeypatch, rank: int, world_size: int) -> None:
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: world_size)


def test_order_is_a_chain_of_permutations_of_one_generator():
    generator = torch.Generator().manual_seed(7)
    expected = [i for _ in range(3) for i in torch.randperm(5, generator=generator).tolist()]
    sampler = TrainingSampler(5, seed=7)
    assert list(islice(sampler, 15)) == expected
    assert list(islice(sampler, 15)) == expected  # from the start again
    assert list(islice(TrainingSampler(3, shuffle=False, seed=0), 7)) == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_one_stream_without_overlap(monkeypatch, world_size):
    whole = list(islice(TrainingSampler(7, seed=3), 60))
    for rank in range(world_size):
        _as_process(monkeypatch, rank, world_size)
        share = list(islice(TrainingSampler(7, seed=3), 60 // world_size))
        assert share == whole[rank::world_size]


def test_seed_none_is_agreed_on(monkeypatch):
    monkeypatch.setattr(comm, "shared_random_seed", lambda: 11)
    assert list(islice(TrainingSampler(9), 9)) == list(islice(TrainingSampler(9, seed=11), 9))


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (2.0, TypeError)])
def test_bad_size(size, error):
    with pytest.raises(error, match=r"size must be"):
        TrainingSampler(size)


def test_subset_is_fixed():
    sampler = RandomSubsetTrainingSampler(10, 0.4, seed_shuffle=1, seed_subset=2)
    drawn = list(islice(sampler, 12))
    subset = torch.randperm(10, generator=torch.Generator().manual_seed(2))[:4].tolist()
    assert all(sorted(drawn[i : i + 4]) == sorted(subset) for i in (0, 4, 8))
    with pytest.raises(ValueError, match=r"subset_ratio must be in"):
        RandomSubsetTrainingSampler(10, 0.01)


def test_repeat_factors_of_a_hand_case():
    # class 0 in 4 of 4 images, class 1 in 1 of 4; threshold 0.5: sqrt(0.5 / 0.25)
    def image(*categories):
        return {"annotations": [{"category_id": c} for c in categories]}

    images = [image(0), image(0, 1), image(0), image(0, 0)]
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(images, 0.5)
    torch.testing.assert_close(factors, torch.tensor([1.0, 2**0.5, 1.0, 1.0]))
    linear = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        [*images, image()], 0.5, sqrt=False
    )
    torch.testing.assert_close(linear, torch.tensor([1.0, 2.5, 1.0, 1.0, 1.0]))


def test_repeats_follow_the_factors():
    sampler = RepeatFactorTrainingSampler(torch.tensor([1.0, 2.5, 1.0]), seed=0)
    drawn = list(islice(sampler, 9000))
    assert drawn.count(1) / drawn.count(0) == pytest.approx(2.5, rel=0.05)
    assert drawn.count(2) / drawn.count(0) == pytest.approx(1.0, rel=0.01)
    unshuffled = RepeatFactorTrainingSampler(torch.tensor([2.0, 1.0]), shuffle=False, seed=0)
    assert list(islice(unshuffled, 6)) == [0, 0, 1, 0, 0, 1]


@pytest.mark.parametrize(("size", "world_size"), [(7, 3), (2, 4), (6, 2)])
def test_inference_covers_everything_once(monkeypatch, size, world_size):
    shares = []
    for rank in range(world_size):
        _as_process(monkeypatch, rank, world_size)
        sampler = InferenceSampler(size)
        shares.append(list(sampler))
        assert len(sampler) == len(shares[-1])
    assert [i for share in shares for i in share] == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_grouped_batches_fill_up_in_order():
    groups = [7, 7, 3, 7, 3, 3, 7]
    sampler = GroupedBatchSampler(SequentialSampler(groups), groups, 2)
    assert list(sampler) == [[0, 1], [2, 4], [3, 6]]
    assert list(sampler) == [[0, 1], [5, 2], [4, 5], [3, 6]]  # 5 was left over
    with pytest.raises(TypeError, match="has no length"):
        len(sampler)
    with pytest.raises(ValueError, match="must be a torch Sampler, got list"):
        GroupedBatchSampler([0, 1], groups, 2)

# SPDX-License-Identifier: Apache-2.0
"""Samples of fixed size: how many, of what, how evenly; Detectron2's counts are the judge."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.sampling import subsample_labels
from torch import Tensor

from vitdet_d2.analysis.host_syncs import count_host_syncs
from vitdet_d2.heads.fixed_sampling import sample_fixed

BACKGROUND = 7


def labels_of(positives: int, negatives: int, ignored: int) -> Tensor:
    labels = torch.cat(
        [
            torch.randint(0, BACKGROUND, (positives,)),
            torch.full((negatives,), BACKGROUND),
            torch.full((ignored,), -1),
        ]
    )
    return labels[torch.randperm(len(labels))]


@pytest.mark.parametrize(
    ("positives", "negatives", "ignored"),
    [
        (50, 100, 9),
        (2, 100, 0),
        (50, 3, 4),
        (2, 3, 0),
        (0, 100, 1),
        (50, 0, 1),
        (0, 0, 5),
        (1, 0, 0),
    ],
)
def test_counts_are_those_of_detectron2(positives: int, negatives: int, ignored: int) -> None:
    labels = labels_of(positives, negatives, ignored)
    sample = sample_fixed(labels[None], 16, 0.25, BACKGROUND)
    expected_positive, expected_negative = subsample_labels(labels, 16, 0.25, BACKGROUND)
    positive = sample.positive[sample.has_positive]
    negative = sample.negative[sample.has_negative]
    assert len(positive) == len(expected_positive)
    assert len(negative) == len(expected_negative)
    assert len({*positive.tolist(), *negative.tolist()}) == len(positive) + len(negative)
    assert ((labels[positive] >= 0) & (labels[positive] < BACKGROUND)).all()
    assert (labels[negative] == BACKGROUND).all()
    assert sample.positive.shape == (1, min(4, len(labels)))
    assert sample.negative.shape == (1, min(16, len(labels)))


def test_images_are_drawn_for_separately() -> None:
    rows = [labels_of(1, 19, 0), labels_of(10, 5, 5)]
    sample = sample_fixed(torch.stack(rows), 8, 0.5, BACKGROUND)
    assert sample.has_positive.sum(dim=1).tolist() == [1, 4]
    assert sample.has_negative.sum(dim=1).tolist() == [7, 4]
    assert sample.has_positive[0].tolist() == [True, False, False, False]


def test_every_candidate_is_equally_likely() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([[0, BACKGROUND] * 5]).expand(4000, -1)
    sample = sample_fixed(labels, 4, 0.5, BACKGROUND)
    # 2 of 5 positives and 2 of 5 negatives, 4000 times: 1600 of each, deviation 31.
    chosen = torch.cat([sample.positive[sample.has_positive], sample.negative[sample.has_negative]])
    counts = chosen.bincount(minlength=10)
    assert (counts - 1600).abs().max() < 5 * 31


def test_nothing_waits() -> None:
    labels = labels_of(5, 50, 5)[None]
    syncs = count_host_syncs(lambda: sample_fixed(labels, 16, 0.25, BACKGROUND))
    assert not syncs.places, syncs

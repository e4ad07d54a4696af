# SPDX-License-Identifier: Apache-2.0
"""Matching against Detectron2's own matcher, and what it may not ask of the device."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.matcher import Matcher

from vitdet_d2.analysis.host_syncs import count_host_syncs
from vitdet_d2.heads.box_matching import match

MATCHERS = {
    "regions": Matcher([0.5], [0, 1], allow_low_quality_matches=False),
    "anchors": Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
    "all ignored": Matcher([0.4, 0.5], [-1, -1, -1], allow_low_quality_matches=True),
}


@pytest.mark.parametrize("shape", [(5, 40), (1, 3), (3, 1), (0, 4), (4, 0), (0, 0)])
@pytest.mark.parametrize("name", MATCHERS)
def test_matches_are_those_of_detectron2(name: str, shape: tuple[int, int]) -> None:
    matcher = MATCHERS[name]
    # In steps of a tenth: ties, and qualities on the borders.
    quality = torch.randint(0, 11, shape).float() / 10
    matches, labels = match(matcher, quality)
    expected_matches, expected_labels = matcher(quality)
    assert torch.equal(labels, expected_labels)
    assert labels.dtype == torch.int8
    assert torch.equal(matches, expected_matches)


def test_an_element_that_nothing_overlaps_takes_all_boxes() -> None:
    quality = torch.tensor([[0.0, 0.0], [0.1, 0.9]])
    assert match(MATCHERS["anchors"], quality)[1].tolist() == [1, 1]
    assert match(MATCHERS["regions"], quality)[1].tolist() == [0, 1]


def test_nothing_waits() -> None:
    quality = torch.rand(3, 20)
    syncs = count_host_syncs(lambda: [match(matcher, quality) for matcher in MATCHERS.values()])
    assert not syncs.places, syncs


def test_a_matcher_of_somebody_else_is_asked() -> None:
    class Mine(Matcher):
        def __call__(self, match_quality_matrix):
            matches, labels = super().__call__(match_quality_matrix)
            return matches, labels.clamp(max=0)

    assert match(Mine([0.5], [0, 1]), torch.ones(1, 3))[1].tolist() == [0, 0, 0]

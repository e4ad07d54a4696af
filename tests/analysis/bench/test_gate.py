# SPDX-License-Identifier: Apache-2.0
"""What passes the gate, and what does not."""

from __future__ import annotations

import math

import pytest
import torch

from vitdet_d2.analysis.bench.gate import ALLOWED, difference, judge

ONES = torch.ones(4)


def shifted(share: float) -> torch.Tensor:
    """Ones, moved by so much of their norm."""
    return ONES * (1 + share)


@pytest.mark.parametrize("kind", ["output", "loss", "gradient"])
def test_relative_difference_of_whole_tensors(kind):
    name = f"{kind} x"
    assert judge({name: shifted(0.9 * ALLOWED[kind])}, {name: ONES}).passed
    verdict = judge({name: shifted(1.1 * ALLOWED[kind])}, {name: ONES})
    assert not verdict.passed
    assert verdict.failure is not None
    assert name in verdict.failure


def test_one_wrong_gradient_among_many_fails():
    theirs = {f"gradient {i}": ONES for i in range(5)}
    verdict = judge({**theirs, "gradient 3": -ONES}, theirs)
    assert verdict.worst["gradient"].name == "gradient 3"
    assert verdict.worst["gradient"].entries == 5
    assert not verdict.passed


def test_missing_evidence_fails():
    verdict = judge({"loss a": ONES}, {"loss a": ONES, "gradient b": ONES})
    assert verdict.failure == "only one side has gradient b"
    assert judge({}, {}).failure == "nothing was compared"


def test_not_a_number_fails():
    bad = torch.tensor([1.0, math.nan])
    assert not judge({"output x": bad}, {"output x": torch.ones(2)}).passed
    # Nor behind an entry that is as it should be.
    theirs = {"output w": torch.ones(2), "output x": torch.ones(2), "output y": torch.ones(2)}
    verdict = judge({**theirs, "output x": bad}, theirs)
    assert verdict.failure == "output x: inf > 1.0e-04"


def test_rounded_outputs_are_measured_against_float32():
    ours = {"output x": ONES, "rounded x": shifted(0.03)}
    theirs = {"output x": ONES}
    assert not judge(ours, theirs).passed
    # Detectron2 in the same precision is about as far away.
    assert judge(ours, theirs, {"rounded x": shifted(-0.02)}).passed
    assert not judge(ours, theirs, {"rounded x": shifted(-0.01)}).passed


def test_exact_texts_and_shapes():
    assert judge({"exact a": "1"}, {"exact a": "1"}).passed
    assert not judge({"exact a": "1"}, {"exact a": "2"}).passed
    assert difference("output", torch.ones(2), torch.ones(3)) == math.inf
    assert difference("exact", "1", ONES) == math.inf
    assert difference("boxes", torch.zeros(0, 4), torch.zeros(0, 4)) == 0
    assert difference("pixels", torch.tensor([0.0, 4.0]), torch.zeros(2)) == 2
    assert difference("output", torch.zeros(2), torch.zeros(2)) == 0

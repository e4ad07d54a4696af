# SPDX-License-Identifier: Apache-2.0
"""Learning rates over a whole schedule, by closed formula, and resuming."""

from __future__ import annotations

import io
import math

import pytest
import torch
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler

STEPS = {"values": [1.0, 0.1, 0.01], "milestones": [700, 900], "num_updates": 1000}


def optimizer() -> torch.optim.Optimizer:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (1e-4, 3e-5)]
    return torch.optim.SGD(groups, lr=1.0)


def rates(schedule: WarmupParamScheduler, iterations: int = 1000) -> list[list[float]]:
    sgd = optimizer()
    multiplier = LRMultiplier(sgd, schedule, iterations)
    result = []
    for _ in range(iterations):
        result.append([group["lr"] for group in sgd.param_groups])
        sgd.step()
        multiplier.step()
    return result


def test_linear_warm_up_to_steps() -> None:
    schedule = WarmupParamScheduler(MultiStepParamScheduler(**STEPS), 0.001, 50 / 1000)
    for iteration, (first, second) in enumerate(rates(schedule)):
        if iteration < 50:
            factor = 0.001 + (1 - 0.001) * iteration / 50
        else:
            factor = 0.1 ** ((iteration >= 700) + (iteration >= 900))
        assert first == pytest.approx(1e-4 * factor, rel=1e-9)
        assert second == pytest.approx(3e-5 * factor, rel=1e-9)


@pytest.mark.parametrize(("method", "rescale"), [("constant", False), ("linear", True)])
def test_warm_up_to_cosine(method: str, rescale: bool) -> None:
    cosine = CosineParamScheduler(1.0, 0.0)
    schedule = WarmupParamScheduler(cosine, 0.1, 0.2, method, rescale)
    for iteration, (first, _) in enumerate(rates(schedule)):
        where = iteration / 1000
        if where < 0.2:
            end = 1.0 if rescale else 0.5 * (1 + math.cos(math.pi * 0.2))
            factor = 0.1 if method == "constant" else 0.1 + (end - 0.1) * where / 0.2
        else:
            position = (where - 0.2) / 0.8 if rescale else where
            factor = 0.5 * (1 + math.cos(math.pi * position))
        assert first == pytest.approx(1e-4 * factor, rel=1e-6)


def test_state_is_plain_and_resumes() -> None:
    schedule = WarmupParamScheduler(MultiStepParamScheduler(**STEPS), 0.001, 0.05)
    whole = rates(schedule)
    sgd = optimizer()
    multiplier = LRMultiplier(sgd, schedule, 1000)
    for _ in range(30):
        sgd.step()
        multiplier.step()
    state = multiplier.state_dict()
    assert state == {"base_lrs": [1e-4, 3e-5], "last_epoch": 30}
    file = io.BytesIO()
    torch.save({"scheduler": state, "optimizer": sgd.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    other = optimizer()
    resumed = LRMultiplier(other, schedule, 1000)
    other.load_state_dict(loaded["optimizer"])
    resumed.load_state_dict(loaded["scheduler"])
    for iteration in range(30, 60):
        assert [group["lr"] for group in other.param_groups] == whole[iteration]
        other.step()
        resumed.step()


def test_wrong_arguments_are_told() -> None:
    cosine = CosineParamScheduler(1.0, 0.0)
    with pytest.raises(ValueError, match="exp"):
        WarmupParamScheduler(cosine, 0.1, 0.2, "exp")
    with pytest.raises((TypeError, ValueError), match="ParamScheduler"):
        LRMultiplier(optimizer(), lambda where: 1.0, 10)  # type: ignore[arg-type]

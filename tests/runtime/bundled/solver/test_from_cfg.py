# SPDX-License-Identifier: Apache-2.0
"""Optimizer, clipping and schedules from a yacs configuration, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.solver import (
    WarmupCosineLR,
    WarmupMultiStepLR,
    build_lr_scheduler,
    build_optimizer,
)
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR = 2.0
    cfg.SOLVER.MAX_ITER = 10
    cfg.SOLVER.STEPS = (6, 8, 99)
    cfg.SOLVER.WARMUP_ITERS = 2
    cfg.SOLVER.WARMUP_FACTOR = 0.5
    return cfg


def parameter(*gradient: float) -> nn.Parameter:
    result = nn.Parameter(torch.zeros(len(gradient)))
    result.grad = torch.tensor(gradient)
    return result


def rates(scheduler: Any, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    found = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_sgd_with_its_groups(cfg: CfgNode) -> None:
    cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM = 0.3, 0.1
    cfg.SOLVER.BIAS_LR_FACTOR, cfg.SOLVER.NESTEROV = 2.0, True
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm2d(2))
    optimizer = build_optimizer(cfg, model)
    assert type(optimizer) is torch.optim.SGD
    found = [
        (group["lr"], group["weight_decay"], group["momentum"], group["nesterov"])
        for group in optimizer.param_groups
    ]
    assert found == [
        (2.0, 0.3, 0.9, True),  # weight
        (4.0, 0.3, 0.9, True),  # bias
        (2.0, 0.1, 0.9, True),  # norm weight
        (4.0, 0.1, 0.9, True),  # norm bias
    ]


@pytest.mark.parametrize(
    ("kind", "norm_type", "expected"),
    [
        ("value", 2.0, [[-0.5, 0.5], [-0.25]]),
        # Each parameter by itself: 3-4-5 becomes length 0.5, and 0.25 is short enough.
        ("norm", 2.0, [[-0.3, 0.4], [-0.25]]),
        ("norm", math.inf, [[-0.375, 0.5], [-0.25]]),
    ],
)
def test_clipping(cfg: CfgNode, kind: str, norm_type: float, expected: list[list[float]]) -> None:
    node = cfg.SOLVER.CLIP_GRADIENTS
    node.ENABLED, node.CLIP_TYPE, node.CLIP_VALUE, node.NORM_TYPE = True, kind, 0.5, norm_type
    clipping = maybe_add_gradient_clipping(cfg, torch.optim.SGD)
    assert isinstance(clipping, type)
    assert clipping.__name__ == "SGDWithGradientClip"
    for make in (
        lambda p: clipping(p, lr=1.0),  # type: ignore[call-arg]
        lambda p: maybe_add_gradient_clipping(cfg, torch.optim.SGD(p, lr=1.0)),
    ):
        parameters = [parameter(3.0, -4.0), parameter(0.25), nn.Parameter(torch.ones(1))]
        optimizer = make(parameters)
        assert optimizer.step(lambda: 7.0) == 7.0
        for p, values in zip(parameters, expected, strict=False):
            torch.testing.assert_close(p.detach(), torch.tensor(values))
        assert parameters[2].item() == 1.0  # has no gradient


def test_no_clipping_and_unknown_clipping(cfg: CfgNode) -> None:
    optimizer = torch.optim.SGD([parameter(1.0)], lr=1.0)
    assert maybe_add_gradient_clipping(cfg, optimizer) is optimizer
    assert type(optimizer) is torch.optim.SGD
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = True, "sum"
    with pytest.raises(ValueError, match="CLIP_TYPE: expected 'value' or 'norm', got 'sum'"):
        maybe_add_gradient_clipping(cfg, optimizer)


def test_multi_step(cfg: CfgNode, caplog: pytest.LogCaptureFixture) -> None:
    optimizer = torch.optim.SGD([parameter(1.0)], lr=2.0)
    scheduler = build_lr_scheduler(cfg, optimizer)
    assert "(6, 8, 99): those after SOLVER.MAX_ITER = 10" in caplog.text
    expected = [1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 0.2, 0.2, 0.02, 0.02]
    assert rates(scheduler, optimizer, 9) == pytest.approx(expected)


def test_cosine(cfg: CfgNode) -> None:
    cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.BASE_LR_END = "WarmupCosineLR", 0.5
    optimizer = torch.optim.SGD([parameter(1.0)], lr=2.0)
    found = rates(build_lr_scheduler(cfg, optimizer), optimizer, 10)
    cosine = [0.5 + 1.5 * 0.5 * (1 + math.cos(math.pi * i / 10)) for i in range(11)]
    assert found[2:] == pytest.approx(cosine[2:])
    assert found[:2] == pytest.approx([1.0, (1.0 + cosine[2]) / 2])


def test_equal_steps(cfg: CfgNode) -> None:
    cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.NUM_DECAYS = "WarmupStepWithFixedGammaLR", 1
    cfg.SOLVER.WARMUP_ITERS = 0
    optimizer = torch.optim.SGD([parameter(1.0)], lr=2.0)
    found = rates(build_lr_scheduler(cfg, optimizer), optimizer, 9)
    assert found == pytest.approx([2.0] * 5 + [0.2] * 5)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("LR_SCHEDULER_NAME", "Poly", "expected one of WarmupMultiStepLR.*got 'Poly'"),
        ("BASE_LR_END", 3.0, r"BASE_LR_END: expected 0 to SOLVER\.BASE_LR = 2\.0, got 3\.0"),
        ("WARMUP_METHOD", "exp", "expected linear or constant, got 'exp'"),
    ],
)
def test_wrong_schedules(cfg: CfgNode, key: str, value: Any, message: str) -> None:
    if key == "BASE_LR_END":
        cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    cfg.SOLVER[key] = value
    with pytest.raises(ValueError, match=message):
        build_lr_scheduler(cfg, torch.optim.SGD([parameter(1.0)], lr=2.0))


def test_the_older_classes(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = torch.optim.SGD([parameter(1.0)], lr=2.0)
    steps = WarmupMultiStepLR(optimizer, [4, 5], warmup_factor=0.5, warmup_iters=2)
    assert rates(steps, optimizer, 5) == pytest.approx([1.0, 1.5, 2.0, 2.0, 0.2, 0.02])
    optimizer = torch.optim.SGD([parameter(1.0)], lr=2.0)
    cosine = WarmupCosineLR(
        optimizer, 4, warmup_factor=0.5, warmup_iters=1, warmup_method="constant"
    )
    half = [1 + math.cos(math.pi * i / 4) for i in range(5)]
    assert rates(cosine, optimizer, 4) == pytest.approx([half[0] / 2, *half[1:]])
    assert "WarmupCosineLR is obsolete" in caplog.text
    with pytest.raises(ValueError, match=r"milestones: expected growing iterations, got \[5, 4\]"):
        WarmupMultiStepLR(optimizer, [5, 4])
    with pytest.raises(ValueError, match="expected linear or constant, got 'exp'"):
        WarmupCosineLR(optimizer, 4, warmup_method="exp")  # type: ignore[arg-type]

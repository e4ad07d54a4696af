# SPDX-License-Identifier: Apache-2.0
"""When the fused kernels are taken, what they compute, and states of runs with other kernels."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from vitdet_d2.analysis.host_syncs import count_host_syncs
from vitdet_d2.solver.fused_step import fuse_steps, keep_kernels

HERE = ("cpu",)  # the kernels exist on the CPU too, where nobody takes them by default


def model_of(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3))


def adamw(model: nn.Module, **options: Any) -> torch.optim.AdamW:
    groups = [{"params": [p], "weight_decay": 0.1 * i} for i, p in enumerate(model.parameters())]
    return torch.optim.AdamW(groups, lr=1e-2, **options)


def run(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        model(torch.randn(6, 5, generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
def test_fused_steps_are_the_same_steps(kind: type[torch.optim.Optimizer]) -> None:
    plain, fused = model_of(), model_of()
    optimizers = [kind(m.parameters(), lr=1e-2, weight_decay=0.1) for m in (plain, fused)]
    assert fuse_steps(optimizers[1], HERE)
    assert all(group["fused"] for group in optimizers[1].param_groups)
    for model, optimizer in zip((plain, fused), optimizers, strict=True):
        run(model, optimizer, 5)
    torch.testing.assert_close(fused.state_dict(), plain.state_dict())


def test_the_cpu_keeps_its_own_by_default() -> None:
    optimizer = adamw(model_of())
    assert not fuse_steps(optimizer)
    assert optimizer.param_groups[0]["fused"] is None


class Mine(torch.optim.AdamW):
    """Somebody's optimizer."""


@pytest.mark.parametrize(
    "optimizer",
    [
        adamw(model_of(), foreach=True),
        adamw(model_of(), foreach=False),
        adamw(model_of(), fused=False),
        adamw(model_of(), differentiable=True),
        Mine(model_of().parameters()),
        torch.optim.RMSprop(model_of().parameters()),
    ],
    ids=["foreach", "no foreach", "not fused", "differentiable", "subclass", "another"],
)
def test_choices_and_other_optimizers_stay(optimizer: torch.optim.Optimizer) -> None:
    before = [dict(group) for group in optimizer.param_groups]
    assert not fuse_steps(optimizer, HERE)
    assert [dict(group) for group in optimizer.param_groups] == before


def test_the_scaler_leaves_overflow_to_the_kernel() -> None:
    assert not hasattr(adamw(model_of()), "_step_supports_amp_scaling")
    optimizer = adamw(model_of())
    fuse_steps(optimizer, HERE)
    assert (
        optimizer._step_supports_amp_scaling
        is adamw(model_of(), fused=True)._step_supports_amp_scaling
    )


def test_a_fused_step_waits_for_nothing() -> None:
    model = model_of()
    optimizer = adamw(model)
    fuse_steps(optimizer, HERE)
    run(model, optimizer, 1)
    model(torch.randn(6, 5)).square().mean().backward()
    assert not count_host_syncs(optimizer.step).places
    plain = adamw(model)
    plain.step()
    # The number of steps of every tensor, on the host where the kernels are not fused.
    assert count_host_syncs(plain.step).total == len(list(model.parameters()))


@pytest.mark.parametrize("saved_fused", [False, True])
def test_a_run_continues_with_its_own_kernels(saved_fused: bool) -> None:
    straight, model = model_of(), model_of()
    straight_optimizer, optimizer = adamw(straight), adamw(model)
    if saved_fused:
        fuse_steps(optimizer, HERE)
    run(straight, straight_optimizer, 3)
    run(model, optimizer, 3)
    saved = copy.deepcopy(optimizer.state_dict())

    resumed = adamw(model)
    if not saved_fused:
        fuse_steps(resumed, HERE)
    configured = [dict(group, params=None) for group in resumed.param_groups]
    resumed.load_state_dict(saved)
    assert resumed.param_groups[0]["fused"] is not configured[0]["fused"]
    keep_kernels(resumed, configured)
    assert resumed.param_groups[0]["fused"] is configured[0]["fused"]
    run(straight, straight_optimizer, 2)
    run(model, resumed, 2)
    torch.testing.assert_close(model.state_dict(), straight.state_dict())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_kernels_are_taken_and_count_on_the_device() -> None:
    model = model_of().cuda()
    optimizer = adamw(model)
    assert fuse_steps(optimizer)
    model(torch.randn(6, 5, device="cuda")).square().mean().backward()
    optimizer.step()
    assert all(state["step"].is_cuda for state in optimizer.state.values())
    configured = [dict(group, params=None) for group in adamw(model).param_groups]
    keep_kernels(optimizer, configured)
    assert not any(state["step"].is_cuda for state in optimizer.state.values())

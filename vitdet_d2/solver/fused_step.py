# SPDX-License-Identifier: Apache-2.0
"""Steps of the optimizer in few kernels, without a question to the device.

By default torch computes each part of a step for a list of tensors, and keeps the number of steps
of every tensor on the host. Its fused kernels do a step in one pass over weights, gradients and
moments, and count on the device; the scaler of float16 then never waits. The result is the same up
to rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["fuse_steps", "keep_kernels"]

logger = logging.getLogger(__name__)

# Of torch's own, without those that inherit from them and may step otherwise.
_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
_CHOICES = ("fused", "foreach")


def fuse_steps(optimizer: torch.optim.Optimizer, device_types: Collection[str] = ("cuda",)) -> bool:
    """Take the fused kernels, unless the recipe chose otherwise or they do not fit.

    Args:
        optimizer: has taken no step; ``fused`` or ``foreach``, true or false, are choices.
        device_types: where fused kernels are taken.

    Returns:
        Whether they were taken.
    """
    groups = optimizer.param_groups
    parameters = [p for group in groups for p in group["params"]]
    if (
        type(optimizer) not in _FUSED
        or any(group.get(name) is not None for group in groups for name in _CHOICES)
        or any(group.get("differentiable") for group in groups)
        or not all(p.device.type in device_types and p.is_floating_point() for p in parameters)
    ):
        return False
    for group in (optimizer.defaults, *groups):
        group["fused"] = True
    # What the constructor notes with fused=True, for the scaler.
    optimizer._step_supports_amp_scaling = True  # type: ignore[attr-defined]
    logger.debug("The optimizer takes its steps in fused kernels")
    return True


def keep_kernels(optimizer: torch.optim.Optimizer, configured: Sequence[Mapping[str, Any]]) -> None:
    """Go on with this run's kernels where a loaded state was saved with others.

    Args:
        optimizer: has just loaded a state, and with it the choices of the run that saved it.
        configured: its groups before.
    """
    for group, own in zip(optimizer.param_groups, configured, strict=True):
        for name in _CHOICES:
            if name in own:
                group[name] = own[name]
        on_device = group.get("fused") or group.get("capturable")
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if isinstance(state.get("step"), Tensor):
                device = parameter.device if on_device else torch.device("cpu")
                state["step"] = state["step"].to(device, torch.float32)

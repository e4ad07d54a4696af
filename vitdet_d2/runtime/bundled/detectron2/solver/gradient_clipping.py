# SPDX-License-Identifier: Apache-2.0
"""Optimizers that clip each parameter's gradient before their step.

Source: behaviour of detectron2 ``solver/build.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, overload

import torch
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

_Clip = Callable[[torch.Tensor], Any]


@overload
def maybe_add_gradient_clipping(cfg: Any, optimizer: Optimizer) -> Optimizer: ...


@overload
def maybe_add_gradient_clipping(cfg: Any, optimizer: type[Optimizer]) -> type[Optimizer]: ...


def maybe_add_gradient_clipping(
    cfg: Any, optimizer: Optimizer | type[Optimizer]
) -> Optimizer | type[Optimizer]:
    """Let an optimizer clip as ``SOLVER.CLIP_GRADIENTS`` says; nothing where it is off.

    Each parameter's gradient is clipped by itself: a norm is that of one parameter, not of all.

    Args:
        cfg: the yacs configuration.
        optimizer: an optimizer, which is changed, or a class, which is extended.

    Returns:
        The same optimizer, or the extended class.

    Raises:
        ValueError: an unknown ``CLIP_TYPE``.
    """
    node = cfg.SOLVER.CLIP_GRADIENTS
    if not node.ENABLED:
        return optimizer
    clip = _clip(node.CLIP_TYPE, node.CLIP_VALUE, node.NORM_TYPE)
    if isinstance(optimizer, Optimizer):
        # The class, not the method: learning-rate schedulers wrap the method themselves.
        optimizer.__class__ = _clipping_class(type(optimizer), clip)
        return optimizer
    return _clipping_class(optimizer, clip)


def _clip(kind: str, limit: float, norm_type: float) -> _Clip:
    if kind == "value":
        return partial(clip_grad_value_, clip_value=limit)
    if kind == "norm":
        return partial(clip_grad_norm_, max_norm=limit, norm_type=norm_type)
    raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE: expected 'value' or 'norm', got {kind!r}")


def _clipping_class(base: type[Optimizer], clip: _Clip) -> type[Optimizer]:
    def step(self: Optimizer, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:  # torch's clip_grad_value_ fails without one
                    clip(parameter)
        return base.step(self, closure)

    return type(f"{base.__name__}WithGradientClip", (base,), {"step": step})

# SPDX-License-Identifier: Apache-2.0
"""A copy of a sharded model with whole weights, for evaluation.

Processes evaluate different numbers of images, and gathering weights layer by layer would let the
one with more images wait for ever. The copy is a plain model, which needs nobody.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vitdet_d2.engine.find_blocks import block_steps, find_backbone
from vitdet_d2.errors import RecipeError


class WholeCopy:
    """A model without weights, which gets them for as long as it is evaluated."""

    def __init__(self, model: nn.Module) -> None:
        """Copy all but the parameters.

        Args:
            model: about to be sharded.
        """
        weightless = {
            id(p): nn.Parameter(p.detach().to("meta"), requires_grad=False)
            for p in model.parameters()
        }
        self._copy: nn.Module = copy.deepcopy(model, dict(weightless))
        with contextlib.suppress(RecipeError):
            for step in block_steps(find_backbone(self._copy, "evaluation")):
                # What compiles or recomputes belongs to the original's blocks.
                step.block.__dict__.pop("forward", None)

    @contextlib.contextmanager
    def with_weights(self, model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[nn.Module]:
        """Yield the copy with whole weights; a collective, which every process calls.

        Args:
            model: the sharded one, whose buffers and mode are taken over.
            weights: by name, sharded or whole.
        """
        buffers = dict(model.named_buffers())
        for name, buffer in self._copy.named_buffers():
            buffer.copy_(buffers[name])
        own = dict(self._copy.named_parameters())
        for name, parameter in own.items():
            parameter_on_device = _whole(weights[name]).to(parameter.dtype)
            _place(self._copy, name, nn.Parameter(parameter_on_device, requires_grad=False))
        self._copy.train(model.training)
        try:
            yield self._copy
        finally:
            for name, parameter in own.items():
                _place(self._copy, name, parameter)


def _whole(tensor: Tensor) -> Tensor:
    with torch.no_grad():
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _place(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Let every module that has the parameter of this name have this one."""
    old = model.get_parameter(name)
    for module in model.modules():
        for key, value in module._parameters.items():
            if value is old:
                module._parameters[key] = parameter

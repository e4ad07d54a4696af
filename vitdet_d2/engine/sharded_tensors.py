# SPDX-License-Identifier: Apache-2.0
"""Tensors of which every process holds some rows, and their way to whole ones and back.

Vocabulary:
    sharded: a `DTensor`, as FSDP makes parameters, gradients and moments.
    local: this process' rows, sharing memory with the sharded tensor.

Whatever gathers is a collective: every process calls it, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import get_total_norm


def local(tensor: Tensor) -> Tensor:
    """This process' rows of a tensor, without gradient; the tensor itself where it is whole.

    Args:
        tensor: sharded or whole.
    """
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(value: Any, *, keep: bool) -> Any:
    """Return nested containers with whole tensors on the CPU in place of sharded ones.

    One tensor at a time is whole on the device. Tensors that are not sharded stay as they are.

    Args:
        value: a state dict, for example; mappings, lists and tuples are searched.
        keep: whether this process wants the tensors; one that does not gets empty ones.
    """
    if isinstance(value, DTensor):
        with torch.no_grad():
            whole = value.full_tensor()
        return whole.cpu() if keep else torch.empty(0, dtype=whole.dtype)
    if isinstance(value, Mapping):
        return {key: gathered(item, keep=keep) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(gathered(item, keep=keep) for item in value)
    return value


def spread(whole: Tensor, like: Tensor) -> Tensor:
    """Shard a tensor that every process has, as another one is; nothing is sent.

    Args:
        whole: on any device.
        like: of the same shape; where it is not sharded, `whole` is returned as it is.
    """
    if not isinstance(like, DTensor) or isinstance(whole, DTensor):
        return whole
    on_device = whole.to(like.device)
    return distribute_tensor(on_device, like.device_mesh, like.placements, src_data_rank=None)


def load_model(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict of whole tensors into a model that may be sharded.

    Args:
        model: changed in place.
        state: of `gathered`, or of the model before it was sharded.

    Raises:
        RuntimeError: names or shapes differ, as of `torch.nn.Module.load_state_dict`.
    """
    own = model.state_dict()
    model.load_state_dict(
        {
            name: spread(tensor, own[name])
            if name in own and own[name].shape == tensor.shape
            else tensor
            for name, tensor in state.items()
        }
    )


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load an optimizer's state of whole tensors where its parameters may be sharded.

    Args:
        optimizer: changed in place.
        state: of `gathered`, or of the optimizer before its parameters were sharded.

    Raises:
        ValueError: the groups differ, as of `torch.optim.Optimizer.load_state_dict`.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = dict(state["state"])
    for number, values in moments.items():
        if number < len(parameters):
            like = parameters[number]
            moments[number] = {
                key: spread(value, like)
                if isinstance(value, Tensor) and value.shape == like.shape
                else value
                for key, value in values.items()
            }
    optimizer.load_state_dict({**state, "state": moments})


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients together, the same on every process; a whole scalar.

    Args:
        gradients: at least one; all sharded alike, or none.
    """
    norm = get_total_norm([local(gradient) for gradient in gradients])
    first = gradients[0]
    if not isinstance(first, DTensor):
        return norm
    # In double: the square of a large norm is beyond float32.
    squared = norm.double().square()
    for dimension, placement in enumerate(first.placements):
        if placement.is_shard():
            dist.all_reduce(squared, group=first.device_mesh.get_group(dimension))
    return squared.sqrt().to(norm.dtype)


def clip(parameters: Iterable[Tensor], max_norm: float, norm: Tensor) -> None:
    """Scale all gradients down so that their norm is at most `max_norm`.

    Args:
        parameters: whose gradients are changed in place.
        max_norm: above 0.
        norm: of `total_norm`.

    Source: the factor of `torch.nn.utils.clip_grads_with_norm_`.
    """
    gradients = [local(p.grad) for p in parameters if p.grad is not None]
    if gradients:
        torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))

# SPDX-License-Identifier: Apache-2.0
"""Putting tensors into a model, whether it has memory yet or not."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vitdet_d2.errors import WeightsError

# Parameters of our ViT that start at zero.
_STARTS_AT_ZERO = re.compile(
    r"\.rel_pos_[hw]$|relative_position_bias_table$|(^|\.)rel_pos_bias_\w+$"
)


def assign(path: str, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors into a model.

    A model on the meta device takes the tensors themselves; one with memory copies them.

    Args:
        path: of the file, for messages.
        model: whose state dict has all the names, with these shapes.
        tensors: what to load, in any floating type.

    Raises:
        WeightsError: the model is on the meta device, and other parts of it are not in the file.
    """
    own = model.state_dict(keep_vars=True)
    if not any(tensor.is_meta for tensor in own.values()):
        model.load_state_dict(tensors, strict=False)
        return
    rest = {n: t for n, t in own.items() if n not in tensors and t.is_meta}
    lost = [name for name in rest if not _STARTS_AT_ZERO.search(name)]
    if lost:
        raise WeightsError(
            f"{path}: the model is on the meta device, where nothing can be initialised, and "
            f"{len(lost)} of its tensors are not in the file, for example {', '.join(lost[:3])}; "
            "build it on the CPU"
        )
    ready = _apart({name: tensor.to(own[name].dtype) for name, tensor in tensors.items()})
    ready |= {n: torch.zeros(t.shape, dtype=t.dtype) for n, t in rest.items()}
    model.load_state_dict(ready, strict=False, assign=True)


def empty_buffers(model: nn.Module) -> list[str]:
    """Return the names of buffers without memory, which state dicts do not have."""
    return [name for name, buffer in model.named_buffers() if buffer.is_meta]


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors that are one in the file memory of their own: training changes each alone."""
    result: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        whole = tensor.contiguous()
        result[name] = whole.clone() if whole.data_ptr() in taken else whole
        taken.add(whole.data_ptr())
    return result

# SPDX-License-Identifier: Apache-2.0
"""Whether tensors that have an encoder's names can be an encoder's at all.

What is checked here, the code that folds, joins and resizes need not ask again.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vitdet_d2.pretrained.family import Family


def implausible(tensors: Mapping[str, Tensor], family: Family) -> list[str]:
    """Return what is wrong with the tensors of an encoder, in words.

    Args:
        tensors: by canonical name.
        family: of the encoder.
    """
    found = []
    for name, tensor in tensors.items():
        axes = next((count for pattern, count in family.axes if pattern.fullmatch(name)), 1)
        if tensor.dim() != axes or not tensor.numel():
            shape = tuple(tensor.shape)
            found.append(f"{name}: expected {axes} axes of at least one number, got shape {shape}")
        elif not _is_computable(tensor.dtype):
            kind = str(tensor.dtype).removeprefix("torch.")
            found.append(f"{name}: expected float16, bfloat16, float32 or float64, got {kind}")
    return found or _of_other_lengths(tensors)


def _is_computable(dtype: torch.dtype) -> bool:
    """Whether numbers are real, and not of one byte, which need scales beside them."""
    return dtype.is_floating_point and dtype.itemsize > 1


def _of_other_lengths(tensors: Mapping[str, Tensor]) -> list[str]:
    """Find biases and scales that do not fit their layer: they would be repeated or cut."""
    found = []
    for name, tensor in tensors.items():
        layers = [name.removesuffix("bias") + "weight"] if name.endswith(".bias") else []
        if name.endswith(".gamma"):
            block, scale, _ = name.rsplit(".", 2)
            inner = ("attn.proj",) if scale == "ls1" else ("mlp.fc2", "mlp.w3")
            layers = [f"{block}.{layer}.weight" for layer in inner]
        for layer in layers:
            if layer in tensors and len(tensor) != len(tensors[layer]):
                found.append(f"{name} has {len(tensor)} numbers for the {len(tensors[layer])} rows "
                             f"of {layer}")  # fmt: skip
    return found

# SPDX-License-Identifier: Apache-2.0
"""Whether tensors that have a ViT's names can be a ViT's at all.

What is checked here, the code that folds, joins and resizes need not ask again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# Axes by name; all others (norms, biases, scales) have one.
_AXES = (
    (re.compile(r"pos_embed"), 3),
    (re.compile(r"patch_embed\.proj\.weight|.*\.residual\.conv\d\.weight"), 4),
    (re.compile(r".*\.(qkv|proj|fc1|fc2|w1|w2|w3)\.weight"), 2),
    (re.compile(r".*\.rel_pos_[hw]|.*relative_position_bias_table|rel_pos_bias_\w+"), 2),
)


def implausible(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return what is wrong with the tensors of an encoder, in words.

    Args:
        tensors: by canonical name.
    """
    found = []
    for name, tensor in tensors.items():
        axes = next((count for pattern, count in _AXES if pattern.fullmatch(name)), 1)
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

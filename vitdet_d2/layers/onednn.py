# SPDX-License-Identifier: Apache-2.0
"""Matrix products through oneDNN on the CPU, where they are faster than the default ones.

torch sends products of float32 matrices to MKL, which does not use the AVX-512 units of AMD's
processors well; oneDNN does on all. Measured on a Zen 4 (two cores, ViT-B, 1024 tokens), GFLOP/s,
MKL / oneDNN: qkv 124 / 160, proj 110 / 190, fc1 130 / 160, fc2 129 / 172. It adds the activation or
another matrix as it writes a result, without another pass over the memory.

torch offers these products through an operator of its compiler backend, without a backward pass:
they are for inference, and `usable` says where everything that they need is there.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor

Epilogue = Literal["none", "gelu"]

# Multiply-adds below which the choice does not matter, and the calls alone would cost more.
MIN_PRODUCTS = 1 << 22

_OPERATORS = ("_linear_pointwise", "_reorder_linear_weight")


@functools.cache
def available() -> bool:
    """Return whether this torch has the operator, and this processor the units that it is for."""
    return (
        torch.backends.mkldnn.is_available()
        and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )


def usable(x: Tensor, weight: Tensor) -> bool:
    """Return whether `linear` and `linear_add` may stand for the ordinary product here.

    They are no choice where a gradient is wanted, autocast chooses another type, or a compiler
    reads the program (and fuses by itself).

    Args:
        x: ``(..., K)``.
        weight: ``(N, K)``.
    """
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.numel() * weight.shape[0] >= MIN_PRODUCTS
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and (not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") == x.dtype)
        and bool(torch.backends.mkldnn.enabled)
        and available()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, epilogue: Epilogue = "none") -> Tensor:
    """Return ``epilogue(x weight^T + bias)``; only where it is `usable`.

    Args:
        x: ``(..., K)``.
        weight: ``(N, K)``.
        bias: ``(N,)``, if there is one.
        epilogue: what is done to every number of the result; ``"gelu"`` is the exact one.

    Returns:
        ``(..., N)``.
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, epilogue, [], "none")


def linear_add(x: Tensor, weight: Tensor, addend: Tensor) -> Tensor:
    """Return ``x weight^T + addend``; only where it is `usable`.

    Args:
        x: ``(M, K)``.
        weight: ``(N, K)``.
        addend: ``(M, N)``, contiguous.

    Returns:
        ``(M, N)``.
    """
    return torch.ops.mkldnn._linear_pointwise(x, addend, weight, None, "add")


def packed(weight: Tensor, num_rows: int) -> Tensor:
    """Return a matrix in the order in which the processor reads it; only where it is `usable`.

    For a weight of `linear` and `linear_add` that is used often; nothing else can be done with it.

    Args:
        weight: ``(N, K)``.
        num_rows: of the matrices that it will be multiplied with.
    """
    return torch.ops.mkldnn._reorder_linear_weight(weight, num_rows)

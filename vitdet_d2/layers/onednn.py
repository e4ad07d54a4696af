# SPDX-License-Identifier: Apache-2.0
"""Matrix products through oneDNN on the CPU, where they are faster than the default ones.

torch sends products of float32 matrices to MKL, which does not use the AVX-512 units of AMD's
processors well; oneDNN does on all. Measured on a Zen 4 (two cores, ViT-B, 1024 tokens), GFLOP/s,
MKL / oneDNN: qkv 124 / 160, proj 110 / 190, fc1 130 / 160, fc2 129 / 172. In bfloat16 torch takes
oneDNN by itself.

Two doors lead there. A 1 x 1 convolution of a channels-last map is the product of a linear layer,
and sums in the same blocks as MKL, so that results are as near to exact. For the products of
attention, whose weights are of one use, torch has an operator of its compiler backend that adds
another matrix as it writes the result; it sums from the first to the last, which makes twice the
rounding error at 4096 terms. It has no backward pass.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitdet_d2.layers.watched import read_by_compiler

# Multiply-adds below which the choice does not matter, and the calls alone would cost more.
MIN_PRODUCTS = 1 << 22

_OPERATORS = ("_linear_pointwise", "_reorder_linear_weight")


@functools.cache
def available() -> bool:
    """Return whether this torch has the operators, and this processor the units they are for."""
    return (
        torch.backends.mkldnn.is_available()
        and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )


def usable(x: Tensor, weight: Tensor) -> bool:
    """Return whether the functions below may stand for the ordinary product here.

    They are no choice where a gradient is wanted, autocast chooses another type, a compiler or
    tracer reads the program, or tensors are of a class with products of its own (quantised ones).

    Args:
        x: ``(..., K)``.
        weight: ``(N, K)``.
    """
    return (
        type(x) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and x.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.numel() * weight.shape[0] >= MIN_PRODUCTS
        and not torch.is_grad_enabled()
        and not read_by_compiler()
        and (not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") == x.dtype)
        and bool(torch.backends.mkldnn.enabled)
        and available()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``x weight^T + bias`` of a layer; only where it is `usable`.

    Args:
        x: ``(..., K)``.
        weight: ``(N, K)``.
        bias: ``(N,)``, if there is one.

    Returns:
        ``(..., N)``.
    """
    positions = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    out = F.conv2d(positions, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def product(x: Tensor, weight: Tensor, addend: Tensor | None = None) -> Tensor:
    """Return ``x weight^T + addend``; only where it is `usable`.

    Args:
        x: ``(M, K)``.
        weight: ``(N, K)``, or what `packed` made of it.
        addend: ``(M, N)``, contiguous, if there is one.

    Returns:
        ``(M, N)``.
    """
    if addend is None:
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "none")
    return torch.ops.mkldnn._linear_pointwise(x, addend, weight, None, "add")


def packed(weight: Tensor, num_rows: int) -> Tensor:
    """Return a matrix in the order in which the processor reads it; only where it is `usable`.

    For a weight of several `product`s; nothing else can be done with it.

    Args:
        weight: ``(N, K)``.
        num_rows: of the matrices that it will be multiplied with.
    """
    return torch.ops.mkldnn._reorder_linear_weight(weight, num_rows)

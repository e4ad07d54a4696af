# SPDX-License-Identifier: Apache-2.0
"""Thin names over torch: a convolution with norm and activation, and helpers for empty inputs.

Source: the behaviour of detectron2 ``layers/wrappers.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BatchNorm2d = nn.BatchNorm2d
ConvTranspose2d = nn.ConvTranspose2d
Linear = nn.Linear
interpolate = F.interpolate


class Conv2d(nn.Conv2d):
    """A convolution followed by an optional norm and an optional activation, in this order.

    State-dict keys: ``weight``, ``bias`` and, with a norm, ``norm.*``.
    """

    norm: nn.Module | None
    activation: Callable[[Tensor], Tensor] | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        norm: nn.Module | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Build the layer; all but the last two are the arguments of ``torch.nn.Conv2d``.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            kernel_size: side of the kernel, or ``(height, width)``.
            stride: step of the kernel.
            padding: rows and columns added on each side, or ``"same"`` / ``"valid"``.
            dilation: distance between the kernel's taps.
            groups: number of blocks of channels that are convolved apart.
            bias: whether to add a learned bias.
            padding_mode: what the padding holds, as in ``torch.nn.Conv2d``.
            device: where the parameters are made.
            dtype: type of the parameters.
            norm: applied to the convolution's output.
            activation: applied last.
        """
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self.norm = norm
        self.activation = activation

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, out_channels, H', W')``; ``N`` may be 0."""
        output = super().forward(input)
        if self.norm is not None:
            output = self.norm(output)
        return output if self.activation is None else self.activation(output)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Concatenate tensors, and hand a single one back without a copy.

    Args:
        tensors: a list or tuple of at least one tensor.
        dim: the axis to join along.

    Returns:
        The joined tensor; it is ``tensors[0]`` itself where there is only one.

    Raises:
        TypeError: ``tensors`` is no list or tuple (a tensor, for instance).
    """
    if not isinstance(tensors, (list, tuple)):
        raise TypeError(f"cat: expected a list or tuple of tensors, got {type(tensors).__name__}")
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def empty_input_loss_func_wrapper(loss_func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a mean-reduced loss return 0 instead of NaN where there is nothing to average.

    Args:
        loss_func: called as ``loss_func(input, target, reduction=..., ...)``.

    Returns:
        The same loss. Over no target it is a zero that still depends on ``input``, so that every
        parameter gets a (zero) gradient and distributed training does not wait for one.
    """

    def loss(input: Tensor, target: Tensor, *, reduction: str = "mean", **options: Any) -> Tensor:
        if reduction == "mean" and target.numel() == 0:
            return 0.0 * input.sum()
        return loss_func(input, target, reduction=reduction, **options)

    return loss


cross_entropy = empty_input_loss_func_wrapper(F.cross_entropy)


def nonzero_tuple(x: Tensor) -> tuple[Tensor, ...]:
    """Return the indices of the non-zero elements, one vector per axis."""
    return x.nonzero(as_tuple=True)


def shapes_to_tensor(x: Sequence[int | Tensor], device: torch.device | None = None) -> Tensor:
    """Make an integer vector of sizes.

    Args:
        x: sizes; while tracing they may be scalar tensors, which stay part of the graph.
        device: where the vector is made.

    Returns:
        ``(len(x),)``, int64.
    """
    if any(isinstance(size, Tensor) for size in x):
        # A tensor stays itself: as_tensor would make a constant of it in a trace.
        sizes = [size if isinstance(size, Tensor) else torch.as_tensor(size) for size in x]
        return torch.stack(sizes).to(device=device)
    return torch.as_tensor(x, device=device)


def move_device_like(src: Tensor, dst: Tensor) -> Tensor:
    """Return ``src`` on the device of ``dst``."""
    return src.to(dst.device)

# SPDX-License-Identifier: Apache-2.0
"""Normalisation layers by name, for maps of shape ``(N, C, H, W)``.

Source: the behaviour of detectron2 ``layers/batch_norm.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """Normalise each position over its channels.

    It is no subclass of ``torch.nn.LayerNorm`` on purpose: optimizer groups and weight
    initialisations that look for torch's class must not find this one, as in Detectron2.
    """

    def __init__(self, normalized_shape: int, eps: float = 1e-6) -> None:
        """Start as the plain normalisation: scale 1, shift 0.

        Args:
            normalized_shape: number of channels.
            eps: added to the variance.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.ones(normalized_shape))
        self.bias = nn.Parameter(torch.zeros(normalized_shape))
        self.eps = eps
        self.normalized_shape = (normalized_shape,)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape; the memory of the result is channels-last."""
        channels_last = x.permute(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
        normed = F.layer_norm(
            channels_last, self.normalized_shape, self.weight, self.bias, self.eps
        )
        return normed.permute(0, 3, 1, 2)


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation whose statistics, scale and shift are constants (buffers).

    A fresh one is the identity. Files of before version 2 hold scale and shift only; their
    statistics are taken as mean 0 and variance 1.
    """

    _version = 3

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor | None

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        """Start as the identity.

        Args:
            num_features: number of channels.
            eps: added to the variance.
        """
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        # Variance and eps make 1: the identity.
        constants = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0 - eps}
        for name, value in constants.items():
            self.register_buffer(name, torch.full((num_features,), value))
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape and type."""
        if not x.requires_grad:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        # One multiply-add: its backward keeps no copy of the input, unlike F.batch_norm's.
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        shift = self.bias - scale * self.running_mean
        return x * scale.to(x.dtype)[:, None, None] + shift.to(x.dtype)[:, None, None]

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        if (local_metadata.get("version") or 0) < 2:
            state_dict.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
            state_dict.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def extra_repr(self) -> str:
        """Show the size in ``print(model)``."""
        return f"num_features={self.num_features}, eps={self.eps}"

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Freeze every ``BatchNorm2d`` and ``SyncBatchNorm`` of a module.

        Args:
            module: changed in place, unless it is itself a batch norm.

        Returns:
            The module, or the frozen layer that takes its place.
        """
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            frozen = cls(module.num_features, module.eps)
            _copy_batch_norm(module, frozen)
            return frozen
        return _replace_children(module, cls.convert_frozen_batchnorm)

    @classmethod
    def convert_frozenbatchnorm2d_to_batchnorm2d(cls, module: nn.Module) -> nn.Module:
        """Make every frozen batch norm of a module a trainable ``BatchNorm2d``.

        Args:
            module: changed in place, unless it is itself a frozen batch norm.

        Returns:
            The module, or the layer that takes its place.
        """
        if isinstance(module, cls):
            trainable = nn.BatchNorm2d(module.num_features, module.eps)
            _copy_batch_norm(module, trainable)
            return trainable
        return _replace_children(module, cls.convert_frozenbatchnorm2d_to_batchnorm2d)


def _copy_batch_norm(source: nn.Module, target: nn.Module) -> None:
    """Give ``target`` copies of the scale, shift and statistics that ``source`` has."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(source, name)
        if value is not None:
            getattr(target, name).data = value.detach().clone()
    target.num_batches_tracked = source.num_batches_tracked


def _replace_children(module: nn.Module, convert: Callable[[nn.Module], nn.Module]) -> nn.Module:
    for name, child in list(module.named_children()):
        converted = convert(child)
        if converted is not child:
            module.add_module(name, converted)
    return module


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over all processes, each process or each image weighing the same.

    ``nn.SyncBatchNorm`` weighs each *position* the same, so that large images count for more.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        stats_mode: str = "",
    ) -> None:
        """Build the layer; all but the last are the arguments of ``torch.nn.BatchNorm2d``.

        Args:
            num_features: number of channels.
            eps: added to the variance.
            momentum: weight of the newest statistics in the running ones.
            affine: whether to learn a scale and a shift.
            track_running_stats: whether to keep running statistics.
            stats_mode: ``""``, every process weighs the same and has at least one image;
                ``"N"``, every image weighs the same, and a process may have none.

        Raises:
            ValueError: ``stats_mode`` is another word.
        """
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        if stats_mode not in ("", "N"):
            raise ValueError(f"stats_mode: expected '' or 'N', got {stats_mode!r}")
        self._stats_mode = stats_mode

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape and type.

        Args:
            input: the map; ``N = 0`` needs ``stats_mode="N"``.

        Returns:
            The normalised map.

        Raises:
            ValueError: no image in this process, and ``stats_mode`` is ``""``.
        """
        world_size = dist.get_world_size() if dist.is_initialized() else 1
        if world_size == 1 or not self.training:
            return super().forward(input)
        num_images = input.shape[0]
        if num_images == 0 and self._stats_mode == "":
            raise ValueError(
                'NaiveSyncBatchNorm: a process has no image; use stats_mode="N" ("naiveSyncBN_N")'
            )
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        mean, mean_square, total = self._shared_moments(x, world_size)
        variance = mean_square - mean * mean
        self._track(mean.detach(), variance.detach(), total)
        scale = torch.rsqrt(variance + self.eps)
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return (x * scale[:, None, None] + shift[:, None, None]).to(input.dtype)

    def _shared_moments(self, x: Tensor, world_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean and mean square over all processes, ``(C,)`` each, and the total weight."""
        by_image = self._stats_mode == "N"
        weight = float(x.shape[0]) if by_image else 1.0
        if x.shape[0] == 0:
            # A zero that depends on the input keeps this process in the backward pass.
            moments = x.new_zeros(2 * self.num_features + 1) + x.sum()
        else:
            moments = torch.cat([x.mean((0, 2, 3)), (x * x).mean((0, 2, 3)), x.new_ones(1)])
        moments = _SumOverProcesses.apply(moments * weight)
        total = moments[-1].detach() if by_image else moments.new_tensor(float(world_size))
        mean, mean_square, _ = (moments / total.clamp(min=1.0)).split(
            [self.num_features, self.num_features, 1]
        )
        return mean, mean_square, total

    def _track(self, mean: Tensor, variance: Tensor, total: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        momentum = 0.1 if self.momentum is None else self.momentum
        step = momentum * total.clamp(max=1.0)  # no image anywhere: nothing was learned
        self.running_mean += step * (mean - self.running_mean)
        self.running_var += step * (variance - self.running_var)


class _SumOverProcesses(torch.autograd.Function):
    """Sum a tensor over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return _SumOverProcesses.apply(gradient)


class CycleBatchNormList(nn.ModuleList):
    """Layers with statistics of their own and one scale and shift, used in turn.

    For layers that all feature maps share: the caller goes through all maps, in the same order,
    before it begins again.

    Source: Rethinking "Batch" in BatchNorm, arXiv 2105.07576, section 5.2.
    """

    def __init__(
        self,
        length: int,
        bn_class: type[nn.BatchNorm2d] | type[nn.SyncBatchNorm] = nn.BatchNorm2d,
        *,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
    ) -> None:
        """Build the layers.

        Args:
            length: number of feature maps.
            bn_class: the batch normalisation.
            num_features: number of channels.
            eps: added to the variance.
            momentum: weight of the newest statistics in the running ones.
            affine: whether to learn a scale and a shift.
        """
        super().__init__(
            bn_class(num_features, eps=eps, momentum=momentum, affine=False) for _ in range(length)
        )
        self._affine = affine
        if affine:
            self.weight = nn.Parameter(torch.ones(num_features))
            self.bias = nn.Parameter(torch.zeros(num_features))
        self._position = 0

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape with the layer whose turn it is."""
        normed = self[self._position](x)
        self._position = (self._position + 1) % len(self)
        if not self._affine:
            return normed
        return normed * self.weight[:, None, None] + self.bias[:, None, None]

    def extra_repr(self) -> str:
        """Show in ``print(model)`` whether there is a scale and a shift."""
        return f"affine={self._affine}"


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(32, channels)  # 32 groups: the default of the Group Normalization paper


def _naive_sync_by_image(channels: int) -> nn.Module:
    return NaiveSyncBatchNorm(channels, stats_mode="N")


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "LN": LayerNorm,
    "GN": _group_norm,
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "nnSyncBN": nn.SyncBatchNorm,
    "naiveSyncBN": NaiveSyncBatchNorm,
    "naiveSyncBN_N": _naive_sync_by_image,
    "FrozenBN": FrozenBatchNorm2d,
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """Make a normalisation layer from its name.

    Args:
        norm: one of LN, GN, BN, SyncBN, nnSyncBN, naiveSyncBN, naiveSyncBN_N, FrozenBN; or what
            makes a layer from a number of channels; or ``None`` or ``""`` for no layer.
        out_channels: number of channels.

    Returns:
        The layer, or ``None``.

    Raises:
        ValueError: the name is not known.
    """
    if norm is None or norm == "":
        return None
    if not isinstance(norm, str):
        return norm(out_channels)
    if norm not in _NORMS:
        raise ValueError(f"norm: expected one of {', '.join(_NORMS)}, got {norm!r}")
    return _NORMS[norm](out_channels)

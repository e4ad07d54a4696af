# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation over all processes, on devices for which torch's own has none.

Source: the formula of `torch.nn.SyncBatchNorm`: every position of every image weighs the same.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class ProcessBatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics are those of the batches of all processes.

    Keys and numbers are those of `torch.nn.SyncBatchNorm`, which works on GPUs alone. A process may
    have no image, as long as another one has.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape; every process must call it alike in training."""
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        x = input.double()
        count = input.numel() // self.num_features
        sums = torch.cat([x.sum((0, 2, 3)), (x * x).sum((0, 2, 3)), x.new_full((1,), count)])
        total = all_reduce(sums)
        positions = total[-1].detach().clamp(min=1.0)
        mean, mean_square, _ = (total / positions).split([self.num_features, self.num_features, 1])
        variance = (mean_square - mean * mean).clamp(min=0.0)
        self._track(mean.detach(), variance.detach(), float(total[-1]))
        scale = torch.rsqrt(variance + self.eps)
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return (x * scale[:, None, None] + shift[:, None, None]).to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor, positions: float) -> None:
        """Move the running statistics; that of the variance is without bias, as in torch."""
        if self.running_mean is None or self.running_var is None or positions == 0:
            return
        unbiased = variance * (positions / max(positions - 1, 1.0))
        assert self.num_batches_tracked is not None, "it comes with the running statistics"
        self.num_batches_tracked += 1
        # Without a momentum the statistics are the mean over all batches, as in torch.
        momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


def copy_of_batch_norm(norm: nn.SyncBatchNorm, kind: type[nn.BatchNorm2d]) -> nn.BatchNorm2d:
    """Return a norm of another kind with the parameters and statistics of this one.

    Args:
        norm: its own tensors are taken, not copied.
        kind: of the new norm.
    """
    copy = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    if norm.affine:
        copy.weight, copy.bias = norm.weight, norm.bias
    copy.running_mean, copy.running_var = norm.running_mean, norm.running_var
    copy.num_batches_tracked = norm.num_batches_tracked
    return copy.train(norm.training)

# SPDX-License-Identifier: Apache-2.0
"""One process' share of a batch norm over two: outputs, gradients and statistics, in a file."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.engine.tiny_run import join
from vitdet_d2.engine.batch_norm import settle_batch_norms

CHANNELS = 3


def image_batch() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 + 2 * torch.randn(5, CHANNELS, 4, 6, generator=generator)


def cotangent() -> torch.Tensor:
    return torch.randn(5, CHANNELS, 4, 6, generator=torch.Generator().manual_seed(1))


def start(norm: torch.nn.Module) -> torch.nn.Module:
    if not norm.affine:
        return norm
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, -2.0]))
        norm.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    return norm


def run(folder: str, sizes: list[int], options: dict, rank: int, world_size: int) -> None:
    """Two steps; rank ``r`` has ``sizes[r]`` of the five images."""
    join(folder, rank, world_size)
    model = torch.nn.Sequential(start(torch.nn.SyncBatchNorm(CHANNELS, **options)))
    settle_batch_norms(model, torch.device("cpu"), world_size, None)
    x = image_batch().split(sizes)[rank].requires_grad_()
    for _ in range(2):
        out = model(x)
    (out * cotangent().split(sizes)[rank]).sum().backward()
    norm = model[0]
    content = {
        "out": out.detach(),
        "x": x.grad,
        **{name: parameter.grad for name, parameter in norm.named_parameters()},
        "state": model.state_dict(),
        "eval": model.eval()(image_batch()).detach(),
    }
    torch.save(content, Path(folder) / f"rank_{rank}.pth")

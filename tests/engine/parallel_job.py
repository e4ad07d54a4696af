# SPDX-License-Identifier: Apache-2.0
"""One process' share of a few steps of a small detector, by any strategy; results in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from tests.engine.test_block_options import Detector
from tests.engine.tiny_run import join
from vitdet_d2.engine.block_options import checkpoint_activations
from vitdet_d2.engine.ema import WeightAverage
from vitdet_d2.engine.hooks.ema import AverageHook
from vitdet_d2.engine.parallel import wrap_parallel
from vitdet_d2.engine.settings import read_settings
from vitdet_d2.engine.sharded_tensors import gathered
from vitdet_d2.engine.sharding import shard_model
from vitdet_d2.engine.trainer import Trainer

STEPS, IMAGES, ACCUMULATE = 3, 8, 2
CPU = torch.device("cpu")


class NormAsOnCuda(torch.nn.LayerNorm):
    """Computes in float32 whatever weights are in, as autocast lets CUDA do, but not the CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = (t.float() for t in (self.weight, self.bias))
        return torch.nn.functional.layer_norm(x.float(), self.normalized_shape, *given, self.eps)


def batches(rank: int, world_size: int) -> list[list[dict[str, Any]]]:
    """The same eight images per step, whatever the number of processes."""
    share = IMAGES // ACCUMULATE // world_size
    found = []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        images = torch.rand(ACCUMULATE, world_size, share, 3, 32, 32, generator=generator)
        for part in range(ACCUMULATE):
            found.append([{"image": image} for image in images[part, rank]])
    return found


def run(
    folder: str,
    name: str,
    train: dict[str, Any],
    recompute: bool | str = False,
    max_norm: float | None = 0.05,
    in_bf16: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> None:
    """Write losses, weights, averages and norms of a run of three steps."""
    if world_size > 1:
        join(folder, rank, world_size)
    # Other weights on other ranks: those of rank 0 count.
    torch.manual_seed(rank)
    norm = {"norm_layer": NormAsOnCuda} if in_bf16 else {}
    model = Detector(drop_path_rate=0.0, rel_pos_zero_init=False, **norm)
    settings = read_settings(OmegaConf.create({"train": train}))
    if recompute:
        checkpoint_activations(model, recompute)
    if settings.fsdp is not None:
        shard_model(model, settings.fsdp, CPU)
    # Without momentum or a second moment, by which noise would grow.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapped = wrap_parallel(model, settings)
    average = WeightAverage(model, 0.5)
    trainer = Trainer(
        wrapped,
        batches(rank, world_size),
        optimizer,
        accumulate=ACCUMULATE,
        max_grad_norm=max_norm,
        autocast_dtype=torch.bfloat16 if in_bf16 else None,
    )
    trainer.register_hooks([AverageHook(average)])
    trainer.train(0, STEPS)
    states = {"model": model.state_dict(), "ema": average.state_dict()}
    whole = gathered(states, keep=rank == 0)
    held = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in model.parameters())
    history = trainer.storage.histories()
    if rank == 0:
        for key in ("total_loss", "grad_norm"):
            whole[key] = [value for value, _ in history[key].values()]
    torch.save({**whole, "held": held}, Path(folder) / f"{name}_{rank}.pth")

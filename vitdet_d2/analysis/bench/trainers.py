# SPDX-License-Identifier: Apache-2.0
"""A training step of each side, by the trainer that its users have, on batches in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
from detectron2.solver.build import get_default_optimizer_params
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import Tensor, nn

from vitdet_d2.analysis.bench.precision import autocast
from vitdet_d2.data.batch_tensors import pack_polygons
from vitdet_d2.data.device_batches import DeviceBatches, pin
from vitdet_d2.engine.build import apply_block_options, build_optimizer
from vitdet_d2.engine.settings import read_settings
from vitdet_d2.engine.trainer import Trainer
from vitdet_d2.solver.layer_decay import count_layers

Batches = Sequence[list[dict[str, Any]]]
# What Detectron2's ViTDet recipes train with.
_RATE, _WEIGHT_DECAY, _LAYER_DECAY = 1e-4, 0.1, 0.7


def our_step(
    cfg: DictConfig, model: nn.Module, batches: Batches, dtype: torch.dtype | None
) -> Callable[[], None]:
    """Return a step of this project's trainer, with the recipe's optimizer and block options.

    Args:
        cfg: the recipe.
        model: on its device.
        batches: taken in turn.
        dtype: of autocast.
    """
    device = next(model.parameters()).device
    apply_block_options(model, read_settings(cfg), device)
    optimizer = build_optimizer(cfg, model)
    _stand_still(optimizer)
    # As our loader hands them over: polygons packed, pinned for a GPU, copied one ahead.
    ready = [pin(batch) if device.type == "cuda" else pack_polygons(batch) for batch in batches]
    loader: Any = DeviceBatches(itertools.cycle(ready), device)
    return _stepping(Trainer(model, loader, optimizer, autocast_dtype=dtype))


def detectron2_step(
    model: nn.Module, batches: Batches, dtype: torch.dtype | None
) -> Callable[[], None]:
    """Return a step of Detectron2's trainer, with the optimizer of its ViTDet recipes.

    Args:
        model: on its device.
        batches: taken in turn.
        dtype: of autocast; float16 comes with a gradient scaler.
    """
    decay = partial(
        get_vit_lr_decay_rate,
        lr_decay_rate=_LAYER_DECAY,
        num_layers=count_layers(name for name, _ in model.named_parameters()),
    )
    groups = get_default_optimizer_params(
        model,
        base_lr=_RATE,
        weight_decay_norm=0.0,
        lr_factor_func=decay,
        overrides={"pos_embed": {"weight_decay": 0.0}},
    )
    optimizer = torch.optim.AdamW(groups, lr=_RATE, weight_decay=_WEIGHT_DECAY)
    _stand_still(optimizer)
    loader = itertools.cycle(batches)
    if dtype is None:
        return _stepping(SimpleTrainer(model, loader, optimizer))
    if next(model.parameters()).device.type != "cuda":
        # Detectron2's trainer for mixed precision demands a GPU.
        return _stepping(SimpleTrainer(_Autocast(model, dtype), loader, optimizer))
    scaler = torch.amp.GradScaler("cuda", enabled=dtype is torch.float16)
    trainer = AMPTrainer(model, loader, optimizer, grad_scaler=scaler, precision=dtype)
    return _stepping(trainer)


class _Autocast(nn.Module):
    """A model whose forward pass runs in mixed precision on the CPU."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        with autocast("cpu", self.dtype):
            losses: dict[str, Tensor] = self.model(batch)
        return losses


def _stepping(trainer: Any) -> Callable[[], None]:
    trainer.iter = trainer.start_iter = 0
    trainer.max_iter = 1
    storage = EventStorage(0)
    trainer.storage = storage

    def step() -> None:
        with storage:
            trainer.run_step()

    return step


def _stand_still(optimizer: torch.optim.Optimizer) -> None:
    """Let steps do their work without effect, so that all of them are alike."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0

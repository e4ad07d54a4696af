# SPDX-License-Identifier: Apache-2.0
"""Synchronised batch norms as they fit the processes of a run."""

from __future__ import annotations

import logging

import torch
from torch import nn

from vitdet_d2.layers.sync_batch_norm import ProcessBatchNorm, copy_of_batch_norm

logger = logging.getLogger(__name__)


def settle_batch_norms(
    model: nn.Module, device: torch.device, world_size: int, images_per_process: int | None
) -> nn.Module:
    """Put the batch norm in the place of every synchronised one that can be computed here.

    One process has nothing to synchronise, and gets plain batch norm; several on a CPU get ours,
    since torch's works on GPUs alone. No name and no number of the state dict changes.

    Args:
        model: changed in place.
        device: of the model.
        world_size: processes of the run.
        images_per_process: of one loader batch; None: not known.

    Returns:
        The model.
    """
    synchronised = [
        name for name, module in model.named_modules() if isinstance(module, nn.SyncBatchNorm)
    ]
    if not synchronised or (world_size > 1 and device.type != "cpu"):
        return model
    kind = nn.BatchNorm2d if world_size == 1 else ProcessBatchNorm
    for name in synchronised:
        parent, _, last = name.rpartition(".")
        norm = model.get_submodule(name)
        assert isinstance(norm, nn.SyncBatchNorm), "chosen by its class"
        setattr(model.get_submodule(parent), last, copy_of_batch_norm(norm, kind))
    if world_size > 1:
        logger.info("SyncBN: %d norms are synchronised over CPU processes", len(synchronised))
        return model
    text = "SyncBN: one process has nothing to synchronise; %d norms are plain batch norms"
    if images_per_process == 1:
        text += ", with the statistics of a single image: use a larger batch, or LN in their place"
        logger.warning(text, len(synchronised))
    else:
        logger.info(text, len(synchronised))
    return model

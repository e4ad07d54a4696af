# SPDX-License-Identifier: Apache-2.0
"""Wrap a model for data parallelism, and say when its processes exchange gradients."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from detectron2.engine import create_ddp_model
from detectron2.utils import comm
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from vitdet_d2.engine.settings import TrainSettings

logger = logging.getLogger(__name__)


def wrap_parallel(model: nn.Module, settings: TrainSettings) -> nn.Module:
    """Wrap the model for data parallelism where there are several processes.

    Args:
        model: on its device; one that is sharded is returned as it is.
        settings: of the recipe; bf16 wins over fp16, which published recipes ask for.
    """
    if isinstance(model, FSDPModule):
        return model
    options = dict(settings.ddp)
    brain = bool(options.pop("bf16_compression", False))
    half = bool(options.pop("fp16_compression", False))
    if half and brain:
        logger.info("train.ddp: bf16_compression takes the place of the recipe's fp16_compression")
        half = False
    # Gradients live in the buckets that are sent, and not a second time beside them.
    options.setdefault("gradient_as_bucket_view", True)
    if next(model.parameters()).device.type == "cpu":
        # Detectron2's default is the local rank's GPU.
        options["device_ids"] = None
        if half and comm.get_world_size() > 1:
            logger.info("train.ddp.fp16_compression is ignored on the CPU")
        half = False
    wrapped = create_ddp_model(model, fp16_compression=half, **options)
    if brain and isinstance(wrapped, DistributedDataParallel):
        wrapped.register_comm_hook(state=None, hook=bf16_compress_hook)
    return wrapped


@contextlib.contextmanager
def unsynchronised(model: nn.Module) -> Iterator[None]:
    """A block in which backward passes leave the gradients of other processes alone.

    Args:
        model: of `wrap_parallel`. One that is sharded keeps whole gradients meanwhile.
    """
    if isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
        return
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(True)

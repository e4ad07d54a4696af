# SPDX-License-Identifier: Apache-2.0
"""Shard a detector's weights, gradients and moments over processes (FSDP2, HSDP).

Each block of the backbone is gathered for itself, shortly before it is needed; all the rest, neck
and heads, is one more group. Gradients are averaged over all processes in float32, as DDP does.

Source: ZeRO, arXiv 1910.02054; PyTorch FSDP, arXiv 2304.11277; `torch.distributed.fsdp`.
"""

from __future__ import annotations

import itertools
import logging

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from vitdet_d2.engine.find_blocks import block_steps, find_backbone
from vitdet_d2.engine.shard_settings import KEY, ShardSettings
from vitdet_d2.errors import RecipeError

logger = logging.getLogger(__name__)


def shard_model(model: nn.Module, settings: ShardSettings, device: torch.device) -> None:
    """Shard a model in place; its parameters become `DTensor`, their names stay.

    Comes after weights were loaded and blocks were frozen, recomputed or compiled, and before the
    optimizer is made. Every process calls it. Weights and buffers become those of rank 0.

    Args:
        model: a detector, on its device.
        settings: how.
        device: of the model.

    Raises:
        RecipeError: the processes cannot be divided so.
    """
    mesh = _mesh(settings, device)
    _make_equal(model)
    blocks = _blocks(model)
    for block in blocks:
        fully_shard(
            block,
            mesh=mesh,
            reshard_after_forward=settings.reshard_after_forward,
            mp_policy=MixedPrecisionPolicy(
                param_dtype=settings.param_dtype,
                reduce_dtype=torch.float32,
                # Autocast decides what layers compute in, as without sharding.
                cast_forward_inputs=False,
            ),
        )
    # The rest is used first and last: it stays gathered from its forward to its backward pass.
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    _prefetch(blocks)
    groups = mesh.size() // mesh.size(-1)
    logger.info(
        "train.fsdp: weights are sharded over %d processes%s, in %d groups of layers",
        mesh.size(-1),
        f", {groups} copies" if groups > 1 else "",
        len(blocks) + 1,
    )


def _mesh(settings: ShardSettings, device: torch.device) -> DeviceMesh:
    """The processes: copies by shards where there are copies.

    Raises:
        RecipeError: ``shard_size`` does not divide their number.
    """
    world = dist.get_world_size()
    size = settings.shard_size or world
    if world % size:
        fitting = [n for n in range(1, world + 1) if world % n == 0]
        raise RecipeError(
            f"{KEY}.shard_size={size} does not divide {world} processes; take one of "
            f"{', '.join(map(str, fitting))}, or null (all)"
        )
    if size == world:
        return init_device_mesh(device.type, (world,), mesh_dim_names=("shard",))
    names = ("replicate", "shard")
    return init_device_mesh(device.type, (world // size, size), mesh_dim_names=names)


def _make_equal(model: nn.Module) -> None:
    """Give every process the weights and buffers of rank 0, as DDP does."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            # FSDP takes no other memory format.
            tensor.data = tensor.data.contiguous()
            dist.broadcast(tensor.data, src=0)


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks that are gathered one by one; none where the backbone has none that are known."""
    try:
        return [step.block for step in block_steps(find_backbone(model, f"{KEY}.enabled"))]
    except RecipeError:
        logger.warning(
            "train.fsdp: this model has no blocks that can be gathered one by one; all its weights "
            "are gathered at once, and only gradients and moments are sharded in between"
        )
        return []


def _prefetch(blocks: list[nn.Module]) -> None:
    """Gather each block while its neighbour computes."""
    for block, following in itertools.pairwise(blocks):
        assert isinstance(block, FSDPModule), "fully_shard made it one"
        assert isinstance(following, FSDPModule), "fully_shard made it one"
        block.set_modules_to_forward_prefetch([following])
        following.set_modules_to_backward_prefetch([block])

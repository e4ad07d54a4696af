# SPDX-License-Identifier: Apache-2.0
"""Communication between the processes of a run; every function also works in a lone process.

Vocabulary:
    world: all processes of the run. local: those on the same machine.

Source: detectron2 ``utils/comm.py``.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

_LOCAL_PROCESS_GROUP: dist.ProcessGroup | None = None


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    """Return this process' number in the world."""
    return dist.get_rank() if _is_distributed() else 0


def is_main_process() -> bool:
    """Return whether this is rank 0, which writes and reports."""
    return get_rank() == 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Create the groups of processes that share a machine; called by every process, once.

    Args:
        num_workers_per_machine: processes on each machine; ranks are counted machine by machine.

    Raises:
        RuntimeError: a group of another size exists already.
        ValueError: the world is not made of machines of this size.
    """
    global _LOCAL_PROCESS_GROUP
    if _LOCAL_PROCESS_GROUP is not None:
        if get_local_size() == num_workers_per_machine:
            return
        raise RuntimeError(
            f"a local process group of {get_local_size()} exists already; asked for "
            f"{num_workers_per_machine}"
        )
    world_size = get_world_size()
    if world_size % num_workers_per_machine != 0:
        raise ValueError(
            f"num_workers_per_machine={num_workers_per_machine} must divide the world size "
            f"{world_size}"
        )
    for first in range(0, world_size, num_workers_per_machine):
        members = range(first, first + num_workers_per_machine)
        group = dist.new_group(list(members))  # collective: every process creates every group
        if isinstance(group, dist.ProcessGroup):  # else a mark that this process is not in it
            _LOCAL_PROCESS_GROUP = group


def get_local_process_group() -> dist.ProcessGroup:
    """Return the group of the processes on this machine.

    Raises:
        RuntimeError: the processes were not started by ``launch``.
    """
    if _LOCAL_PROCESS_GROUP is None:
        raise RuntimeError(
            "there is no local process group: start the processes with detectron2.engine.launch, "
            "or call comm.create_local_process_group() after init_process_group()"
        )
    return _LOCAL_PROCESS_GROUP


def get_local_rank() -> int:
    """Return this process' number on its machine."""
    return dist.get_rank(group=get_local_process_group()) if _is_distributed() else 0


def get_local_size() -> int:
    """Return the number of processes on this machine."""
    return dist.get_world_size(group=get_local_process_group()) if _is_distributed() else 1


def synchronize() -> None:
    """Wait until every process has come here."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        # Without the device NCCL guesses one, and warns.
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


@functools.cache
def _cpu_group(world: dist.ProcessGroup) -> dist.ProcessGroup:
    # Keyed by the world group: a process group that was destroyed and made anew is another one.
    if dist.get_backend(world) != "nccl":
        return world
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup), "every process is in the group of all"
    return group


def _object_group(group: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    """Return the group for Python objects (CPU memory by default), None where one is alone."""
    if get_world_size() == 1:
        return None
    world = dist.group.WORLD
    assert world is not None, "a world of several processes has a group"
    group = _cpu_group(world) if group is None else group
    return None if dist.get_world_size(group=group) == 1 else group


def all_gather(data: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Return the objects of all ranks, in rank order, on every rank.

    Args:
        data: anything that pickle can write.
        group: who takes part; everybody, over gloo, by default.
    """
    group = _object_group(group)
    if group is None:
        return [data]
    gathered: list[Any] = [None] * dist.get_world_size(group=group)
    dist.all_gather_object(gathered, data, group=group)
    return gathered


def gather(data: Any, dst: int = 0, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Return the objects of all ranks, in rank order, on rank ``dst``, and ``[]`` elsewhere.

    Args:
        data: anything that pickle can write.
        dst: the rank that receives.
        group: who takes part; everybody, over gloo, by default.
    """
    group = _object_group(group)
    if group is None:
        return [data]
    receives = dist.get_rank(group=group) == dst
    gathered: list[Any] = [None] * dist.get_world_size(group=group) if receives else []
    dist.gather_object(data, gathered if receives else None, dst=dst, group=group)
    return gathered


def shared_random_seed() -> int:
    """Return a random number below 2**31 that all ranks agree on: rank 0 draws it from numpy."""
    # Every rank draws, so that equally seeded generators stay in step.
    return all_gather(int(np.random.randint(2**31)))[0]


@torch.no_grad()
def reduce_dict(input_dict: dict[str, Tensor], average: bool = True) -> dict[str, Tensor]:
    """Sum or average scalar tensors over the ranks; only rank 0 holds the result.

    Args:
        input_dict: scalars with the same names and dtype on every rank.
        average: divide the sum by the number of ranks.
    """
    world_size = get_world_size()
    if world_size == 1:
        return input_dict
    names = sorted(input_dict)  # ranks may have filled their dictionaries in another order
    values = torch.stack([input_dict[name] for name in names])
    dist.reduce(values, dst=0)
    if average and is_main_process():
        values = values / world_size
    return dict(zip(names, values, strict=True))

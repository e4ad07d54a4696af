# SPDX-License-Identifier: Apache-2.0
"""Start one process per device and connect them.

Source: the behaviour of Detectron2's `detectron2/engine/launch.py` (commit 02b5c4e).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

__all__ = ["DEFAULT_TIMEOUT", "launch"]

# PyTorch's own default for gloo; an evaluation on the main process may take that long.
DEFAULT_TIMEOUT = timedelta(minutes=30)

logger = logging.getLogger(__name__)


def _free_local_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple[Any, ...] = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Call ``main_func(*args)`` in every process of the job; in this one if it is the only one.

    Args:
        main_func: importable by the spawned processes.
        num_gpus_per_machine: processes per machine.
        num_machines: machines in the job; each of them calls this function.
        machine_rank: which of them this is, from 0.
        dist_url: where the processes meet, "tcp://host:port"; "auto" finds a free local port.
        args: arguments of `main_func`.
        timeout: how long a process waits for the others.

    Raises:
        ValueError: "auto" or no address with several machines.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url in (None, "auto"):
        if num_machines > 1:
            raise ValueError(
                f"dist_url: expected tcp://HOST:PORT of machine 0 for {num_machines} machines, "
                f"got {dist_url!r}"
            )
        dist_url = _free_local_url()
    elif num_machines > 1 and str(dist_url).startswith("file://"):
        logger.warning("file:// is unreliable over several machines; prefer tcp://")
    mp.start_processes(
        _run_process,
        nprocs=num_gpus_per_machine,
        args=(main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, timeout),
        daemon=False,
    )


def _run_process(
    local_rank: int,
    main_func: Callable[..., Any],
    world_size: int,
    num_per_machine: int,
    machine_rank: int,
    dist_url: str,
    args: tuple[Any, ...],
    timeout: timedelta,
) -> None:
    """Join the process group, then call the function.

    Raises:
        ValueError: more processes than GPUs.
    """
    on_gpu = torch.cuda.is_available()
    if on_gpu and num_per_machine > torch.cuda.device_count():
        raise ValueError(
            f"num_gpus_per_machine: {num_per_machine} asked for, {torch.cuda.device_count()} here"
        )
    try:
        dist.init_process_group(
            backend="nccl" if on_gpu else "gloo",
            init_method=dist_url,
            world_size=world_size,
            rank=machine_rank * num_per_machine + local_rank,
            timeout=timeout,
        )
    except Exception:
        logger.error("No process group at %s", dist_url)
        raise
    try:
        comm.create_local_process_group(num_per_machine)
        if on_gpu:
            torch.cuda.set_device(local_rank)
        # Nobody starts before everybody is there, or slow starters would time out.
        comm.synchronize()
        main_func(*args)
    finally:
        dist.destroy_process_group()

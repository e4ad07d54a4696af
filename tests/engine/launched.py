# SPDX-License-Identifier: Apache-2.0
"""What the launch tests run in processes of their own."""

from __future__ import annotations

import vitdet_d2  # noqa: F401  isort: skip  (decides which Detectron2 this process uses)

import contextlib
import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.utils import comm

from vitdet_d2.engine import launch as launch_module
from vitdet_d2.engine.arguments import RunArguments
from vitdet_d2.engine.launch import Plan, launch, make_plan
from vitdet_d2.engine.run_folder import claim
from vitdet_d2.errors import DataError, StoppedBySignal


def report(folder: str) -> None:
    total = torch.tensor(float(comm.get_rank() + 1))
    if comm.get_world_size() > 1:
        dist.all_reduce(total)
    text = f"{comm.get_rank()}/{comm.get_world_size()} {comm.get_local_rank()} {float(total)}"
    Path(folder, f"rank{comm.get_rank()}").write_text(text)


def fail_on_one(kind: str) -> None:
    if comm.get_rank() == 1:
        if kind == "user":
            raise DataError("image 5 is missing")
        if kind == "long":  # more than a pipe holds
            raise DataError("x" * 200_000)
        if kind == "bug":
            raise KeyError("surprise")
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()  # never comes back


def stop_on_signal(folder: str) -> None:
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, _: stopped.append(signum))
    Path(folder, f"ready{comm.get_rank()}").write_text("")
    while not stopped:
        time.sleep(0.02)
    raise StoppedBySignal(stopped[0], "saved model_0000003.pth")


def hold_folder(folder: str) -> None:
    """Rank 0 claims the folder, as a run does; no rank ends by itself in less than a minute."""
    with claim(folder) if comm.is_main_process() else contextlib.nullcontext():
        Path(folder, f"ready{comm.get_rank()}").write_text("")
        time.sleep(60)


def launch_forked(function: str, argument: str) -> None:
    """As ``launch``, from a process that can fork, which spares the start of interpreters."""
    launch_module._START_METHOD = "fork"
    launch(Plan(device="cpu", num_local=2), globals()[function], (argument,))


def as_under_torchrun(rank: int, port: int, folder: str) -> None:
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in values.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    launch(make_plan(RunArguments(config_file="x", num_gpus=0)), report, (folder,))


def as_machine(rank: int, port: int, folder: str) -> None:
    """One of two machines with a process each, as Detectron2's arguments say it."""
    launch_module._START_METHOD = "fork"
    arguments = RunArguments(
        config_file="x",
        num_gpus=0,
        num_machines=2,
        machine_rank=rank,
        dist_url=f"tcp://127.0.0.1:{port}",
    )
    launch(make_plan(arguments), report, (folder,))

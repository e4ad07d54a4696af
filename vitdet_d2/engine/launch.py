# SPDX-License-Identifier: Apache-2.0
"""From one command to all processes of a run: CPU, one GPU, many, several machines, torchrun.

Vocabulary:
    world: all processes; ``rank`` counts them. local: those of one machine.

A rank that fails ends the others within seconds, and its error is shown once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from detectron2.utils import comm

from vitdet_d2.engine.arguments import RunArguments
from vitdet_d2.errors import RecipeError, StoppedBySignal, UserError

# Rank 0 may evaluate alone for long while the others wait.
TIMEOUT = timedelta(minutes=30)
# For ranks that fail together to end by themselves, so that each can close its files.
GRACE_SECONDS = 3.0
# CUDA does not survive a fork.
_START_METHOD = "spawn"

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which processes there are.

    Attributes:
        device: what each process computes on.
        num_local: processes on this machine.
        num_machines: machines.
        machine_rank: number of this machine.
        address: ``tcp://HOST:PORT`` where several machines meet.
        by_torchrun: this process is one of them already.
    """

    device: str
    num_local: int = 1
    num_machines: int = 1
    machine_rank: int = 0
    address: str | None = None
    by_torchrun: bool = False

    @property
    def world_size(self) -> int:
        """Number of all processes."""
        return self.num_local * self.num_machines


class RankFailedError(RuntimeError):
    """A process of the run failed by a fault of the program, not of the user."""

    exit_code = 1


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """What a failed process tells its parent.

    Attributes:
        error: type and arguments of an error for users or of a stop; None: a fault of ours.
        text: what is said of such a fault.
        order: which failure is told when several are known, the least one: what happened by
            itself goes before what may follow from the death of another rank.
    """

    error: tuple[type[BaseException], tuple[Any, ...]] | None
    text: str
    order: tuple[int, float]


def make_plan(arguments: RunArguments, environment: Mapping[str, str] = os.environ) -> Plan:
    """Decide which processes a run has.

    Args:
        arguments: of the command line.
        environment: of the process; torchrun speaks through it.

    Raises:
        RecipeError: more GPUs are asked for than there are, or the numbers contradict each other.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if all(name in environment for name in _TORCHRUN):
        return _torchrun_plan(arguments, environment, available)
    if arguments.num_machines < 1:
        raise RecipeError("--num-machines must be at least 1, got 0")
    num_gpus = min(available, 1) if arguments.num_gpus is None else arguments.num_gpus
    if num_gpus > available:
        raise RecipeError(
            f"--num-gpus {num_gpus}, but this machine has {_count_gpus(available)} that PyTorch "
            f"can use; ask for {f'at most {available}' if available else 'none'} "
            "(--num-gpus 0 runs on the CPU)"
        )
    if arguments.machine_rank >= arguments.num_machines:
        raise RecipeError(
            f"--machine-rank must be below --num-machines {arguments.num_machines}, got "
            f"{arguments.machine_rank}"
        )
    address = arguments.dist_url
    if arguments.num_machines > 1 and not (address or "").startswith("tcp://"):
        raise RecipeError(
            f"--num-machines {arguments.num_machines} needs --dist-url tcp://HOST:PORT of machine "
            "0, the same on every machine"
        )
    return Plan(
        device="cuda" if num_gpus else "cpu",
        num_local=max(num_gpus, 1),
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        address=address if arguments.num_machines > 1 else None,
    )


def _torchrun_plan(arguments: RunArguments, environment: Mapping[str, str], available: int) -> Plan:
    num_local = int(environment["LOCAL_WORLD_SIZE"])
    if arguments.num_machines != 1 or arguments.dist_url is not None:
        raise RecipeError("under torchrun, give --nnodes and --rdzv-endpoint to torchrun instead")
    if arguments.num_gpus not in (None, 0, num_local):
        raise RecipeError(
            f"--num-gpus {arguments.num_gpus}, but torchrun started {num_local} processes here; "
            "leave it out (or 0 for the CPU)"
        )
    wants_gpu = available > 0 if arguments.num_gpus is None else arguments.num_gpus > 0
    if wants_gpu and num_local > available:
        raise RecipeError(
            f"torchrun started {num_local} processes, but this machine has "
            f"{_count_gpus(available)}; start one process per GPU, or add --num-gpus 0 for the CPU"
        )
    return Plan(
        device="cuda" if wants_gpu else "cpu",
        num_local=num_local,
        num_machines=int(environment["WORLD_SIZE"]) // num_local,
        machine_rank=int(environment["RANK"]) // num_local,
        by_torchrun=True,
    )


def _count_gpus(count: int) -> str:
    return f"{count or 'no'} GPU{'s' if count != 1 else ''}"


def launch(plan: Plan, function: Callable[..., None], args: Sequence[Any] = ()) -> None:
    """Call a function in every process of the run; return when all have.

    Args:
        plan: which processes.
        function: at the top level of a module.
        args: of the function; pickled where processes are started.

    Raises:
        UserError: of the first process that failed with one.
        StoppedBySignal: the processes stopped after a signal.
        RankFailedError: a process failed otherwise.
    """
    if plan.by_torchrun:
        local_rank = int(os.environ["LOCAL_RANK"])
        with _process_group(plan, local_rank, init_method="env://"):
            function(*args)
    elif plan.world_size == 1:
        if plan.device == "cuda":
            torch.cuda.set_device(0)
        function(*args)
    else:
        _spawn(plan, function, tuple(args))


@contextlib.contextmanager
def _process_group(plan: Plan, local_rank: int, **rendezvous: Any) -> Iterator[None]:
    """Connect this process to the world for the duration of the block."""
    on_gpu = plan.device == "cuda"
    if on_gpu:
        torch.cuda.set_device(local_rank)
        rendezvous["device_id"] = torch.device("cuda", local_rank)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        rank=plan.machine_rank * plan.num_local + local_rank,
        world_size=plan.world_size,
        timeout=TIMEOUT,
        **rendezvous,
    )
    comm.create_local_process_group(plan.num_local)
    yield
    # Only after success: with a rank gone, the goodbye would wait for it.
    dist.destroy_process_group()


def _spawn(plan: Plan, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    # The parent serves the meeting point of a single machine on a port that the system chooses,
    # so that two runs never meet at one port.
    store = None
    if plan.address is None:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        plan = dataclasses.replace(plan, address=f"127.0.0.1:{store.port}")
    context: Any = multiprocessing.get_context(_START_METHOD)
    pipes: list[Connection] = []
    ranks: list[BaseProcess] = []
    with _forward_signals(ranks):
        for local_rank in range(plan.num_local):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=_run_rank, args=(os.getpid(), plan, local_rank, function, args, sender)
            )
            process.start()
            sender.close()
            ranks.append(process)
            pipes.append(receiver)
        try:
            failure = _watch(ranks, pipes)
        finally:
            for process in ranks:
                process.kill()
                process.join()
    del store
    if failure is not None:
        _raise(failure)


@contextlib.contextmanager
def _forward_signals(ranks: Sequence[BaseProcess]) -> Iterator[None]:
    """Leave stopping to the ranks, which save first: hand SIGTERM on, let Ctrl-C pass by."""

    def forward(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        for process in ranks:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signum)

    # A terminal's Ctrl-C reaches the ranks by itself; the parent waits for them.
    handlers = {signal.SIGTERM: forward, signal.SIGINT: lambda *_: None}
    previous = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _watch(ranks: Sequence[BaseProcess], pipes: Sequence[Connection]) -> _Failure | None:
    """Wait for all; after the first failure, for a moment only. Return what caused the rest."""
    failures: list[_Failure] = []
    deadline: float | None = None
    running = dict(enumerate(ranks))
    unheard, told = dict(enumerate(pipes)), dict[int, _Failure]()
    while running:
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        sentinels = [process.sentinel for process in running.values()]
        wait([*sentinels, *unheard.values()], timeout=remaining)
        if deadline is not None and time.monotonic() >= deadline:
            break
        ended = [index for index, process in running.items() if not process.is_alive()]
        _hear(unheard, told)
        for index in ended:
            process = running.pop(index)
            if process.exitcode == 0:
                continue
            failures.append(told.get(index) or _silent_failure(index, process))
            deadline = deadline or time.monotonic() + GRACE_SECONDS
    return min(failures, key=lambda failure: failure.order, default=None)


def _hear(unheard: dict[int, Connection], told: dict[int, _Failure]) -> None:
    """Take what ranks tell while they live: no rank ends before a long message is read."""
    for index in [index for index, pipe in unheard.items() if pipe.poll()]:
        with contextlib.suppress(EOFError, OSError):
            told[index] = unheard.pop(index).recv()


def _silent_failure(index: int, process: BaseProcess) -> _Failure:
    code = process.exitcode
    if code is not None and code < 0:
        ended = f"was ended by {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            ended += " (the system does that when memory runs out)"
    else:
        ended = f"ended with code {code}"
    return _Failure(error=None, text=f"process {index} {ended}", order=(1, 0.0))


def _raise(failure: _Failure) -> NoReturn:
    if failure.error is None:
        raise RankFailedError(failure.text)
    kind, arguments = failure.error
    raise kind(*arguments)


def _end_with(parent: int) -> None:
    """Let the system end this process when its parent is killed.

    It would train on unseen, and hold the run folder against a ``--resume``.
    """
    torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGKILL)  # type: ignore[attr-defined]
    if os.getppid() != parent:  # gone already
        os._exit(1)


def _run_rank(
    parent: int,
    plan: Plan,
    local_rank: int,
    function: Callable[..., None],
    args: tuple[Any, ...],
    pipe: Connection,
) -> None:
    """Be one process of the run; tell the parent how it failed."""
    _end_with(parent)
    rank = plan.machine_rank * plan.num_local + local_rank
    address = plan.address or ""
    try:
        if address.startswith("tcp://"):
            rendezvous: dict[str, Any] = {"init_method": address}
        else:
            host, _, port = address.rpartition(":")
            store = dist.TCPStore(host, int(port), is_master=False, timeout=TIMEOUT)
            rendezvous = {"store": store}
        with _process_group(plan, local_rank, **rendezvous):
            function(*args)
    except BaseException as error:
        pipe.send(_describe(rank, error))
        pipe.close()
        # At once: other threads, such as NCCL's, may wait for ranks that are gone.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(getattr(error, "exit_code", 1))


def _describe(rank: int, error: BaseException) -> _Failure:
    """Return the failure in a form that can be pickled whatever the exception is."""
    trace = traceback.format_exc()
    text = f"{trace}rank {rank} failed with {type(error).__name__}: {error}"
    if isinstance(error, StoppedBySignal):
        stopped = (StoppedBySignal, (error.signum, str(error)))
        return _Failure(error=stopped, text=text, order=(2, time.time()))
    if isinstance(error, UserError):
        return _Failure(error=(type(error), (str(error),)), text=text, order=(0, time.time()))
    return _Failure(error=None, text=text, order=(2, time.time()))

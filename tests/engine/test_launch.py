# SPDX-License-Identifier: Apache-2.0
"""From one command to all processes, and back from the failure of one."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from pathlib import Path

import pytest
import torch

from tests.engine import launched
from tests.engine.zygote import Zygote, wait_for
from vitdet_d2.engine.arguments import RunArguments
from vitdet_d2.engine.launch import Plan, launch, make_plan
from vitdet_d2.engine.run_folder import claim
from vitdet_d2.errors import RecipeError, UserError

TWO = Plan(device="cpu", num_local=2)


def plan(gpus: int, monkeypatch: pytest.MonkeyPatch, torchrun: str = "", **values: object) -> Plan:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    environment = dict(zip(names, torchrun.split(), strict=True)) if torchrun else {}
    return make_plan(RunArguments(config_file="x", **values), environment)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gpus", "asked", "device", "num_local"),
    [(0, None, "cpu", 1), (4, None, "cuda", 1), (4, 0, "cpu", 1), (4, 4, "cuda", 4)],
)
def test_devices(
    monkeypatch: pytest.MonkeyPatch, gpus: int, asked: int | None, device: str, num_local: int
) -> None:
    made = plan(gpus, monkeypatch, num_gpus=asked)
    assert (made.device, made.num_local, made.world_size) == (device, num_local, num_local)


def test_several_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(
        8, monkeypatch, num_gpus=8, num_machines=2, machine_rank=1, dist_url="tcp://a:1"
    )  # fmt: skip
    assert (made.world_size, made.machine_rank, made.address) == (16, 1, "tcp://a:1")


def test_torchrun_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(8, monkeypatch, torchrun="5 8 1 4")
    assert (made.device, made.num_local, made.num_machines, made.machine_rank) == ("cuda", 4, 2, 1)
    assert made.by_torchrun
    assert plan(0, monkeypatch, torchrun="0 2 0 2").device == "cpu"
    assert plan(8, monkeypatch, torchrun="0 2 0 2", num_gpus=0).device == "cpu"


WRONG = [
    (0, "", {"num_gpus": 1}, "--num-gpus 1, but this machine has no GPUs that PyTorch can use"),
    (1, "", {"num_gpus": 8}, "--num-gpus 8, but this machine has 1 GPU that PyTorch can use"),
    (8, "", {"num_machines": 0}, "--num-machines must be at least 1"),
    (8, "", {"num_machines": 2, "machine_rank": 2}, "--machine-rank must be below .* 2, got 2"),
    (8, "", {"num_machines": 2}, "--num-machines 2 needs --dist-url tcp://HOST:PORT"),
    (8, "0 2 0 2", {"num_machines": 2}, "give --nnodes and --rdzv-endpoint to torchrun"),
    (8, "0 2 0 2", {"num_gpus": 4}, "--num-gpus 4, but torchrun started 2 processes"),
    (1, "0 2 0 2", {}, "torchrun started 2 processes, but this machine has 1 GPU;"),
]


@pytest.mark.parametrize(("gpus", "torchrun", "values", "message"), WRONG)
def test_contradictions(
    monkeypatch: pytest.MonkeyPatch, gpus: int, torchrun: str, values: dict, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        plan(gpus, monkeypatch, torchrun=torchrun, **values)


def test_alone_it_is_a_call(tmp_path: Path) -> None:
    launch(Plan(device="cpu"), launched.report, (str(tmp_path),))
    assert (tmp_path / "rank0").read_text() == "0/1 0 1.0"


def test_two_processes_meet(tmp_path: Path) -> None:
    launch(TWO, launched.report, (str(tmp_path),))
    assert (tmp_path / "rank0").read_text() == "0/2 0 3.0"
    assert (tmp_path / "rank1").read_text() == "1/2 1 3.0"


FORKED = "tests.engine.launched:launch_forked"
FAILURES = {
    "user": (3, r"^error: image 5 is missing\n$"),
    "long": (3, r"^error: x{200000}\n$"),
    "bug": (1, r"^error: Traceback[^$]*in fail_on_one[^$]*rank 1 failed with KeyError: 'surprise'"),
    "kill": (1, r"^error: process 1 was ended by SIGKILL \(the system does that when memory"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_one_rank_that_fails_ends_all_and_says_why_once(
    zygote: Zygote, tmp_path: Path, kind: str
) -> None:
    code, message = FAILURES[kind]
    log = tmp_path / "log"
    pid = zygote.start(FORKED, log, function="fail_on_one", argument=kind)
    assert zygote.wait(pid, 30) == code
    said = log.read_text()
    assert said.count("error: ") == 1
    assert re.search(message, said[said.index("error: ") :])


def test_sigterm_to_the_parent_stops_the_ranks(zygote: Zygote, tmp_path: Path) -> None:
    log = tmp_path / "log"
    pid = zygote.start(FORKED, log, function="stop_on_signal", argument=str(tmp_path))
    wait_for(lambda: len(list(tmp_path.glob("ready*"))) == 2, 60)
    os.kill(pid, signal.SIGTERM)
    assert zygote.wait(pid) == 143
    assert log.read_text().count("saved model_0000003.pth") == 1


def test_ranks_die_with_the_parent_and_free_the_folder(zygote: Zygote, tmp_path: Path) -> None:
    pid = zygote.start(FORKED, tmp_path / "log", function="hold_folder", argument=str(tmp_path))
    wait_for(lambda: len(list(tmp_path.glob("ready*"))) == 2, 60)
    with pytest.raises(UserError, match="in use by another run"), claim(tmp_path):
        pass
    os.kill(pid, signal.SIGKILL)
    assert zygote.wait(pid) == -signal.SIGKILL

    def is_free() -> bool:
        with contextlib.suppress(UserError), claim(tmp_path):
            return True
        return False

    wait_for(is_free)


@pytest.mark.parametrize(
    ("call", "expected"), [("as_under_torchrun", "1/2 1 3.0"), ("as_machine", "1/2 0 3.0")]
)
def test_torchruns_environment_and_two_machines(
    zygote: Zygote, tmp_path: Path, call: str, expected: str
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pids = [
        zygote.start(
            f"tests.engine.launched:{call}",
            tmp_path / f"log{rank}",
            rank=rank,
            port=port,
            folder=str(tmp_path),
        )
        for rank in range(2)
    ]
    assert [zygote.wait(pid) for pid in pids] == [0, 0]
    assert (tmp_path / "rank1").read_text() == expected

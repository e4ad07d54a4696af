# SPDX-License-Identifier: Apache-2.0
"""A process that has everything imported and forks a child per job: a run without its start-up.

Jobs can be killed like any process. One JSON object per line in, one out:
``{"call": "module:function", "kwargs": {...}, "log": path}`` gives ``{"pid": n}``;
``{"wait": pid, "seconds": s}`` gives ``{"code": n}`` (negative: the signal; null: still running).
"""

from __future__ import annotations

import vitdet_d2  # isort: skip  (decides which Detectron2 this process uses)

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(vitdet_d2.__file__).resolve().parents[1]


class Zygote:
    """The parent's side."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.engine.zygote"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def start(self, call: str, log: Path, **kwargs: Any) -> int:
        return self._ask({"call": call, "kwargs": kwargs, "log": str(log)})["pid"]

    def wait(self, pid: int, seconds: float = 60.0) -> int | None:
        return self._ask({"wait": pid, "seconds": seconds})["code"]

    def run(self, call: str, log: Path, **kwargs: Any) -> int | None:
        return self.wait(self.start(call, log, **kwargs))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the zygote died"
        return json.loads(answer)


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Poll until `condition` holds; returns what it returned."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.001)
    raise AssertionError("waited in vain")


def _child(request: dict[str, Any]) -> None:
    """Run the job as the command line would: errors of ours become exit codes."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    # Jobs stand in a group of their own, as a batch system has it.
    os.setpgid(0, 0)
    module, _, function = request["call"].partition(":")
    code = 0
    try:
        getattr(importlib.import_module(module), function)(**request["kwargs"])
    except BaseException as error:
        code = getattr(error, "exit_code", 99)
        print(f"error: {error}", file=sys.stderr)
        if code == 99:
            traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _wait(pid: int, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def _warm_up() -> None:
    """Run once, so that everything that is imported on first use is there before any fork."""
    import torch

    from tests.engine import tiny_run

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        tiny_run.write_data(Path(folder))
        tiny_run.train(folder, f"{folder}/run", max_iter=2)


def main() -> None:
    _warm_up()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer: dict[str, Any] = {"code": _wait(request["wait"], request["seconds"])}
        else:
            pid = os.fork()
            if pid == 0:
                _child(request)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

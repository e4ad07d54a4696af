# SPDX-License-Identifier: Apache-2.0
"""The process of one side: prepares a case, runs its turns, and hands over evidence.

``python -m vitdet_d2.analysis.bench.worker SIDE``: requests and answers are lines of JSON on the
standard streams; whatever else is printed goes to the error stream.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any, cast

import torch
import torchvision

import vitdet_d2
from vitdet_d2 import runtime
from vitdet_d2.analysis.bench import axes
from vitdet_d2.analysis.bench.case import Case, Side, Subject
from vitdet_d2.analysis.bench.peak import product_rate
from vitdet_d2.analysis.job import reason
from vitdet_d2.analysis.measured_run import hardware
from vitdet_d2.analysis.process_memory import (
    available_bytes,
    forget_peak,
    limit_growth,
    process_bytes,
)


def main() -> None:
    """Answer requests until there are no more."""
    answers = _own_stdout()
    worker = Worker(cast(Side, sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = worker.answer(request)
        except Exception as error:  # of any model: the other sides go on without this one
            answer = {"error": reason(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _own_stdout() -> IO[str]:
    """Return the standard output, and send what others print there to the error stream."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return own


class Worker:
    """One side, with at most one case prepared."""

    def __init__(self, side: Side) -> None:
        """Begin with nothing.

        Args:
            side: who this is.
        """
        self._side = side
        self._subject: Subject | None = None
        self._device = torch.device("cpu")
        self._first_bytes = 0

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a request asks.

        Args:
            request: with ``do``, the name of a method, and its arguments.
        """
        arguments = {key: value for key, value in request.items() if key != "do"}
        answer: dict[str, Any] = getattr(self, request["do"])(**arguments)
        return answer

    def hello(self) -> dict[str, Any]:
        """Say which versions these are."""
        found = runtime.current()
        return {
            "vitdet_d2": vitdet_d2.__version__,
            "detectron2": f"{found.name} {found.version}{_commit(found.path)}",
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "python": sys.version.split()[0],
            "threads": torch.get_num_threads(),
        }

    def share(self, case: str, folder: str) -> dict[str, Any]:
        """Write what all sides share.

        Args:
            case: as JSON.
            folder: of the case.
        """
        axes.write_shared(Case.from_json(case), Path(folder))
        return {}

    def prepare(self, case: str, folder: str) -> dict[str, Any]:
        """Prepare a case; what was prepared before is given up.

        Args:
            case: as JSON.
            folder: of the case.
        """
        self._subject = None
        self._free()
        asked = Case.from_json(case)
        self._device = torch.device(asked.device)
        torch.manual_seed(0)
        self._first_bytes = process_bytes("VmRSS") or 0
        if self._device.type == "cpu":
            # Else the system would end some process, not always this one.
            limit_growth(available_bytes() or sys.maxsize)
        self._subject = axes.prepare(asked, self._side, Path(folder))
        return {"hardware": hardware(self._device)}

    def evidence(self, path: str) -> dict[str, Any]:
        """Write the evidence of the prepared case.

        Args:
            path: of the file.
        """
        found = self._prepared.evidence()
        torch.save(found, path)
        self._free()
        return {"entries": len(found)}

    def turn(self, runs: int, warmup: int) -> dict[str, Any]:
        """Run, and say how long it took and how much memory there was at most.

        Args:
            runs: that are timed, each by itself.
            warmup: before them.
        """
        subject = self._prepared
        for _ in range(warmup):
            subject.run()
        self._forget_peak()
        wall, cpu = [], []
        for _ in range(runs):
            self._wait()
            first, first_cpu = time.perf_counter(), time.process_time()
            subject.run()
            self._wait()
            wall.append(time.perf_counter() - first)
            cpu.append(time.process_time() - first_cpu)
        peak = self._peak()
        self._free()
        return {"units": subject.units, "wall": wall, "cpu": cpu, "peak_bytes": peak}

    def count(self) -> dict[str, Any]:
        """Return the numbers that need no clock."""
        return dict(self._prepared.count())

    def rate(self, dtype: str, device: str) -> dict[str, Any]:
        """Return the rate of large matrix products, in FLOP per second.

        Args:
            dtype: "fp32" or "bf16".
            device: as torch names it.
        """
        return {"flops_per_second": product_rate(dtype, torch.device(device))}

    @property
    def _prepared(self) -> Subject:
        assert self._subject is not None, "asked for a case that was not prepared"
        return self._subject

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _forget_peak(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            forget_peak()

    def _peak(self) -> int | None:
        """Return the most memory since, on the CPU beyond what the process began with."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        most = process_bytes("VmHWM")
        return None if most is None else max(0, most - self._first_bytes)

    def _free(self) -> None:
        """Make room for the other sides, whose turn it is."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _commit(package: Path) -> str:
    """Return the commit of a checkout, in brackets; nothing where there is none."""
    command = ["git", "-C", str(package), "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return f" ({found.stdout.strip()})" if found.returncode == 0 else ""


if __name__ == "__main__":
    main()

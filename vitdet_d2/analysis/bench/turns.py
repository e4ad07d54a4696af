# SPDX-License-Identifier: Apache-2.0
"""Lets the processes of all sides take turns: A B A B, so that whatever else runs slows all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch

from vitdet_d2 import runtime
from vitdet_d2.analysis.bench.case import Case, Evidence, Side
from vitdet_d2.analysis.bench.gate import Verdict, judge
from vitdet_d2.analysis.bench.outcome import CaseOutcome, SideOutcome

_LOG_LENGTH = 300


class SideError(RuntimeError):
    """A side's process has ended, or could not do what it was asked to do."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a case is measured.

    Attributes:
        rounds: turns of every side.
        runs: timed runs of a turn.
        warmup: runs of every side before the first turn.
        rewarm: untimed runs at the start of every turn.
        threads: of every process; None: as torch chooses.
        detectron2: folder that has the package; None: the one of the environment.
        alone: measure our side only.
    """

    rounds: int = 5
    runs: int = 1
    warmup: int = 1
    rewarm: int = 0
    threads: int | None = None
    detectron2: Path | None = None
    alone: bool = False


class SideProcess:
    """The process of one side; a context that ends it."""

    def __init__(self, side: Side, plan: Plan, log: IO[bytes]) -> None:
        """Start it.

        Args:
            side: who it is.
            plan: its threads, and where Detectron2 is.
            log: where it prints to.
        """
        self.side = side
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vitdet_d2.analysis.bench.worker", side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment(side, plan),
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer.

        Args:
            do: a method of `Worker`.
            **arguments: of the method.

        Raises:
            SideError: it failed, or the process has ended.
        """
        assert self._process.stdin is not None, "the process was started without a pipe"
        assert self._process.stdout is not None, "the process was started without a pipe"
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SideError(f"its process ended: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SideError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                # What a process that ended by itself has not read is still in the buffer.
                with suppress(BrokenPipeError):
                    stream.close()

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.flush()
        text = Path(self._log.name).read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return (lines[-1] if lines else f"exit code {code}")[-_LOG_LENGTH:]


def environment(side: Side, plan: Plan) -> dict[str, str]:
    """Return the environment of a side's process.

    Args:
        side: ours uses the runtime that this package carries, the others Detectron2's own.
        plan: its threads, and where Detectron2 is.
    """
    values = dict(os.environ)
    values[runtime.VARIABLE] = "bundled" if side == "ours" else "installed"
    if plan.threads is not None:
        values["OMP_NUM_THREADS"] = str(plan.threads)
    if side != "ours" and plan.detectron2 is not None:
        paths = [str(plan.detectron2), values.get("PYTHONPATH", "")]
        values["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return values


@contextmanager
def started(sides: Sequence[Side], plan: Plan, folder: Path) -> Iterator[dict[Side, SideProcess]]:
    """Run the processes of sides in this block.

    Args:
        sides: which.
        plan: how.
        folder: for their logs.
    """
    with ExitStack() as stack:
        processes: dict[Side, SideProcess] = {}
        for side in sides:
            log = stack.enter_context((folder / f"{side}.log").open("wb"))
            processes[side] = SideProcess(side, plan, log)
            stack.callback(processes[side].close)
        yield processes


def versions(plan: Plan) -> dict[str, Any]:
    """Return the versions of both projects and of torch; a reason where Detectron2 is not there.

    Args:
        plan: where Detectron2 is, and whether it is wanted.
    """
    found: dict[str, Any] = {}
    wanted: tuple[Side, ...] = ("ours",) if plan.alone else ("ours", "shipped")
    with tempfile.TemporaryDirectory(prefix="vitdet_bench_") as name:
        with started(wanted, plan, Path(name)) as processes:
            for side, process in processes.items():
                try:
                    found[side] = process.ask("hello")
                except SideError as error:
                    found[side] = {"error": str(error)}
    return found


def measure(case: Case, plan: Plan) -> CaseOutcome:
    """Measure a case: shared weights, evidence of all sides, then turns.

    Args:
        case: what is measured.
        plan: how.
    """
    sides = ("ours",) if plan.alone else case.sides
    with tempfile.TemporaryDirectory(prefix="vitdet_bench_") as name:
        folder = Path(name)
        with started(sides, plan, folder) as processes:
            return _measured(case, plan, processes, folder)


def _measured(
    case: Case, plan: Plan, processes: Mapping[Side, SideProcess], folder: Path
) -> CaseOutcome:
    failed: dict[Side, str] = {}
    hardware = None
    try:
        processes["ours"].ask("share", case=case.to_json(), folder=name_of(folder))
    except SideError as error:
        return CaseOutcome(case=case, sides={"ours": SideOutcome(error=str(error))})
    for side, process in processes.items():
        try:
            answer = process.ask("prepare", case=case.to_json(), folder=name_of(folder))
            hardware = answer["hardware"] if side == "ours" else hardware
        except SideError as error:
            failed[side] = str(error)
    ready = {side: p for side, p in processes.items() if side not in failed}
    verdict = _verdict(ready, folder, failed)
    taken = _take_turns({s: p for s, p in ready.items() if s not in failed}, plan, failed)
    outcomes = {side: taken.get(side, SideOutcome()) for side in processes}
    for side, text in failed.items():
        outcomes[side] = SideOutcome(error=text)
    return CaseOutcome(case=case, hardware=hardware, sides=outcomes, verdict=verdict)


def name_of(folder: Path) -> str:
    """Return a folder as another process finds it.

    Args:
        folder: of the case.
    """
    return str(folder.resolve())


def _verdict(
    processes: Mapping[Side, SideProcess], folder: Path, failed: dict[Side, str]
) -> Verdict | None:
    """Let all sides show evidence, and judge it; None where there is only one side."""
    if not {"ours", "shipped"} <= processes.keys():
        return None
    found: dict[Side, Evidence] = {}
    for side, process in processes.items():
        path = folder / f"evidence_{side}.pt"
        try:
            process.ask("evidence", path=str(path))
        except SideError as error:
            failed[side] = str(error)
            continue
        found[side] = torch.load(path, weights_only=True, mmap=True)
    if not {"ours", "shipped"} <= found.keys():
        return None
    return judge(found["ours"], found["shipped"], found.get("tuned"))


def _take_turns(
    processes: Mapping[Side, SideProcess], plan: Plan, failed: dict[Side, str]
) -> dict[Side, SideOutcome]:
    """Return what every side took."""
    outcomes: dict[Side, SideOutcome] = {}
    for number in range(plan.rounds):
        warmup = plan.warmup if number == 0 else plan.rewarm
        for side, process in processes.items():
            if side in failed:
                continue
            try:
                answer = process.ask("turn", runs=plan.runs, warmup=warmup)
                before = outcomes.get(side, SideOutcome(units=answer["units"]))
                peaks = [p for p in (before.peak_bytes, answer["peak_bytes"]) if p is not None]
                outcomes[side] = replace(
                    before,
                    wall=(*before.wall, *answer["wall"]),
                    cpu=(*before.cpu, *answer["cpu"]),
                    peak_bytes=max(peaks, default=None),
                )
            except SideError as error:
                failed[side] = str(error)
    for side, process in processes.items():
        if side in outcomes and side not in failed:
            try:
                outcomes[side] = replace(outcomes[side], counts=process.ask("count"))
            except SideError as error:
                failed[side] = str(error)
    return outcomes

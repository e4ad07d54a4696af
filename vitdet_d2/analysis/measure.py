# SPDX-License-Identifier: Apache-2.0
"""Start measuring processes, one after the other, and survive whatever becomes of them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from vitdet_d2.analysis.job import Job, Outcome
from vitdet_d2.analysis.process_memory import process_bytes

# How often the memory of the process is looked at, for the case that the system ends it.
_WATCH_SECONDS = 0.2
_ERROR_LENGTH = 300


def measure_apart(job: Job) -> Outcome:
    """Measure in a process of its own, so that nothing else is in its peaks.

    Args:
        job: what to measure.

    Returns:
        Numbers, or what became of the process.
    """
    with tempfile.TemporaryDirectory(prefix="vitdet_complexity_") as folder:
        files = {name: Path(folder) / name for name in ("job", "outcome", "log")}
        files["job"].write_text(job.to_json(), encoding="utf-8")
        command = [sys.executable, "-m", "vitdet_d2.analysis.measured_run"]
        command += [str(files["job"]), str(files["outcome"])]
        with files["log"].open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        peak = _wait(process)
        if process.returncode == 0 and files["outcome"].is_file():
            return Outcome.from_json(files["outcome"].read_text(encoding="utf-8"))
        log_text = files["log"].read_text(encoding="utf-8", errors="replace")
    if process.returncode == -signal.SIGKILL:
        # Of the system, when memory runs out: nobody else kills in this way without being asked.
        return Outcome(out_of_memory=True, need_bytes=peak or None)
    return Outcome(error=_reason(log_text, process.returncode))


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process, and return the most memory that it was seen with."""
    peak = 0
    try:
        while True:
            peak = max(peak, process_bytes("VmHWM", process.pid) or 0)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_WATCH_SECONDS)
                return peak
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _reason(log: str, code: int) -> str:
    """Return what became of a process that gave no outcome."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    last = lines[-1] if lines else "no message"
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"the measuring process {how}: {last[-_ERROR_LENGTH:]}"

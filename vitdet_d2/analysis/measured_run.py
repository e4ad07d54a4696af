# SPDX-License-Identifier: Apache-2.0
"""One measurement of time and memory; runs as a process of its own, whose peaks are the run's.

``python -m vitdet_d2.analysis.measured_run JOB OUTCOME``: both are files, see
`vitdet_d2.analysis.job`.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vitdet_d2.analysis.job import Job, Outcome, reason
from vitdet_d2.analysis.parts import BackboneOnly
from vitdet_d2.analysis.process_memory import (
    available_bytes,
    forget_peak,
    limit_growth,
    process_bytes,
)
from vitdet_d2.analysis.runs import inference_run, precision_of, training_run
from vitdet_d2.engine.build import build_model
from vitdet_d2.engine.overrides import apply_overrides
from vitdet_d2.engine.recipes import load_recipe
from vitdet_d2.engine.settings import read_settings

_NAMES = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
# So many that torch shares them among its threads.
_PARALLEL_ELEMENTS = 2**20
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def main() -> None:
    """Read the job, run it, and write the outcome."""
    job = Job.from_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        outcome = measure(job)
    except Exception as error:  # whatever it is: the process that waits shall hear of it
        outcome = Outcome(error=reason(error))
    Path(sys.argv[2]).write_text(outcome.to_json(), encoding="utf-8")


def measure(job: Job) -> Outcome:
    """Measure in this process.

    Args:
        job: what to do.

    Returns:
        Numbers, or that they could not be had for want of memory.

    Raises:
        MemoryError: never; that is an outcome.
        RuntimeError: the model failed, for another reason than memory.
        UserError: the recipe cannot be run.
    """
    device = _exact_device(job.device)
    first = _begin_memory(device, job.memory_limit)
    try:
        return _measure(job, device, first)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return Outcome(
            out_of_memory=True,
            need_bytes=_peak(device, first, "VmRSS") + requested_bytes(str(error)),
            hardware=hardware(device),
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on a GPU or in the machine.

    Args:
        error: of torch, or of Python.
    """
    signs = ("can't allocate memory", "bad_alloc", "out of memory", "Cannot allocate memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        sign in str(error) for sign in signs
    )


def requested_bytes(message: str) -> int:
    """Return how much a failed allocation asked for; 0 where the message does not tell.

    Args:
        message: of torch, such as "Tried to allocate 2.00 GiB" or "you tried to allocate 8 bytes".
    """
    match = re.search(r"[Tt]ried to allocate ([\d.]+) (bytes|[KMGT]iB)", message)
    return 0 if match is None else int(float(match[1]) * _UNITS[match[2]])


def hardware(device: torch.device) -> str:
    """Return what a device is, in words.

    Args:
        device: of this machine.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = None
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        name = re.search(r"^model name\s*: (.+)$", text, flags=re.MULTILINE)
    threads = torch.get_num_threads()
    return f"{name[1] if name else 'CPU'}, {threads} thread{'s' if threads > 1 else ''}"


def _measure(job: Job, device: torch.device, first: int) -> Outcome:
    torch.manual_seed(0)
    cfg = recipe_of(job)
    settings = read_settings(cfg)
    if job.part == "backbone":
        model: nn.Module = BackboneOnly(instantiate(cfg.model.backbone)).to(device)
    else:
        model = build_model(cfg, device)
    precision = precision_of(job, settings, device)
    if job.phase == "training":
        run = training_run(job, cfg, model, settings, precision)
    else:
        run = inference_run(job, model, precision)
    last: Any = None
    for _ in range(job.warmup):
        last = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(job.repeats):
        taken, last = _timed(run, device)
        seconds.append(taken)
    return Outcome(
        seconds=median(seconds),
        peak_bytes=_peak(device, first, "VmHWM") or None,
        precision=_NAMES[precision],
        hardware=hardware(device),
        detections=last,
    )


def recipe_of(job: Job) -> DictConfig:
    """Return the recipe of a job, whose model takes images of the job's size as they are.

    Args:
        job: with images that the backbone can divide.
    """
    cfg = load_recipe(job.recipe, job.overrides)
    side = OmegaConf.select(cfg, "model.backbone.square_pad")
    if side is not None and (side, side) != job.image_size:
        apply_overrides(cfg, ["model.backbone.square_pad=0"])
    return cfg


def _timed(run: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Return how many seconds a run takes until the device has finished, and what it returns."""
    if device.type != "cuda":
        start = time.perf_counter()
        result = run()
        return time.perf_counter() - start, result
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    result = run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000, result


def _exact_device(name: str) -> torch.device:
    """Return a device with its number, and make it the current one, whose events are timed."""
    device = torch.device(name)
    if device.type != "cuda":
        return device
    device = torch.device("cuda", device.index or 0)
    torch.cuda.set_device(device)
    return device


def _begin_memory(device: torch.device, limit: int | None) -> int:
    """Set the limit, and return what this process has in memory before it begins."""
    if device.type == "cuda":
        if limit is not None:
            whole = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit / whole), device)
        return 0
    _start_threads()
    forget_peak()
    free = available_bytes()
    limits = [value for value in (limit, free) if value is not None]
    if limits:
        limit_growth(min(limits))
    return process_bytes("VmRSS") or 0


def _start_threads() -> None:
    """Let torch start its threads: where the limit forbids it, OpenMP ends the whole process."""
    torch.ones(_PARALLEL_ELEMENTS).exp_()


def _peak(device: torch.device, first: int, field: str) -> int:
    """Return the most memory that was taken, on the CPU beyond what was taken at first."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return max(0, (process_bytes(field) or first) - first)


if __name__ == "__main__":
    main()

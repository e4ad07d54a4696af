# SPDX-License-Identifier: Apache-2.0
"""Time and memory of loading a ViT-H (2.5 GB) into a model on the meta device.

    python -m benchmarks.load_weights [--size h] [--folder FOLDER] [--repeats 5]

Writes an encoder as MAE releases it, with random weights, as .safetensors, .pth and .pkl into a
temporary folder, and takes it away again. For each format a new process loads it with
`vitdet_d2.pretrained.load`, and, in turn with it, another one the .pth with
`torch.load(weights_only=True)`, which is the measure of time; the files are in the page cache. Each
process loads twice: "again" has the memory that the first load gave back. In one more process the
peak of memory is taken: what the process grows by, at most, from before the file is opened until
the model is loaded, without anything it needed before. What was loaded is compared with what was
written.
"""

from __future__ import annotations

import argparse
import json
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import vitdet_d2  # isort: skip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vitdet_d2.backbones import ViT, vit_arguments
from vitdet_d2.pretrained import load

MAX_TIME, MAX_MEMORY = 1.5, 1.3
ENDINGS = ("safetensors", "pth", "pkl")


def build(size: str) -> nn.Module:
    """Return the ViT of the recipes on the meta device."""
    with torch.device("meta"):
        return ViT(
            **vit_arguments(size),
            window_size=14,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
        )


def encoder(size: str) -> dict[str, Tensor]:
    """Return random weights with MAE's names."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        name: v.shape for name, v in build(size).state_dict().items() if "rel_pos" not in name
    }
    width = shapes["pos_embed"][-1]
    shapes |= {"cls_token": torch.Size([1, 1, width]), "norm.weight": torch.Size([width])}
    shapes["norm.bias"] = torch.Size([width])
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write(folder: Path, size: str) -> dict[str, float]:
    """Write the files, and return a sum of each tensor."""
    state = encoder(size)
    save_file(state, folder / "weights.safetensors")
    torch.save({"model": state}, folder / "weights.pth")
    with (folder / "weights.pkl").open("wb") as file:
        pickle.dump({"model": {name: v.numpy() for name, v in state.items()}}, file, protocol=4)
    return {name: float(value.double().sum()) for name, value in state.items()}


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes; what it made is freed before the next."""
    start = time.perf_counter()
    result = function()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def memory(field: str) -> int:
    """Return a figure of this process in bytes.

    Raises:
        RuntimeError: this system does not have it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def measure_memory(path: Path, size: str, baseline: bool) -> dict[str, object]:
    """Return the peak growth, and the sums of what was loaded."""
    model = build(size)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    if baseline:
        state = torch.load(path, weights_only=True)
        state = state.get("model", state)
    else:
        load(model, path, source="mae")
        state = model.state_dict()
    peak = memory("VmHWM") - before
    return {"peak": peak, "sums": {name: float(v.double().sum()) for name, v in state.items()}}


def measure_time(path: Path, size: str, baseline: bool) -> list[float]:
    """Return the seconds of the first load in this process, and of one after it was freed."""
    with path.open("rb") as stream:  # into the page cache
        while stream.read(64 * 1024**2):
            pass
    times = []
    for _ in range(2):
        model = build(size)
        if baseline:
            times.append(seconds(partial(torch.load, path, weights_only=True)))
        else:
            times.append(seconds(partial(load, model, path, source="mae")))
    return times


def in_new_process(*arguments: str) -> Any:
    """Run this script in another process, and return what it prints."""
    command = [sys.executable, "-m", "benchmarks.load_weights", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def report(folder: Path, size: str, repeats: int) -> bool:
    """Print the table, and return whether the figures asked for are reached.

    Raises:
        SystemExit: something else was loaded than was written.
    """
    sums = write(folder, size)
    common = ["--size", size]
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("file          GB    first: ours s, torch.load s, ratio   again: ratio   peak GB, ratio")
    reached = True
    pth = str(folder / "weights.pth")
    plain = in_new_process("--memory", pth, "--baseline", *common)
    for ending in ENDINGS:
        path = folder / f"weights.{ending}"
        bytes_ = path.stat().st_size
        runs = [
            (
                in_new_process("--time", str(path), *common),
                in_new_process("--time", pth, "--baseline", *common),
            )
            for _ in range(repeats)
        ]
        ours, theirs = (statistics.median(run[way][0] for run in runs) for way in (0, 1))
        again = [statistics.median(run[way][1] for run in runs) for way in (0, 1)]
        found = in_new_process("--memory", str(path), *common)
        lost = [name for name, total in found["sums"].items() if "rel_pos" not in name
                and sums[name] != total]  # fmt: skip
        if lost:
            raise SystemExit(f"{path}: other values than were written: {lost[:3]}")
        time_ratio, memory_ratio = ours / theirs, found["peak"] / bytes_
        print(
            f".{ending:<12} {bytes_ / 1e9:.2f}  {ours:12.2f} {theirs:12.2f} {time_ratio:9.2f} "
            f"{again[0] / again[1]:14.2f} {found['peak'] / 1e9:12.2f} {memory_ratio:6.2f}",
            flush=True,
        )
        if ending != "pkl":
            reached &= time_ratio <= MAX_TIME and memory_ratio <= MAX_MEMORY
    print(f"torch.load alone: peak {plain['peak'] / 1e9:.2f} GB")
    return reached


def main() -> int:
    """Measure, or do one part of it in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="h")
    parser.add_argument("--folder", help="where a temporary folder is made")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--time", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--baseline", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(measure_memory(options.memory, options.size, options.baseline)))
    elif options.time:
        print(json.dumps(measure_time(options.time, options.size, options.baseline)))
    else:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            return 0 if report(Path(folder), options.size, options.repeats) else 1
    return 0


if __name__ == "__main__":
    assert vitdet_d2.__version__, "the package has no version"
    raise SystemExit(main())

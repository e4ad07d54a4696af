# SPDX-License-Identifier: Apache-2.0
"""Time and memory of attention with relative position biases: ours, and maps as written.

    python -m benchmarks.bias_table [--cases 25x14 1x32 1x64] [--heads 12] [--repeats 5]

A case is samples x side of the token grid: 25x14 are the windows of one image of 1024 pixels, 1x64
its global attention. Ways: "gather", as BEiT does it, looks an N x N x heads map up in the table
with an index and adds it to the logits; "explicit" does so with the layout of `bias_strips`;
"pieces" is `attend_biased`, the default; "shared" is that of one block of many that share a table,
without the time to lay it out. Every way starts at the table and ends with the gradients of
queries, keys, values and table; they take turns in one process, and the medians of its CPU seconds
are printed. A new process for each way takes the peak of memory. All results are compared.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import vitdet_d2  # isort: skip
import torch
from torch import Tensor

from vitdet_d2.layers.attend import attend
from vitdet_d2.layers.bias_strips import table_to_strips
from vitdet_d2.layers.bias_table import num_offsets

HEAD_DIM = 64
SCALE = HEAD_DIM**-0.5
# Of the largest entry of a result, in float32.
TOLERANCE = 1e-4

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
Way = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def make(samples: int, side: int, heads: int) -> Inputs:
    """Return queries, keys, values and a table, all with gradients."""
    generator = torch.Generator().manual_seed(0)
    shape = (samples, heads, side * side, HEAD_DIM)
    q, k, v = (torch.randn(shape, generator=generator).requires_grad_() for _ in range(3))
    table = torch.randn(num_offsets((side, side)), heads, generator=generator)
    return q, k, v, table.requires_grad_()


def ways(side: int, table: Tensor) -> dict[str, Way]:
    """Return the ways by name."""
    places = torch.stack(
        torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    ).flatten(1)
    difference = places[:, :, None] - places[:, None, :] + side - 1
    index = difference[0] * (2 * side - 1) + difference[1]
    hw = (side, side)
    strips = table_to_strips(table, hw, hw).detach().requires_grad_()

    def gather(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
        logits = (q * SCALE) @ k.transpose(-2, -1) + table[index].permute(2, 0, 1)
        return logits.softmax(-1) @ v

    def explicit(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
        return attend(q, k, v, None, SCALE, "explicit", table_to_strips(table, hw, hw))

    def pieces(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
        return attend(q, k, v, None, SCALE, "auto", table_to_strips(table, hw, hw))

    def shared(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:  # noqa: ARG001
        return attend(q, k, v, None, SCALE, "auto", strips)

    return {"gather": gather, "explicit": explicit, "pieces": pieces, "shared": shared}


def train(way: Way, inputs: Inputs) -> list[Tensor | None]:
    """Return the output and the gradients."""
    out = way(*inputs)
    gradients = torch.autograd.grad(out.square().sum(), inputs, allow_unused=True)
    return [out.detach(), *gradients]


def seconds(function: Callable[[], object]) -> float:
    """Return the CPU time of a call; what it made is freed within it."""
    start = time.process_time()
    function()
    return time.process_time() - start


def check(name: str, found: list[Tensor | None], expected: list[Tensor | None]) -> None:
    """Compare the results of two ways.

    Raises:
        SystemExit: they differ.
    """
    for actual, wanted in zip(found, expected, strict=True):
        if actual is None or wanted is None:  # the table, where the strips are given
            continue
        error = (actual - wanted).abs().max() / wanted.abs().max()
        if not error < TOLERANCE:
            raise SystemExit(f"{name} differs from the maps as written by {error:.1e}")


def forward_alone(way: Way, inputs: Inputs) -> None:
    """Call without gradients."""
    with torch.no_grad():
        way(*inputs)


def peak(field: str = "VmHWM") -> int:
    """Return a figure of memory of this process in bytes.

    Raises:
        RuntimeError: this system does not have it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def measure_memory(case: str, heads: int, name: str) -> int:
    """Return what the process grows by, at most, in a forward and backward pass."""
    samples, side = map(int, case.split("x"))
    inputs = make(samples, side, heads)
    way = ways(side, inputs[3])[name]
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = peak("VmRSS")
    train(way, inputs)
    return peak() - before


def measure(case: str, heads: int, repeats: int) -> None:
    """Print a line for each way."""
    samples, side = map(int, case.split("x"))
    inputs = make(samples, side, heads)
    chosen = ways(side, inputs[3])
    expected = train(chosen["gather"], inputs)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
    for name, way in chosen.items():
        check(name, train(way, inputs), expected)
    for _ in range(repeats):
        for name, way in chosen.items():
            alone = seconds(lambda way=way: forward_alone(way, inputs))  # type: ignore[misc]
            both = seconds(lambda way=way: train(way, inputs))  # type: ignore[misc]
            times[name].append((alone, both))
    for name, found in times.items():
        alone, both = (statistics.median(column) for column in zip(*found, strict=True))
        command = [sys.executable, "-m", "benchmarks.bias_table", "--memory", name]
        command += ["--cases", case, "--heads", str(heads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        megabytes = json.loads(done.stdout) / 1e6
        print(
            f"{case:6} {name:9} {1e3 * alone:9.0f} ms {1e3 * both:9.0f} ms {megabytes:8.0f} MB",
            flush=True,
        )


def main() -> int:
    """Measure, or take the memory of one way in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=["25x14", "1x32", "1x64"])
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(measure_memory(options.cases[0], options.heads, options.memory)))
        return 0
    threads = torch.get_num_threads()
    print(f"{platform.machine()}, torch {torch.__version__}, {threads} threads")
    print("case   way         forward  forward + backward     peak")
    for case in options.cases:
        measure(case, options.heads, options.repeats)
    return 0


if __name__ == "__main__":
    assert vitdet_d2.__version__, "the package has no version"
    raise SystemExit(main())

# SPDX-License-Identifier: Apache-2.0
"""What the hardware can do at most: large matrix products, timed here; and what makers promise."""

from __future__ import annotations

import time

import torch

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Sides of square matrices: large enough that nothing but multiplying counts.
_SIDES = {"cuda": 8192, "cpu": 2048}
_REPEATS = 5
# Dense bfloat16, in FLOP per second, by words in the device's name; of the makers' data sheets.
NOMINAL_BF16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "V100": 125e12}


def product_rate(dtype: str, device: torch.device) -> float:
    """Return the best measured rate of square matrix products, in FLOP per second.

    Args:
        dtype: "fp32" (without TF32, as models compute) or "bf16".
        device: that multiplies.
    """
    side = _SIDES["cuda" if device.type == "cuda" else "cpu"]
    a, b = (torch.randn(side, side, device=device, dtype=_DTYPES[dtype]) for _ in range(2))
    best = float("inf")
    for _ in range(_REPEATS + 1):
        _wait(device)
        start = time.perf_counter()
        torch.mm(a, b)
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def nominal_rate(hardware: str) -> float | None:
    """Return what the maker of a GPU promises in dense bfloat16; None of other hardware.

    Args:
        hardware: name of the device.
    """
    return next((rate for word, rate in NOMINAL_BF16.items() if word in hardware), None)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

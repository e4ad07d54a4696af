# SPDX-License-Identifier: Apache-2.0
"""What a side computes in."""

from __future__ import annotations

import contextlib

import torch

from vitdet_d2.analysis.bench.case import Case, Side


def autocast_dtype(case: Case, side: Side) -> torch.dtype | None:
    """Return what autocast computes in; None: all in float32.

    Detectron2 as shipped trains in float16 on a GPU, and computes in float32 otherwise: on the CPU,
    and in all of inference.

    Args:
        case: what is measured.
        side: who runs it.
    """
    on_gpu = torch.device(case.device).type == "cuda"
    if side == "shipped":
        return torch.float16 if on_gpu and case.axis in ("training", "syncs") else None
    return torch.bfloat16 if case.precision == "bf16" else None


def autocast(device: str, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    """Return a block of mixed precision.

    Args:
        device: as torch names it.
        dtype: None: a block that changes nothing.
    """
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=dtype)

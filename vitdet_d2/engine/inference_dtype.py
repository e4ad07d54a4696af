# SPDX-License-Identifier: Apache-2.0
"""What evaluation and prediction compute in: one choice for both."""

from __future__ import annotations

import torch

from vitdet_d2.errors import RecipeError

_DTYPES: dict[str, torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
NAMES = ("auto", *_DTYPES)


def check_name(name: object, asked_by: str) -> str:
    """Return the name of a precision, or refuse it.

    Args:
        name: what was asked for.
        asked_by: the key or option, for the message.

    Raises:
        RecipeError: it is none.
    """
    if not isinstance(name, str) or name not in NAMES:
        raise RecipeError(f"{asked_by}: expected one of {', '.join(NAMES)}, got {name!r}")
    return name


def inference_dtype(name: str, device: torch.device, asked_by: str) -> torch.dtype | None:
    """Return what autocast computes in; None: as the weights are, without autocast.

    Args:
        name: "auto", "fp32", "bf16" or "fp16". "auto" is bf16 on a GPU that computes in it, else
            fp32.
        device: where the model is.
        asked_by: the key or option, for the message.

    Raises:
        RecipeError: an unknown name, or fp16 on the CPU, which has no fast way to compute in it.
    """
    check_name(name, asked_by)
    if name == "auto":
        on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if on_gpu else None
    if name == "fp16" and device.type == "cpu":
        raise RecipeError(f"{asked_by}=fp16: not on the CPU; use bf16 or fp32 there, or a GPU")
    return _DTYPES[name]

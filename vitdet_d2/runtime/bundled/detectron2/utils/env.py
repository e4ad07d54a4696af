# SPDX-License-Identifier: Apache-2.0
"""The process: its random generators and PyTorch's version. Nothing happens at import.

Source: detectron2 ``utils/env.py``.
"""

from __future__ import annotations

import logging
import os
import random

import numpy as np
import torch

__all__ = ["TORCH_VERSION", "seed_all_rng"]

TORCH_VERSION: tuple[int, ...] = tuple(int(part) for part in torch.__version__.split(".")[:2])

# numpy's legacy generator takes 32 bits.
_SEED_LIMIT = 2**32


def seed_all_rng(seed: int | None = None) -> None:
    """Seed Python's, numpy's and PyTorch's generators, those of every GPU included.

    Args:
        seed: ``0 <= seed < 2**32``; drawn from the operating system, and logged, when None.

    Raises:
        ValueError: the seed is out of range.
    """
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little")
        logging.getLogger(__name__).info("Random seed drawn: %d", seed)
    if not 0 <= seed < _SEED_LIMIT:
        raise ValueError(f"seed must be in [0, 2**32), got {seed}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # also of every CUDA device
    # Read by Python at start only: for the processes that this one starts.
    os.environ["PYTHONHASHSEED"] = str(seed)

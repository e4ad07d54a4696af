# SPDX-License-Identifier: Apache-2.0
"""The random generators of this process: seeding, capturing, restoring.

A captured state holds plain integers, tuples and tensors only, so that
``torch.load(weights_only=True)`` reads it: ``{"python", "numpy", "torch", "cuda"}``.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

# numpy's legacy generator takes 32 bits.
SEED_LIMIT = 2**32


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices).

    Args:
        seed: taken modulo 2**32.
    """
    seed %= SEED_LIMIT
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def capture() -> dict[str, Any]:
    """The state of every generator, the current CUDA device's included if CUDA is in use."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    assert name == "MT19937", f"numpy's legacy generator is always MT19937, got {name}"
    return {
        "python": random.getstate(),
        "numpy": {
            # uint32 is not among the types that every torch can save.
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "gauss": float(gauss),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def restore(state: dict[str, Any]) -> None:
    """Put every generator back to a captured state.

    Args:
        state: what `capture` returned, possibly after a round trip through a file.
    """
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    legacy = state["numpy"]
    keys = legacy["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, legacy["position"], legacy["has_gauss"], legacy["gauss"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Whatever is drawn inside the block, the generators continue as if it had not been."""
    state = capture()
    try:
        yield
    finally:
        restore(state)

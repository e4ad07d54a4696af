# SPDX-License-Identifier: Apache-2.0
"""Random numbers that belong to one training sample.

The *position* of a sample is its place in the endless stream of samples that all processes share,
counted from 0. Random numbers drawn inside ``sample_random_state(seed, position)`` depend on these
two alone: neither on the number of workers and processes, nor on what was loaded before, nor on
whether the run was interrupted.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def sample_generator(seed: int, position: int, *, stream: int = 0) -> np.random.Generator:
    """Return a generator for one sample.

    Args:
        seed: of the run, at least 0.
        position: of the sample, at least 0.
        stream: tells several generators of one sample apart.
    """
    return np.random.default_rng([seed, position, stream])


@contextlib.contextmanager
def sample_random_state(seed: int, position: int) -> Iterator[None]:
    """Seed numpy's, Python's and torch's (CPU) global generators, and restore them afterwards.

    CUDA's generators are left alone: loading happens on the CPU, and training goes on beside it.

    Args:
        seed: of the run, at least 0.
        position: of the sample, at least 0.
    """
    numpy_state = np.random.get_state()
    python_state = random.getstate()
    torch_state = torch.default_generator.get_state()
    words = np.random.SeedSequence([seed, position]).generate_state(4)
    np.random.seed(words)
    random.seed(int.from_bytes(words.tobytes(), "little"))
    # torch.manual_seed would also seed every CUDA device.
    torch.default_generator.manual_seed(int(words[0]) << 32 | int(words[1]))
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        torch.default_generator.set_state(torch_state)

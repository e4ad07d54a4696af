# SPDX-License-Identifier: Apache-2.0
"""The generators come back, through a file that runs no code."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from vitdet_d2.engine import random_state


def draws() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        float(torch.rand(())),
        float(torch.randn(())),
    ]


def test_state_survives_a_weights_only_file(tmp_path: Path) -> None:
    random_state.seed_everything(2**32 + 7)
    draws()  # leaves half of a pair of normal numbers in two of the generators
    torch.save({"rng": [random_state.capture()]}, tmp_path / "state.pth")
    expected = draws()
    assert draws() != expected
    random_state.restore(torch.load(tmp_path / "state.pth", weights_only=True)["rng"][0])
    assert draws() == expected


def test_preserved_hides_draws_also_after_an_error() -> None:
    random_state.seed_everything(1)
    expected = draws()
    random_state.seed_everything(1)
    try:
        with random_state.preserved():
            assert draws() == expected
            raise KeyError("inside")
    except KeyError:
        pass
    assert draws() == expected


def test_seeds_agree_modulo_32_bits() -> None:
    random_state.seed_everything(5)
    expected = draws()
    random_state.seed_everything(5 + 2**32)
    assert draws() == expected

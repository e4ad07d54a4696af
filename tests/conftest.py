# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the whole suite; activates the Detectron2 runtime before any test imports it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import vitdet_d2  # isort: skip  (decides which Detectron2 this process uses)
import numpy as np
import pytest
import torch

from vitdet_d2 import runtime

assert vitdet_d2.__version__, "the package under test has no version"

# These test the bundled package itself, and compare it with stored values of the original.
if runtime.current().name != "bundled":
    collect_ignore = ["runtime/bundled"]


@pytest.fixture(autouse=True)
def _clean_process_state() -> Iterator[None]:
    """Seed every generator, and restore what a test may change globally."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    dtype = torch.get_default_dtype()
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.set_default_dtype(dtype)

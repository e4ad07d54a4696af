# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the whole suite; activates the Detectron2 runtime before any test imports it."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import vitdet_d2  # isort: skip  (decides which Detectron2 this process uses)
import numpy as np
import pytest
import torch

from tests.zoo.bad_server import BadServer, serving
from vitdet_d2 import runtime
from vitdet_d2.zoo import transfer

assert vitdet_d2.__version__, "the package under test has no version"

# These test the bundled package itself, and compare it with stored values of the original.
if runtime.current().name != "bundled":
    collect_ignore = ["runtime/bundled"]


def pytest_configure() -> None:
    """Let interruptions through: shells start background jobs, and so tests, deaf to them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BadServer]:
    """A mirror of Detectron2's server; the cache is ``tmp_path/cache``."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "VITDET_D2_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("VITDET_D2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transfer, "PAUSE_SECONDS", 0.01)
    with serving() as running:
        monkeypatch.setenv("VITDET_D2_ZOO_URL", running.address)
        yield running

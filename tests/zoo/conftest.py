# SPDX-License-Identifier: Apache-2.0
"""A server, a cache of its own, and no proxies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.zoo.bad_server import BadServer, serving
from vitdet_d2.zoo import transfer


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

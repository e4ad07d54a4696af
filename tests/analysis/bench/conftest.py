# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tests.analysis.bench.sides import LocalSide
from vitdet_d2.analysis.bench import axes, turns, worker


@pytest.fixture
def local_sides(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Let all sides run in this process; gives what each was asked, in order."""
    monkeypatch.setattr(turns, "SideProcess", LocalSide)
    # A limit would stay with this process.
    monkeypatch.setattr(worker, "limit_growth", lambda growth: None)
    LocalSide.asked = []
    return LocalSide.asked


@pytest.fixture
def failing_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Detectron2 as shipped fail when it is prepared."""
    prepare = axes.prepare

    def fail(case, side, folder):
        if side == "shipped":
            raise RuntimeError("no luck")
        return prepare(case, side, folder)

    monkeypatch.setattr(axes, "prepare", fail)

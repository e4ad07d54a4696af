# SPDX-License-Identifier: Apache-2.0
"""The processes of sides; here one that ends at once, as where no Detectron2 is installed."""

import sys

import pytest

from vitdet_d2.analysis.bench.turns import Plan, SideError, SideProcess


def test_a_process_that_has_ended_is_told_with_its_last_words(tmp_path, monkeypatch):
    ending = tmp_path / "ending"
    ending.write_text("#!/bin/sh\necho 'no such package' >&2\nexit 3\n", encoding="utf-8")
    ending.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(ending))
    with (tmp_path / "log").open("wb") as log:
        process = SideProcess("shipped", Plan(), log)
        process._process.wait()  # so that the request meets a closed pipe
        with pytest.raises(SideError, match="its process ended: no such package"):
            process.ask("hello")
        process.close()  # must not fail on what could not be sent

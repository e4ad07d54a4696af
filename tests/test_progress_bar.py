# SPDX-License-Identifier: Apache-2.0
"""Progress bars on unusual terminals."""

from __future__ import annotations

import os
import pty
import sys

import pytest

from vitdet_d2.progress_bar import bar


def test_a_terminal_that_does_not_tell_its_size_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as stream:
        assert tuple(os.get_terminal_size(writer)) == (0, 0)
        monkeypatch.setattr(sys, "stderr", stream)
        bar(total=4, desc="train").close()
        shown = os.read(reader, 1000)
    os.close(reader)
    assert b"train:   0%|" in shown

# SPDX-License-Identifier: Apache-2.0
"""Log set-up and messages that do not repeat."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.utils.logger import (
    create_small_table,
    log_every_n,
    log_every_n_seconds,
    log_first_n,
    setup_logger,
)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"log_{request.node.name}"
    yield name
    logging.getLogger(name).handlers.clear()


def test_terminal_and_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = setup_logger(str(tmp_path), name=name, abbrev_name="short")
    assert setup_logger(str(tmp_path), name=name, abbrev_name="short") is logger
    logging.getLogger(f"{name}.part").warning("look")
    shown = capsys.readouterr().out
    assert shown.count("look") == 1
    assert "short.part]" in shown
    assert "WARNING" in shown
    line = (tmp_path / "log.txt").read_text()
    assert f"{name}.part WARNING: look\n" in line


def test_other_ranks_write_files_of_their_own(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logger(str(tmp_path / "sub" / "a.log"), distributed_rank=2, name=name).info("hi")
    assert capsys.readouterr().out == ""
    assert "hi" in (tmp_path / "sub" / "a.log.rank2").read_text()


def test_first_n_counts_by_line_or_message(caplog: pytest.LogCaptureFixture) -> None:
    for text in ("a", "b", "a"):
        log_first_n(logging.WARNING, text)
        log_first_n(logging.WARNING, f"message {text}", key="message")
        log_first_n(logging.WARNING, f"both {text}", 2, key=("caller", "message"), name="x.y")
    assert [record.getMessage() for record in caplog.records] == [
        "a", "message a", "both a", "message b", "both b", "both a",
    ]  # fmt: skip
    assert caplog.records[0].name == __name__
    assert caplog.records[2].name == "x.y"
    with pytest.raises(ValueError, match="'caller', 'message' or both, got 'line'"):
        log_first_n(logging.WARNING, "a", key="line")


def test_every_n_logs_the_first_of_each_period(caplog: pytest.LogCaptureFixture) -> None:
    for i in range(7):
        log_every_n(logging.WARNING, str(i), n=3)
    assert [record.getMessage() for record in caplog.records] == ["0", "3", "6"]


def test_every_n_seconds(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    for now in (10.0, 11.0, 15.0, 15.5):
        monkeypatch.setattr("detectron2.utils.logger.time.monotonic", lambda now=now: now)
        log_every_n_seconds(logging.WARNING, str(now), n=5)
    assert [record.getMessage() for record in caplog.records] == ["10.0", "15.0"]


def test_small_table_is_detectron2s() -> None:
    # Measured on Detectron2 02b5c4e with tabulate 0.10.
    assert create_small_table({"AP": 37.12345, "AP50": 58.0}) == (
        "|   AP   |  AP50  |\n|:------:|:------:|\n| 37.123 | 58.000 |"
    )

# SPDX-License-Identifier: Apache-2.0
"""What reaches the terminal and what only the log file; bars and log lines on one screen."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from vitdet_d2.engine import terminal
from vitdet_d2.engine.terminal import quiet_third_parties, start_logging, stop_logging
from vitdet_d2.progress_bar import bar


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _stop() -> Iterator[None]:
    yield
    stop_logging()


def log_of_all_kinds() -> None:
    logging.getLogger("vitdet_d2.engine.x").info(" for the user ")
    logging.getLogger("vitdet_d2.engine.x").debug("the model")
    logging.getLogger("detectron2.evaluation.coco_evaluation").info("a second table")
    logging.getLogger("detectron2.utils.events").info(" iter: 19")
    logging.getLogger("detectron2.data").warning("beware")
    coco = "\nCategory ids in annotations are not in [1, #categories]! We'll map.\n"
    logging.getLogger("detectron2.data.datasets.coco").warning(coco)


def test_lines_are_plain_and_details_go_to_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start_logging(str(tmp_path))
    log_of_all_kinds()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("] ")[2] for line in lines] == [
        "for the user",
        "iter: 19",
        "WARNING: beware",
    ]
    assert "\033" not in "".join(lines)
    file = (tmp_path / "log.txt").read_text()
    assert file.count("] ") == 6
    assert "vitdet_d2.engine.x DEBUG: the model" in file


def test_a_second_run_of_a_process_leaves_the_first_ones_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        start_logging(str(tmp_path / name))
        logging.getLogger("vitdet_d2.x").info("in %s", name)
    assert capsys.readouterr().out.count("in b") == 1
    assert "in b" not in (tmp_path / "a" / "log.txt").read_text()


def test_on_a_terminal_the_bar_stays_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    start_logging(str(tmp_path))
    assert terminal.shows_bars()
    with bar(total=4, desc="train") as shown:
        shown.update(2)
        log_of_all_kinds()
    text = screen.getvalue()
    assert "iter: 19" not in text
    before, after = text.split("for the user\n")
    assert before.count("\r") > 1
    assert "| 2/4" in after
    # The line of the bar was cleared before the message took its place.
    assert before.rpartition("\r")[2].startswith("\033[32m[")


def test_warnings_of_third_parties_are_silenced_and_others_are_not() -> None:
    fx = logging.getLogger("torch.fx._symbolic_trace")
    level = fx.level
    with warnings.catch_warnings():
        quiet_third_parties()
        warnings.warn("torch.meshgrid: in an upcoming release, it will", UserWarning, stacklevel=1)
        with pytest.raises(UserWarning, match="your data"):
            warnings.warn("your data is odd", UserWarning, stacklevel=1)
    assert not fx.isEnabledFor(logging.WARNING)
    fx.setLevel(level)

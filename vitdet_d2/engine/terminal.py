# SPDX-License-Identifier: Apache-2.0
"""What a person sees of a run: log lines, bars, and nothing that he cannot act on.

The terminal gets the run's own messages; ``log.txt`` also what the libraries below say, the model
and the tables that Detectron2's evaluators print.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from detectron2.utils import comm
from tqdm import tqdm

_LOGGERS = ("vitdet_d2", "detectron2", "fvcore")
# How training and evaluation advance; a bar says the same where there is one.
_PROGRESS = ("detectron2.utils.events", "detectron2.evaluation.evaluator")
# An installed Detectron2 says so of COCO itself, at every reading.
_NO_CONCERN = "Category ids in annotations are not in [1, #categories]"
_DATE_FORMAT = "%m/%d %H:%M:%S"

# Those of an earlier run of this process; a second one does not write to its files.
_installed: list[logging.Handler] = []


class _AboveBars:
    """A terminal whose lines pass above the bars on the screen."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        tqdm.write(text, file=self._stream, end="")

    def flush(self) -> None:
        self._stream.flush()


class _TerminalFormatter(logging.Formatter):
    """Time and message; warnings and errors say what they are."""

    def __init__(self, color: bool) -> None:
        super().__init__("%(message)s", _DATE_FORMAT)
        green, red, off = ("\033[32m", "\033[31m", "\033[0m") if color else ("", "", "")
        self._time, self._level = f"{green}[%s]{off} ", f"{red}%s:{off} "

    def format(self, record: logging.LogRecord) -> str:
        """Return the line or lines."""
        head = self._time % self.formatTime(record, self.datefmt)
        if record.levelno >= logging.WARNING:
            head += self._level % record.levelname
        return head + super().format(record).strip()


@contextlib.contextmanager
def terminal_logging() -> Iterator[None]:
    """Send the messages of this process to standard error for the duration of the block."""
    stop_logging()
    _install([_terminal_handler(sys.stderr)])
    try:
        yield
    finally:
        stop_logging()


def start_logging(output_dir: str) -> None:
    """Send the messages of this process to the terminal (rank 0) and to ``log.txt``.

    Args:
        output_dir: the run folder; other ranks get files of their own.
    """
    stop_logging()
    rank = comm.get_rank()
    folder = Path(output_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(folder / f"log.txt{f'.rank{rank}' if rank else ''}", encoding="utf8")
    file.setFormatter(
        logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", _DATE_FORMAT)
    )
    handlers: list[logging.Handler] = [file]
    if rank == 0:
        handlers.append(_terminal_handler(sys.stdout))
    _install(handlers)


def _install(handlers: list[logging.Handler]) -> None:
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        for handler in handlers:
            logger.addHandler(handler)
    _installed.extend(handlers)


def stop_logging() -> None:
    """Take back what `start_logging` did."""
    for name in _LOGGERS if _installed else ():
        logger = logging.getLogger(name)
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
        for handler in _installed:
            logger.removeHandler(handler)
    for handler in _installed:
        handler.close()
    _installed.clear()


def _terminal_handler(stream: TextIO) -> logging.Handler:
    is_terminal = stream.isatty()
    handler = logging.StreamHandler(_AboveBars(stream) if is_terminal else stream)
    handler.setLevel(logging.INFO)
    handler.setFormatter(_TerminalFormatter(is_terminal))

    def concerns_user(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING or record.name.startswith("vitdet_d2"):
            return _NO_CONCERN not in str(record.msg)
        return record.name in _PROGRESS and not is_terminal

    handler.addFilter(concerns_user)
    return handler


def shows_bars() -> bool:
    """Whether bars are drawn: on the main process, where standard error is a terminal."""
    return comm.is_main_process() and sys.stderr.isatty()


def quiet_third_parties() -> None:
    """Silence what other packages say about themselves, which no user of ours can act on."""
    # fvcore compiles at import what is not used here.
    warnings.filterwarnings("ignore", r".*torch\.jit\.script", FutureWarning)
    warnings.filterwarnings("ignore", r"pkg_resources is deprecated", UserWarning)
    # An installed Detectron2 makes grids in the old way, and asks torch whether it is traced.
    warnings.filterwarnings("ignore", r"torch\.meshgrid: in an upcoming release", UserWarning)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    # Detectron2's name of a setting of data parallelism, which older versions of torch need.
    warnings.filterwarnings("ignore", r"`broadcast_buffers` is deprecated", FutureWarning)
    # pycocotools decodes masks into an array class of before numpy 2.
    warnings.filterwarnings("ignore", r"__array__ implementation", DeprecationWarning)

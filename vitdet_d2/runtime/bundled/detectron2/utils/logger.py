# SPDX-License-Identifier: Apache-2.0
"""Log set-up, messages that do not repeat, and small tables.

Source: detectron2 ``utils/logger.py``.
"""

from __future__ import annotations

import atexit
import functools
import logging
import sys
import time
from collections import Counter
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import IO, Any

from detectron2.utils.file_io import PathManager
from tabulate import tabulate
from termcolor import colored

__all__ = [
    "create_small_table",
    "log_every_n",
    "log_every_n_seconds",
    "log_first_n",
    "setup_logger",
]

_DATE_FORMAT = "%m/%d %H:%M:%S"
_ABBREVIATIONS = {"detectron2": "d2"}
_PLAIN_FORMAT = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"


class _TerminalFormatter(logging.Formatter):
    """Colours, and a short name in place of the root logger's."""

    def __init__(self, root_name: str, short_name: str) -> None:
        super().__init__(
            colored("[%(asctime)s %(name)s]: ", "green") + "%(message)s", datefmt=_DATE_FORMAT
        )
        self._root_name = root_name
        self._short_name = short_name

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; the record itself stays as it is for other handlers."""
        copied = logging.makeLogRecord(record.__dict__)
        child = record.name.removeprefix(f"{self._root_name}.")
        if child != record.name:
            copied.name = f"{self._short_name}.{child}" if self._short_name else child
        line = super().format(copied)
        if record.levelno >= logging.ERROR:
            return f"{colored('ERROR', 'red', attrs=['underline'])} {line}"
        if record.levelno >= logging.WARNING:
            return f"{colored('WARNING', 'red')} {line}"
        return line


@functools.cache  # a second call with the same arguments adds no second handler
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Send a logger's messages, from DEBUG up, to the terminal and to a file.

    Args:
        output: a file (``.txt`` or ``.log``) or a folder, which gets ``log.txt``; None: no file.
        distributed_rank: only rank 0 writes to the terminal; others add ``.rankN`` to the file.
        color: colour the terminal.
        name: the logger, and all below it.
        abbrev_name: stands for ``name`` on the terminal (``d2`` for ``detectron2``); "": nothing.
        enable_propagation: also hand messages to the parent logger.
        configure_stdout: write to the terminal at all.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    if abbrev_name is None:
        abbrev_name = _ABBREVIATIONS.get(name, name)
    plain = logging.Formatter(_PLAIN_FORMAT, datefmt=_DATE_FORMAT)
    if configure_stdout and distributed_rank == 0:
        terminal = logging.StreamHandler(sys.stdout)
        terminal.setFormatter(_TerminalFormatter(name, abbrev_name) if color else plain)
        logger.addHandler(terminal)
    if output is not None:
        file = logging.StreamHandler(_open_log(_log_file(output, distributed_rank)))
        file.setFormatter(plain)
        logger.addHandler(file)
    return logger


def _log_file(output: str, rank: int) -> str:
    path = output if output.endswith((".txt", ".log")) else str(Path(output) / "log.txt")
    return f"{path}.rank{rank}" if rank > 0 else path


@functools.cache  # loggers of several names share one open file
def _open_log(path: str) -> IO[str]:
    PathManager.mkdirs(str(Path(path).parent))
    file = PathManager.open(path, "a", buffering=1)  # line by line, so that a kill loses nothing
    atexit.register(file.close)
    return file


_COUNTS: Counter[Hashable] = Counter()
_LAST_TIMES: dict[Hashable, float] = {}


def _caller() -> tuple[str, tuple[Hashable, ...]]:
    """Return module and place of the first frame outside this file."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    module = frame.f_globals.get("__name__", "detectron2")
    place = (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
    return "detectron2" if module == "__main__" else module, place


def log_first_n(
    lvl: int,
    msg: str,
    n: int = 1,
    *,
    name: str | None = None,
    key: str | tuple[str, ...] = "caller",
) -> None:
    """Log the first ``n`` times only.

    Args:
        lvl: logging level.
        msg: the message.
        n: how often.
        name: the logger; the caller's module by default.
        key: what makes two calls the same: ``"caller"`` (the line), ``"message"``, or both.

    Raises:
        ValueError: ``key`` names anything else, or nothing.
    """
    keys = (key,) if isinstance(key, str) else key
    if not keys or not set(keys) <= {"caller", "message"}:
        raise ValueError(f"key must be 'caller', 'message' or both, got {key!r}")
    module, place = _caller()
    identity = (place if "caller" in keys else None, msg if "message" in keys else None)
    _COUNTS[identity] += 1
    if _COUNTS[identity] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Log the first of every ``n`` calls from one line.

    Args:
        lvl: logging level.
        msg: the message.
        n: the period in calls.
        name: the logger; the caller's module by default.
    """
    module, place = _caller()
    if _COUNTS[place] % n == 0:
        logging.getLogger(name or module).log(lvl, msg)
    _COUNTS[place] += 1


def log_every_n_seconds(lvl: int, msg: str, n: float = 1, *, name: str | None = None) -> None:
    """Log at most once in ``n`` seconds from one line.

    Args:
        lvl: logging level.
        msg: the message.
        n: the period in seconds.
        name: the logger; the caller's module by default.
    """
    module, place = _caller()
    now = time.monotonic()
    if place not in _LAST_TIMES or now - _LAST_TIMES[place] >= n:
        _LAST_TIMES[place] = now
        logging.getLogger(name or module).log(lvl, msg)


def create_small_table(small_dict: Mapping[str, Any]) -> str:
    """Return a table of one row, whose columns are the keys.

    Args:
        small_dict: a few named numbers.
    """
    return tabulate(
        [list(small_dict.values())],
        headers=list(small_dict),
        tablefmt="pipe",
        floatfmt=".3f",
        stralign="center",
        numalign="center",
    )


def _log_api_usage(identifier: str) -> None:
    """Do nothing: Detectron2 reports to a service of its own here; nothing is collected."""

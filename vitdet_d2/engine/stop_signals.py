# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and Ctrl-C as a request to stop at the next safe point."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Remembers the first stop signal; a second Ctrl-C ends the process at once.

    Used as a context manager: handlers are in place inside the block and restored after it.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        # Python allows handlers in the main thread only.
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            # None: set by a library outside Python, which cannot be put back.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum and signum == signal.SIGINT:
            # Not an exception: nothing may catch it, and a save in progress leaves only debris.
            os.write(2, b"\nstopped at once; the checkpoints that were complete are safe\n")
            os._exit(128 + signum)
        self.signum = self.signum or signum
        name = signal.Signals(signum).name
        os.write(2, f"\n{name}: saving at the end of this step, then stopping\n".encode("ascii"))
        previous: Callable[..., Any] | int | None = self._previous.get(signal.Signals(signum))
        if callable(previous) and previous is not signal.default_int_handler:
            previous(signum, frame)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Keep stop signals from processes started inside the block, for good.

    Ctrl-C and most batch systems signal the whole process group; a data worker that dies of it
    would end the training process before that could save. Children inherit the signal mask; the
    signals that its thread gets meanwhile arrive after the block. Those started by
    `multiprocessing`, which would wait at the end for SIGTERM to take effect, are killed then.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = set(multiprocessing.active_children())
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        started = weakref.WeakSet(set(multiprocessing.active_children()) - known)
        if started:
            Finalize(None, _kill, args=(started,), exitpriority=0)


def _kill(processes: Iterable[BaseProcess]) -> None:
    for process in processes:
        with contextlib.suppress(ValueError):  # closed
            process.kill()

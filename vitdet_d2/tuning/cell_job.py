# SPDX-License-Identifier: Apache-2.0
"""The process of a cell: ``vitdet train``, which stops, saved, when its study's process is gone.

The study holds the other end of this process' standard input and never writes. However the study
ends, even killed, the system closes that end; a training that nobody watches would go on holding
its GPU and its run folder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

from vitdet_d2.engine.cli import main

# To save a checkpoint of the largest model on a slow disk.
SECONDS_TO_SAVE = 300.0


def stop_with_parent(pipe: int, seconds_to_save: float = SECONDS_TO_SAVE) -> None:
    """Wait until the other end of a pipe is closed, then stop this process.

    Args:
        pipe: file descriptor to read from.
        seconds_to_save: between the request to stop and the end by force.
    """
    with contextlib.suppress(OSError):
        while os.read(pipe, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(seconds_to_save)
    os.kill(os.getpid(), signal.SIGKILL)


def run(argv: Sequence[str]) -> int:
    """Run ``vitdet`` with its life bound to that of the parent; return the exit code.

    Args:
        argv: command and arguments.
    """
    watcher = threading.Thread(target=stop_with_parent, args=(sys.stdin.fileno(),), daemon=True)
    watcher.start()
    return main(argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

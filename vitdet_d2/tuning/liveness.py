# SPDX-License-Identifier: Apache-2.0
"""Which process this is, and whether another one is certainly gone.

A process number alone says little: numbers are used again, and another machine or container has
the same ones. Only what the kernel of this machine says of its own processes counts as certain.
"""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

# Killed, and not yet collected by its parent.
_ENDED = ("Z", "X", "x")
_PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A process.

    Attributes:
        machine: one name per running kernel and space of process numbers.
        host: the machine's name, for people.
        pid: process number.
        started: when, in ticks of the machine's clock; 0 where the system does not tell.
    """

    machine: str
    host: str
    pid: int
    started: int


def this_process() -> Identity:
    """Return the identity of the calling process."""
    pid = os.getpid()
    state = _state(pid)
    return Identity(
        machine=_machine(), host=socket.gethostname(), pid=pid, started=state[1] if state else 0
    )


def is_gone(other: Identity) -> bool:
    """Return whether a process has certainly ended; False where this machine cannot know.

    Args:
        other: of any machine.
    """
    if other.machine != _machine() or not other.started:
        return False
    state = _state(other.pid)
    return state is None or state[0] in _ENDED or state[1] != other.started


def _machine() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink(_PROC / 'self/ns/pid')}"
    except OSError:
        # No Linux: every process is a machine of its own, and only its heartbeat tells of it.
        return f"{uuid.getnode()}/{os.getpid()}"


def _state(pid: int) -> tuple[str, int] | None:
    """Return the state letter and start time of a process, None where there is none."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name in parentheses may hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])

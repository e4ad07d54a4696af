# SPDX-License-Identifier: Apache-2.0
"""Memory of processes of Linux, in bytes: how much is taken, how much there is, and a limit."""

from __future__ import annotations

import contextlib
import re
import resource
from pathlib import Path

# Limit, usage and statistics of a container, in both versions of the kernel's interface.
_CGROUPS = (
    (
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory.current",
        "/sys/fs/cgroup/memory.stat",
    ),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def process_bytes(field: str, pid: int | None = None) -> int | None:
    """Return a number that the system keeps about a process.

    Args:
        field: ``VmRSS`` (now in memory), ``VmHWM`` (the most that ever was), ``VmData``.
        pid: of the process; None: this one.

    Returns:
        Bytes; None where the system keeps no such number, or the process has ended.
    """
    return _field(Path(f"/proc/{'self' if pid is None else pid}/status"), field)


def forget_peak() -> None:
    """Let ``VmHWM`` of this process begin anew at what is in memory now, where that works."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def available_bytes() -> int | None:
    """Return how much memory a new process may take here, None where the system does not tell."""
    known = [_field(Path("/proc/meminfo"), "MemAvailable")]
    for limit, used, statistics in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):
            taken = int(Path(used).read_text()) - _reclaimable(Path(statistics))
            known.append(int(Path(limit).read_text()) - taken)
    found = [value for value in known if value is not None]
    return max(0, min(found)) if found else None


def limit_growth(growth: int) -> None:
    """Make allocations of this process fail beyond so much more memory than it has now.

    Without it, the system would end some process, not always this one.

    Args:
        growth: bytes.
    """
    now = process_bytes("VmData")
    if now is None:
        return
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = now + growth
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _reclaimable(statistics: Path) -> int:
    """Return how much of a container's usage are files read before, which make room at once."""
    found = re.findall(
        r"^(?:total_)?inactive_file (\d+)$", statistics.read_text(), flags=re.MULTILINE
    )
    return max(map(int, found), default=0)


def _field(path: Path, name: str) -> int | None:
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    match = re.search(rf"^{name}:\s+(\d+) kB$", text, flags=re.MULTILINE)
    return None if match is None else int(match[1]) * 1024

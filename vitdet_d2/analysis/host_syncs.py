# SPDX-License-Identifier: Apache-2.0
"""How often a piece of work makes Python wait for the device, and where in the code.

A wait drains the queue of a GPU: until Python has the answer it enqueues nothing, and small kernels
afterwards start one by one. `count_host_syncs` counts by a model, on the CPU; on CUDA
`observe_host_syncs` is told by PyTorch itself.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision

from vitdet_d2.analysis.host_sync_model import Functions, Operators
from vitdet_d2.analysis.host_sync_sides import Sides, tensors_inside

# What `torch.cuda.set_sync_debug_mode("warn")` says.
_WARNING = "called a synchronizing CUDA operation"

# Code that waits on behalf of its caller.
_LIBRARIES = tuple(str(Path(str(p.__file__)).parent) + "/" for p in (torch, torchvision))
_OWN = (
    *(str(Path(__file__).with_name(f"host_sync{end}.py")) for end in ("s", "_model")),
    warnings.__file__,
)


@dataclass(frozen=True, kw_only=True, order=True)
class HostSync:
    """One kind of wait at one place.

    Attributes:
        operator: what waits, such as ``aten::nonzero``.
        place: ``folder/file.py:line function`` of the innermost code outside PyTorch.
        count: how often.
    """

    operator: str
    place: str
    count: int


@dataclass(frozen=True, kw_only=True)
class HostSyncs:
    """All waits of a piece of work.

    Attributes:
        places: the most frequent first.
    """

    places: tuple[HostSync, ...]

    @property
    def total(self) -> int:
        """The number of waits."""
        return sum(sync.count for sync in self.places)

    @property
    def by_operator(self) -> dict[str, int]:
        """The number of waits of every operator, the most frequent first."""
        totals: Counter[str] = Counter()
        for sync in self.places:
            totals[sync.operator] += sync.count
        return dict(totals.most_common())

    def __str__(self) -> str:
        lines = [f"{sync.count:5d}  {sync.operator}  {sync.place}" for sync in self.places]
        return "\n".join([f"{self.total} waits for the device", *lines])


def count_host_syncs(run: Callable[[], object], *, host: object = ()) -> HostSyncs:
    """Run something on the CPU and count the waits that it would cost on CUDA.

    What was made before counts as the device's memory. Not seen: what compiled extensions do
    inside, `torch.compile`d code, and collectives.

    Args:
        run: the work; backward passes included.
        host: what lies in the host's memory before, such as a loader's batch: tensors are looked
            for in containers and in attributes.

    Returns:
        The waits.
    """
    found: Counter[tuple[str, str]] = Counter()

    def note(operator: str, count: int) -> None:
        found[operator, _place()] += count

    sides = Sides()
    for tensor in tensors_inside(host):
        sides.to_host(tensor)
    with Functions(sides, note), Operators(sides, note):
        run()
    return _sorted(found)


def observe_host_syncs(run: Callable[[], object]) -> HostSyncs:
    """Run something on CUDA and count the waits that PyTorch reports.

    Args:
        run: the work; warm it up first, since allocations and libraries wait when they start.

    Returns:
        The waits; every operator is called ``cuda``.

    Raises:
        RuntimeError: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise RuntimeError(
            "observe_host_syncs: expected a CUDA device, found none; count_host_syncs counts on "
            "the CPU"
        )
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        return _collect_warnings(run)
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _collect_warnings(run: Callable[[], object]) -> HostSyncs:
    found: Counter[tuple[str, str]] = Counter()

    def show(message: Any, *_rest: Any, **_more: Any) -> None:
        if _WARNING in str(message):
            found["cuda", _place()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        run()
    return _sorted(found)


def _place() -> str:
    """The innermost code outside PyTorch and this count."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = frame.f_code.co_filename
        if path not in _OWN and not path.startswith((*_LIBRARIES, "<")):
            break
        frame = frame.f_back
    path = "/".join(Path(frame.f_code.co_filename).parts[-3:])
    return f"{path}:{frame.f_lineno} {frame.f_code.co_name}"


def _sorted(found: Counter[tuple[str, str]]) -> HostSyncs:
    return HostSyncs(
        places=tuple(
            HostSync(operator=operator, place=place, count=count)
            for (operator, place), count in found.most_common()
        )
    )

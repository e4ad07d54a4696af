# SPDX-License-Identifier: Apache-2.0
"""What came of a case: times of every side, what was counted, and whether the ratio counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from vitdet_d2.analysis.bench.case import Case, Side
from vitdet_d2.analysis.bench.gate import Verdict


@dataclass(frozen=True, kw_only=True)
class SideOutcome:
    """One side of a case.

    Attributes:
        units: images of a run.
        wall: seconds of every run, in the order of turns.
        cpu: processor seconds of the same runs, over all threads.
        peak_bytes: most memory in its turns; None: not known.
        counts: numbers that need no clock.
        error: why there is nothing.
    """

    units: int = 1
    wall: tuple[float, ...] = ()
    cpu: tuple[float, ...] = ()
    peak_bytes: int | None = None
    counts: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def seconds(self) -> float | None:
        """Median wall-clock seconds per image."""
        return median(self.wall) / self.units if self.wall else None

    @property
    def cpu_seconds(self) -> float | None:
        """Median processor seconds per image."""
        return median(self.cpu) / self.units if self.cpu else None

    @property
    def spread(self) -> float | None:
        """Half the range from the fastest to the slowest run, as a share of the median."""
        if not self.wall:
            return None
        return (max(self.wall) - min(self.wall)) / 2 / median(self.wall)


@dataclass(frozen=True, kw_only=True)
class CaseOutcome:
    """A row of the report.

    Attributes:
        case: what was measured.
        hardware: what it ran on.
        sides: what came of each; empty where nothing ran.
        verdict: of the parity gate; None without Detectron2.
        flops: of one image, where they are known.
        rate: FLOP per second of large matrix products in the same precision, measured here.
        nominal: what the maker promises in bfloat16.
        unmeasured: why nothing ran.
    """

    case: Case
    hardware: str | None = None
    sides: Mapping[Side, SideOutcome] = field(default_factory=dict)
    verdict: Verdict | None = None
    flops: int | None = None
    rate: float | None = None
    nominal: float | None = None
    unmeasured: str | None = None

    def ratio(self, side: Side, *, cpu: bool = False) -> float | None:
        """Return how many times as fast ours is; None where the gate failed or a time is missing.

        Args:
            side: of Detectron2.
            cpu: by processor seconds instead of the clock.
        """
        if self.verdict is None or not self.verdict.passed:
            return None
        return _quotient(self._seconds(side, cpu), self._seconds("ours", cpu))

    def memory_share(self, side: Side) -> float | None:
        """Return our peak memory as a share of that of a side of Detectron2's.

        Args:
            side: of Detectron2.
        """
        if self.verdict is None or not self.verdict.passed:
            return None
        peaks = [self.sides[s].peak_bytes if s in self.sides else None for s in ("ours", side)]
        return _quotient(peaks[0], peaks[1])

    @property
    def share_of_peak(self) -> float | None:
        """How much of the measured rate of matrix products our side reaches."""
        seconds = self._seconds("ours", cpu=False)
        if self.flops is None or self.rate is None or seconds is None:
            return None
        return self.flops / seconds / self.rate

    @property
    def failures(self) -> list[str]:
        """What went wrong, each with the row's title."""
        found = [f"{s}: {o.error}" for s, o in self.sides.items() if o.error is not None]
        if self.verdict is not None and self.verdict.failure is not None:
            found.append(f"gate: {self.verdict.failure}")
        return [f"{self.case.title}, {text}" for text in found]

    def describe(self) -> dict[str, Any]:
        """Return all that is known as plain data, in seconds, bytes and FLOPs."""
        facts = asdict(self)
        facts["title"] = self.case.title
        theirs: tuple[Side, ...] = ("shipped", "tuned")
        for side in theirs:
            facts[f"ratio_{side}"] = self.ratio(side)
            facts[f"cpu_ratio_{side}"] = self.ratio(side, cpu=True)
            facts[f"memory_share_{side}"] = self.memory_share(side)
        facts["share_of_peak"] = self.share_of_peak
        for name, outcome in self.sides.items():
            facts["sides"][name] |= {
                "seconds_per_image": outcome.seconds,
                "cpu_seconds_per_image": outcome.cpu_seconds,
                "spread": outcome.spread,
            }
        return facts

    def _seconds(self, side: Side, cpu: bool) -> float | None:
        outcome = self.sides.get(side)
        if outcome is None:
            return None
        return outcome.cpu_seconds if cpu else outcome.seconds


def _quotient(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b

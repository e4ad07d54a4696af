# SPDX-License-Identifier: Apache-2.0
"""The parity gate: two sides that do not compute the same have no ratio.

Kinds of evidence, by the first word of a name:
    output, loss, gradient: in float32; ``|a - b| / |b|`` over a whole tensor (2-norm).
    rounded: outputs in the measured precision, against Detectron2's float32 ones: at most twice as
        far away as Detectron2's own in that precision, or within a fixed bound.
    exact: the same, to the bit.
    pixels: mean difference in grey levels of 255. boxes: largest difference in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vitdet_d2.analysis.bench.case import Evidence

# float32 differs by the order of sums; in gradients also by units that rounding switches on or off
# and by regions that it moves across a threshold.
ALLOWED: Mapping[str, float] = {
    "output": 1e-4,
    "loss": 1e-3,
    "gradient": 1e-2,
    "rounded": 2e-2,
    "pixels": 1.0,
    "boxes": 1.0,
    "exact": 0.0,
}
_ROUNDED_FACTOR = 2.0
_REFERENCE = {"rounded": "output"}


@dataclass(frozen=True, kw_only=True)
class Worst:
    """The entry of a kind that is furthest from its bound.

    Attributes:
        name: of the entry.
        difference: as the kind measures it.
        allowed: its bound.
        entries: how many of the kind were compared.
    """

    name: str
    difference: float
    allowed: float
    entries: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of the comparison.

    Attributes:
        passed: everything is within its bound, and something was compared.
        worst: by kind.
        failure: what is wrong, in one line; None where it passed.
    """

    passed: bool
    worst: Mapping[str, Worst]
    failure: str | None = None


def judge(ours: Evidence, theirs: Evidence, tuned: Evidence | None = None) -> Verdict:
    """Compare our evidence with Detectron2's.

    Args:
        ours: of our side.
        theirs: of Detectron2 as shipped.
        tuned: of Detectron2 in the measured precision, where that is another one.
    """
    missing = sorted(_names(ours) ^ _names(theirs))
    if missing:
        return Verdict(
            passed=False, worst={}, failure=f"only one side has {', '.join(missing[:3])}"
        )
    worst: dict[str, Worst] = {}
    for name, own in ours.items():
        kind = name.partition(" ")[0]
        reference = theirs[name.replace(kind, _REFERENCE.get(kind, kind), 1)]
        allowed = ALLOWED[kind]
        if kind == "rounded" and tuned is not None and name in tuned:
            allowed = max(allowed, _ROUNDED_FACTOR * difference(kind, tuned[name], reference))
        found = difference(kind, own, reference)
        # NaN is larger than nothing: another entry would hide it.
        found = math.inf if math.isnan(found) else found
        known = worst.get(kind)
        entries = 1 + (known.entries if known is not None else 0)
        if known is None or _excess(found, allowed) > _excess(known.difference, known.allowed):
            worst[kind] = Worst(name=name, difference=found, allowed=allowed, entries=entries)
        else:
            worst[kind] = Worst(
                name=known.name, difference=known.difference, allowed=known.allowed, entries=entries
            )
    broken = [w for w in worst.values() if not w.difference <= w.allowed]
    failure = "; ".join(f"{w.name}: {w.difference:.1e} > {w.allowed:.1e}" for w in broken)
    if not worst:
        failure = "nothing was compared"
    return Verdict(passed=not failure, worst=worst, failure=failure or None)


def difference(kind: str, a: Tensor | str, b: Tensor | str) -> float:
    """Return how far two entries are apart; infinite where they cannot be compared.

    Args:
        kind: of the evidence.
        a: ours.
        b: the reference.
    """
    if isinstance(a, str) or isinstance(b, str):
        return 0.0 if isinstance(a, str) and isinstance(b, str) and a == b else float("inf")
    if a.shape != b.shape:
        return float("inf")
    gap = (a.double() - b.double()).abs()
    if kind == "pixels":
        return float(gap.mean()) if gap.numel() else 0.0
    if kind in ("boxes", "exact"):
        return float(gap.max()) if gap.numel() else 0.0
    size = float(b.double().norm())
    distance = float(gap.norm())
    return distance / size if size > 0 else (0.0 if distance == 0 else float("inf"))


def _names(evidence: Evidence) -> set[str]:
    """Return the names that both sides must have; outputs in lower precision have their own."""
    return {name for name in evidence if not name.startswith("rounded ")}


def _excess(found: float, allowed: float) -> float:
    return found / allowed if allowed > 0 else (0.0 if found == 0 else float("inf"))

# SPDX-License-Identifier: Apache-2.0
"""Rows as Markdown tables, and all numbers as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vitdet_d2.analysis.bench.case import Side
from vitdet_d2.analysis.bench.outcome import CaseOutcome

_TITLES: Mapping[Side, str] = {
    "ours": "ours",
    "shipped": "Detectron2 as shipped",
    "tuned": "Detectron2 tuned",
}
_DASH = "-"


def describe(
    outcomes: Sequence[CaseOutcome], versions: Mapping[str, Any], command: str
) -> dict[str, Any]:
    """Return a report as plain data.

    Args:
        outcomes: the rows.
        versions: of both projects.
        command: that made it.
    """
    return {
        "schema": 1,
        "command": command,
        "versions": dict(versions),
        "rows": [outcome.describe() for outcome in outcomes],
    }


def markdown(outcomes: Sequence[CaseOutcome], versions: Mapping[str, Any], command: str) -> str:
    """Return a report for people.

    Args:
        outcomes: the rows.
        versions: of both projects.
        command: that made it.
    """
    measured = [o for o in outcomes if o.unmeasured is None]
    hardware = dict.fromkeys(o.hardware for o in measured if o.hardware is not None)
    parts = [
        f"`{command}`",
        "",
        "Hardware: " + ("; ".join(hardware) or "none was used") + ". " + _versions(versions),
        "",
        *_table(_HEAD, [_row(outcome) for outcome in outcomes]),
        "",
        _LEGEND,
    ]
    gates = [_gate_row(outcome) for outcome in measured if outcome.verdict is not None]
    if gates:
        parts += ["", *_table(_GATE_HEAD, gates)]
    failures = [text for outcome in outcomes for text in outcome.failures]
    parts += ["", *(f"* {text}" for text in failures)] if failures else []
    return "\n".join(parts)


_HEAD = (
    "what", "ours", "as shipped", "tuned", "times as fast as shipped (CPU time)",
    "as tuned (CPU time)", "peak memory", "of shipped", "of products' rate", "other",
)  # fmt: skip
_LEGEND = (
    "Times are medians per image, with half the range of all runs as a share of the median. Ratios "
    "are of medians; in brackets by processor seconds, which other programs on the machine disturb "
    "less. `void`: the comparison of results failed, so that the ratio means nothing. Products' "
    "rate: that of large matrix products in the same precision, measured in the same run."
)
_GATE_HEAD = ("compared before the ratio", "passed", "furthest from its bound (difference, bound)")


def _row(outcome: CaseOutcome) -> list[str]:
    title = outcome.case.title
    if outcome.unmeasured is not None:
        return [title, f"unmeasured: {outcome.unmeasured}", *[_DASH] * 8]
    share = outcome.share_of_peak
    return [
        title,
        *(_time(outcome, side) for side in _TITLES),
        _ratio(outcome, "shipped"),
        _ratio(outcome, "tuned"),
        _memory(outcome),
        _number(outcome.memory_share("shipped"), "{:.2f}"),
        _number(None if share is None else 100 * share, "{:.0f} %"),
        _counts(outcome),
    ]


def _time(outcome: CaseOutcome, side: Side) -> str:
    found = outcome.sides.get(side)
    if found is None:
        return _DASH
    if found.error is not None:
        return "failed"
    if found.seconds is None or found.spread is None:
        return _DASH
    return f"{_duration(found.seconds)} +- {100 * found.spread:.0f} %"


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _ratio(outcome: CaseOutcome, side: Side) -> str:
    if outcome.sides.get(side) is None or outcome.sides[side].seconds is None:
        return _DASH
    if outcome.verdict is not None and not outcome.verdict.passed:
        return "void"
    wall, cpu = outcome.ratio(side), outcome.ratio(side, cpu=True)
    if wall is None:
        return _DASH
    on_gpu = outcome.case.device.startswith("cuda")
    return f"{wall:.2f}" + ("" if cpu is None or on_gpu else f" ({cpu:.2f})")


def _memory(outcome: CaseOutcome) -> str:
    peak = outcome.sides["ours"].peak_bytes if "ours" in outcome.sides else None
    return _number(None if peak is None else peak / 1e9, "{:.2f} GB")


def _counts(outcome: CaseOutcome) -> str:
    words = []
    for name in dict.fromkeys(n for o in outcome.sides.values() for n in o.counts):
        values = [f"{_TITLES[s]} {o.counts[name]:g}" for s, o in outcome.sides.items()
                  if name in o.counts]  # fmt: skip
        words.append(f"{name.replace('_', ' ')}: {', '.join(values)}")
    return "; ".join(words) or _DASH


def _gate_row(outcome: CaseOutcome) -> list[str]:
    verdict = outcome.verdict
    assert verdict is not None, "asked for the gate of a row without one"
    kinds = [
        f"{kind} ({worst.entries}): {worst.difference:.1e}, {worst.allowed:.1e}"
        for kind, worst in verdict.worst.items()
    ]
    return [outcome.case.title, "yes" if verdict.passed else "NO", "; ".join(kinds) or _DASH]


def _versions(versions: Mapping[str, Any]) -> str:
    words = []
    for side, facts in versions.items():
        if "error" in facts:
            words.append(
                "Detectron2: none, so that ours was measured alone; --detectron2 DIR takes a "
                f"checkout ({facts['error']})"
            )
        elif side == "ours":
            words.append(f"torch {facts['torch']}, vitdet_d2 {facts['vitdet_d2']}")
        else:
            words.append(f"Detectron2 {facts['detectron2']}")
    return "; ".join(words) + "."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines]


def _number(value: float | None, form: str) -> str:
    return _DASH if value is None else form.format(value)

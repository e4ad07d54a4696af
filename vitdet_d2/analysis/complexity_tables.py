# SPDX-License-Identifier: Apache-2.0
"""Costs of recipes as text for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vitdet_d2.analysis.complexity import Row, used_parts
from vitdet_d2.analysis.detector_count import DetectorCount, total
from vitdet_d2.analysis.job import Outcome, Phase
from vitdet_d2.analysis.parts import TITLES
from vitdet_d2.analysis.work import Work
from vitdet_d2.engine.text_tables import aligned

_NOTHING = "-"


def complexity_tables(rows: Sequence[Row]) -> str:
    """Return tables of parameters, FLOPs, activations and measurements.

    Args:
        rows: one per recipe.
    """
    parts = used_parts(rows)
    heading = ["recipe", "input", "total", *(TITLES[part] for part in parts)]
    blocks = [
        _counts("parameters", heading, rows, lambda count: _numbers(count.parameters, parts)),
        _counts(
            "GFLOPs per image at test (2 per multiply-add)",
            heading,
            rows,
            lambda count: _gigaflops(count.test, parts),
        ),
        _counts(
            "GFLOPs per image of the forward pass in training (a whole step: three times as many)",
            heading,
            rows,
            lambda count: _gigaflops(count.train, parts),
        ),
        _counts(
            "activations per image in training (millions; numbers that products put out)",
            heading,
            rows,
            lambda count: _activations(count.train, parts),
        ),
    ]
    if any(row.measured for row in rows):
        blocks.append(_measured(rows))
    blocks += [_lines("counted for, per image", _regions(rows)), _lines("failed", _failures(rows))]
    return "\n\n".join(block for block in blocks if block)


def _counts(
    title: str,
    heading: Sequence[str],
    rows: Sequence[Row],
    numbers: Callable[[DetectorCount], list[str]],
) -> str:
    table = [list(heading)]
    for row in rows:
        if row.count is None:
            table.append([row.title, *[_NOTHING] * (len(heading) - 1)])
            continue
        H, W = row.count.image_size
        table.append([row.title, f"{H}x{W}", *numbers(row.count)])
    return _table(title, table)


def _numbers(counts: Mapping[str, int], parts: Sequence[str]) -> list[str]:
    chosen = [counts.get(part) for part in parts]
    return [f"{n:,}" if n is not None else _NOTHING for n in (sum(counts.values()), *chosen)]


def _gigaflops(work: Mapping[str, Work], parts: Sequence[str]) -> list[str]:
    chosen = [total(work), *(work.get(part) for part in parts)]
    return [f"{w.flops / 1e9:.1f}" if w is not None else _NOTHING for w in chosen]


def _activations(work: Mapping[str, Work], parts: Sequence[str]) -> list[str]:
    chosen = [total(work), *(work.get(part) for part in parts)]
    return [f"{w.activations / 1e6:.1f}" if w is not None else _NOTHING for w in chosen]


def _measured(rows: Sequence[Row]) -> str:
    heading = ["recipe", "input", "batch"]
    phases: list[Phase] = ["inference", "training"]
    for phase in phases:
        heading += [f"{phase} s", f"{phase} GB", "in"]
    table = [heading]
    for row in rows:
        size = _NOTHING if row.count is None else "{}x{}".format(*row.count.image_size)
        cells = [row.title, size, str(row.batch)]
        for phase in phases:
            cells += _outcome_cells(row.measured.get(phase))
        table.append(cells)
    places = {o.hardware for row in rows for o in row.measured.values() if o.hardware is not None}
    where = f" on {'; '.join(sorted(places))}" if places else ""
    return _table(f"measured{where} (seconds per batch, peak memory)", table)


def _outcome_cells(outcome: Outcome | None) -> list[str]:
    if outcome is None:
        return [_NOTHING] * 3
    if outcome.seconds is None:
        why = outcome.failure if outcome.out_of_memory else None
        return [why or "failed", _NOTHING, _NOTHING]
    peak = _NOTHING if outcome.peak_bytes is None else f"{outcome.peak_bytes / 1e9:.2f}"
    return [f"{outcome.seconds:.4g}", peak, outcome.precision or _NOTHING]


def _regions(rows: Sequence[Row]) -> list[str]:
    """Return which numbers of regions the heads were counted for, each set of them once."""
    found: dict[str, list[str]] = {}
    for row in rows:
        count = row.count
        if count is None or count.test_regions is None or count.train_regions is None:
            continue
        test, train = count.test_regions, count.train_regions
        text = (
            f"{test.boxes} boxes and {test.masks} masks at test, "
            f"{train.boxes} boxes and {train.masks} masks in training"
        )
        found.setdefault(text, []).append(row.title)
    if len(found) == 1:
        lines = list(found)
    else:
        lines = [f"{', '.join(names)}: {text}" for text, names in found.items()]
    return lines + [f"{row.title}: {note}" for row in rows if row.count for note in row.count.notes]


def _failures(rows: Sequence[Row]) -> list[str]:
    return [reason for row in rows for reason in row.failures]


def _table(title: str, table: Sequence[Sequence[str]]) -> str:
    """Return a titled table whose numbers stand below each other."""
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    right = [
        [row[0], *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in table
    ]
    return "\n".join([title, *aligned(right)])


def _lines(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, *lines]) if lines else ""

# SPDX-License-Identifier: Apache-2.0
"""Cost beside published accuracy: one line per recipe, as papers compare backbones.

The cost is counted, and measured where it was asked for, at the size that was asked for; the AP is
its authors', at the recipe's own size. They are never of one run, and the table says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from vitdet_d2.analysis.complexity import Row
from vitdet_d2.analysis.detector_count import total
from vitdet_d2.analysis.job import Outcome, Phase
from vitdet_d2.engine.text_tables import aligned

_NOTHING = "-"
_PHASES: tuple[Phase, ...] = ("inference", "training")
_TITLE = (
    "cost at the input named, and AP as published by the authors of each model (not measured "
    "here), on COCO val2017 or LVIS v1, at the size beside it"
)


def published_table(rows: Sequence[Row]) -> str:
    """Return the comparison as text.

    Args:
        rows: counted; `Row.published` where somebody published the accuracy.
    """
    measured = any(row.measured for row in rows)
    heading = ["recipe", "input", "parameters (M)", "GFLOPs", "activations (M)"]
    for phase in _PHASES if measured else ():
        heading += [f"{phase} s", "GB"]
    heading += ["box AP", "mask AP", "AP at", "pre-training", "schedule"]
    table = [heading]
    for row in rows:
        cells = [row.title, *_counted(row)]
        for phase in _PHASES if measured else ():
            cells += _measured(row.measured.get(phase))
        table.append(cells + _published(row))
    return "\n".join([_TITLE, *aligned(table)])


def _counted(row: Row) -> list[str]:
    if row.count is None:
        return [_NOTHING] * 4
    test, train = total(row.count.test), total(row.count.train)
    return [
        _size(row.count.image_size),
        f"{sum(row.count.parameters.values()) / 1e6:.1f}",
        f"{test.flops / 1e9:.0f}",
        f"{train.activations / 1e6:.0f}",
    ]


def _measured(outcome: Outcome | None) -> list[str]:
    if outcome is None or outcome.seconds is None:
        return [_NOTHING] * 2
    peak = _NOTHING if outcome.peak_bytes is None else f"{outcome.peak_bytes / 1e9:.2f}"
    return [f"{outcome.seconds:.3g}", peak]


def _published(row: Row) -> list[str]:
    published = row.published
    if published is None:
        return [_NOTHING] * 5
    aps = (published.values.get(f"{task}/AP") for task in ("bbox", "segm"))
    return [
        *(_NOTHING if ap is None else f"{ap:.1f}" for ap in aps),
        _NOTHING if row.own_size is None else _size(row.own_size),
        published.initialisation,
        published.schedule,
    ]


def _size(size: tuple[int, int]) -> str:
    return "{}x{}".format(*size)

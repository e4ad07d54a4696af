# SPDX-License-Identifier: Apache-2.0
"""Which rows a report has: what was asked for, and what this machine has no device for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from vitdet_d2.analysis.bench.case import Axis, Case, Precision
from vitdet_d2.analysis.bench.outcome import CaseOutcome

_SIZES = ("ti", "s", "b", "l", "h")
_GPU_BATCHES: dict[Axis, tuple[int, ...]] = {"training": (1, 4, 8), "inference": (1, 8)}
NO_GPU = "no CUDA device here"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for.

    Attributes:
        axes: in the order of the report.
        models: sizes or recipes.
        device: "auto", or as torch names it.
        image_size: in pixels; None: `size_of` says.
        batches: images of a run; None: by axis and device.
        precisions: None: by axis and device.
        template: everything else of a case.
    """

    axes: Sequence[Axis]
    models: Sequence[str]
    device: str
    image_size: int | None
    batches: Sequence[int] | None
    precisions: Sequence[Precision] | None
    template: Case


def recipe_name(model: str) -> str:
    """Return the recipe that a size stands for; other names are recipes by themselves.

    Args:
        model: such as "b".
    """
    return f"vitdet_{model}" if model in _SIZES else model


def rows(wanted: Wanted) -> list[CaseOutcome]:
    """Return all rows, none measured yet; those without a device say so.

    Args:
        wanted: what was asked for.
    """
    return [row for axis in wanted.axes for row in _of_axis(axis, wanted)]


def _of_axis(axis: Axis, wanted: Wanted) -> Iterator[CaseOutcome]:
    if axis == "loader":
        for mode in ("fast", "exact"):
            yield CaseOutcome(case=_case(axis, wanted, wanted.models[0], "cpu", mode=mode))
        return
    if axis == "evaluation":
        yield CaseOutcome(case=_case(axis, wanted, wanted.models[0], "cpu"))
        return
    for device in _devices(axis, wanted.device):
        missing = device.startswith("cuda") and not torch.cuda.is_available()
        for case in _on_device(axis, wanted, device):
            yield CaseOutcome(case=case, unmeasured=NO_GPU if missing else None)


def _devices(axis: Axis, asked: str) -> tuple[str, ...]:
    """Return where an axis is measured; by itself training on a GPU, backbones on a CPU."""
    if asked != "auto":
        return (asked,)
    if axis in ("syncs", "masks"):
        return ("cuda" if torch.cuda.is_available() else "cpu",)
    return {"training": ("cuda",), "backbone": ("cpu",)}.get(axis, ("cuda", "cpu"))


def _on_device(axis: Axis, wanted: Wanted, device: str) -> Iterator[Case]:
    if axis == "masks":
        yield _case(axis, wanted, wanted.models[0], device)
        return
    on_gpu = device.startswith("cuda")
    for model in wanted.models:
        if axis == "syncs":
            precision: Precision = "bf16" if on_gpu else "fp32"
            yield _case(axis, wanted, model, device, precision=precision)
            continue
        for batch in wanted.batches or (_GPU_BATCHES.get(axis, (1,)) if on_gpu else (1,)):
            for precision in wanted.precisions or _precisions(axis, on_gpu):
                yield _case(axis, wanted, model, device, batch=batch, precision=precision)


def _precisions(axis: Axis, on_gpu: bool) -> tuple[Precision, ...]:
    if axis == "training":
        return ("bf16",) if on_gpu else ("fp32",)
    return ("fp32", "bf16")


def _case(
    axis: Axis,
    wanted: Wanted,
    model: str,
    device: str,
    *,
    batch: int = 1,
    precision: Precision = "fp32",
    mode: str = "",
) -> Case:
    recipe = recipe_name(model)
    return replace(
        wanted.template,
        axis=axis,
        model=recipe,
        device=device,
        image_size=wanted.image_size or size_of(recipe, wanted.template.overrides),
        batch=batch,
        precision=precision,
        mode=mode,
    )


def size_of(recipe: str, overrides: Sequence[str]) -> int:
    """Return the side of a recipe's square images, in pixels; the longer one of others.

    Args:
        recipe: path or name.
        overrides: changes of it.
    """
    from vitdet_d2.analysis.complexity import recipe_size
    from vitdet_d2.engine.recipes import load_recipe

    return max(recipe_size(load_recipe(recipe, overrides)))

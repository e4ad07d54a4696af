# SPDX-License-Identifier: Apache-2.0
"""Why weights cannot go into a model, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.identity import Identity, classes_advice, size_advice
from vitdet_d2.pretrained.report import LoadReport, summarise
from vitdet_d2.pretrained.trunk import Difference

# Buffers of windows are rebuilt from the recipe.
_OF_A_BLOCK = re.compile(r"(?:^|\.)block(?:s|\d)\.\d+\..*(?<!_index)(?<!attn_mask)$")


def check_size(
    path: str,
    file: Identity,
    model: Identity,
    *,
    allow_partial: bool,
    differences: Sequence[Difference] = (),
) -> None:
    """Refuse a backbone of another size, before its options are looked at.

    Args:
        path: of the file, for messages.
        file: what the weights are.
        model: what the recipe made.
        allow_partial: whether another depth will do.
        differences: tensors by which it shows.

    Raises:
        WeightsError: it is one.
    """
    assert file.trunk is not None, "backbones of known families are compared"
    assert model.trunk is not None, "backbones of known families are compared"
    if not file.trunk.fits(model.trunk, partial=allow_partial):
        shown = f" ({_shapes(differences)})" if differences else ""
        raise WeightsError(
            f"{path}: {file} in the file, {model} in the model{shown}; {size_advice(file, model)}"
        )


def check_places(path: str, unexpected: Sequence[str], file: Identity, model: Identity) -> None:
    """Refuse a detector whose blocks have more than the model's: they are another function.

    Args:
        path: of the file, for messages.
        unexpected: names of the file that the model has not.
        file: what the weights are.
        model: what the recipe made.

    Raises:
        WeightsError: there are such parts.
    """
    lost = [name for name in unexpected if _OF_A_BLOCK.search(name)]
    if lost:
        raise WeightsError(
            f"{path}: {len(lost)} tensors of its blocks have no place in the model, for example "
            f"{', '.join(lost[:3])} ({file} in the file, {model} in the model); "
            f"{size_advice(file, model)}"
        )


def misshaped(path: str, found: Sequence[Difference], file: Identity, model: Identity) -> str:
    """Say that tensors of the backbone have other shapes.

    Args:
        path: of the file.
        found: name, shape in the file, shape in the model.
        file: what the weights are.
        model: what the recipe made.
    """
    return (
        f"{path}: {len(found)} backbone tensors have another shape, for example {_shapes(found)} "
        f"({file} in the file, {model} in the model); {size_advice(file, model)}"
    )


def too_few(
    path: str,
    share: float,
    missing: Sequence[str],
    file: Identity,
    model: Identity,
    *,
    may_be_partial: bool,
) -> str:
    """Say that much of the backbone is not in the file.

    Args:
        path: of the file.
        share: of the tensors that are in it.
        missing: names of the others.
        file: what the weights are.
        model: what the recipe made.
        may_be_partial: whether less would do, as it does in training.
    """
    other_way = ", or allow it with --allow-partial" if may_be_partial else ""
    return (
        f"{path}: only {share:.0%} of the backbone's tensors are in the file; missing, for "
        f"example, {', '.join(missing[:3])} ({file} in the file, {model} in the model); "
        f"{size_advice(file, model)}{other_way}"
    )


def check_complete(report: LoadReport, file: Identity, model: Identity) -> None:
    """Refuse to evaluate a model of which parts are random.

    Args:
        report: on the loading.
        file: what the weights are.
        model: what the recipe made.

    Raises:
        WeightsError: a tensor of the model is not in the file, or has another shape there.
    """
    if report.classes is not None:
        raise WeightsError(f"{report.source}: {classes_advice(file, model)}")
    absent = [*report.missing, *report.initialised, *(name for name, _, _ in report.mismatched)]
    if absent:
        recipe = file.recipe() if file.family and file.family != model.family else None
        cure = f"; the file is one of {recipe}: use --config-file {recipe}" if recipe else ""
        raise WeightsError(
            f"{report.source}: {len(absent)} tensors of the model are not in the file: "
            f"{summarise(absent)}; evaluation needs a detector trained with this recipe{cure}"
        )


def _shapes(found: Sequence[Difference]) -> str:
    return "; ".join(f"{name} {old} for {new}" for name, old, new in found[:3])

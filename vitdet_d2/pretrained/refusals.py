# SPDX-License-Identifier: Apache-2.0
"""Why weights cannot go into a model, and what to do about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.encoder import Encoder
from vitdet_d2.pretrained.identity import Identity, classes_advice, size_advice
from vitdet_d2.pretrained.report import LoadReport, Shape, summarise


def identify_encoder(encoder: Encoder, file: Identity) -> Identity:
    """Return what an encoder is, whatever its source calls the parts.

    Args:
        encoder: in our names.
        file: what the source's names show.
    """
    return dataclasses.replace(
        file, width=encoder.width, depth=encoder.depth, patch=encoder.patch_size
    )


def check_size(path: str, file: Identity, model: Identity) -> None:
    """Refuse an encoder of another width or depth, before its options are looked at.

    Args:
        path: of the file, for messages.
        file: what the weights are.
        model: what the recipe made.

    Raises:
        WeightsError: it is one.
    """
    if (file.width, file.depth) != (model.width, model.depth):
        raise WeightsError(
            f"{path}: {file} in the file, {model} in the model; {size_advice(file, model)}"
        )


def misshaped(
    path: str, found: Sequence[tuple[str, Shape, Shape]], file: Identity, model: Identity
) -> str:
    """Say that tensors of the backbone have other shapes.

    Args:
        path: of the file.
        found: name, shape in the file, shape in the model.
        file: what the weights are.
        model: what the recipe made.
    """
    shapes = "; ".join(f"{name} {old} for {new}" for name, old, new in found[:3])
    return (
        f"{path}: {len(found)} backbone tensors have another shape, for example {shapes} "
        f"({file} in the file, {model} in the model); {size_advice(file, model)}"
    )


def too_few(
    path: str, share: float, missing: Sequence[str], file: Identity, model: Identity
) -> str:
    """Say that much of the backbone is not in the file.

    Args:
        path: of the file.
        share: of the tensors that are in it.
        missing: names of the others.
        file: what the weights are.
        model: what the recipe made.
    """
    return (
        f"{path}: only {share:.0%} of the backbone's tensors are in the file; missing, for "
        f"example, {', '.join(missing[:3])} ({file} in the file, {model} in the model); "
        f"{size_advice(file, model)}, or allow it with --allow-partial"
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

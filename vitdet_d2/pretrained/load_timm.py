# SPDX-License-Identifier: Apache-2.0
"""Weights for a model of timm: an encoder by any of its names, or a detector with it.

Source: as `timm_names`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor, nn

from vitdet_d2.backbones import TimmBackbone
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.assign import assign
from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.detector import Matched
from vitdet_d2.pretrained.identity import identify, size_advice
from vitdet_d2.pretrained.placement import MIN_BACKBONE_SHARE
from vitdet_d2.pretrained.report import LoadReport, summarise
from vitdet_d2.pretrained.timm_names import TITLES, Found, find_tensors


def named_for_detector(
    path: str, file: Unwrapped, prefix: str, backbone: TimmBackbone
) -> tuple[Unwrapped, tuple[str, ...]]:
    """Give a detector's tensors the names that a detector of ours has for them.

    Args:
        path: of the file, for messages.
        file: of a detector.
        prefix: before the names of the backbone in the model.
        backbone: the model's.

    Returns:
        The file with our names, and names of the backbone that were dropped.

    Raises:
        WeightsError: the backbone in the file is another one.
    """
    found = find_tensors(backbone, file.state)
    if found is None:
        return file, ()
    _refuse_unknown(path, file, found, backbone)
    state = {**found.beside, **{prefix + name: value for name, value in found.tensors.items()}}
    return dataclasses.replace(file, state=state), tuple(found.dropped)


def load_timm_encoder(
    path: str,
    model: nn.Module,
    file: Unwrapped,
    prefix: str,
    backbone: TimmBackbone,
    *,
    allow_partial: bool,
) -> LoadReport:
    """Load the weights of a backbone alone.

    Args:
        path: of the file, for messages.
        model: with the backbone in it; changed in place.
        file: its tensors, with all that stands before their names.
        prefix: before the names of the backbone in the model.
        backbone: the model's.
        allow_partial: whether less than 95 % of the backbone, and other shapes, will do.

    Raises:
        WeightsError: the file is of another model, or of another size.
    """
    found = find_tensors(backbone, file.state)
    if found is None:
        raise WeightsError(
            f"{path}: no tensor has a name of timm model {backbone.name!r}. The file has "
            f"{', '.join(list(file.state)[:3])}, ..., the model "
            f"{', '.join(list(backbone.net.state_dict())[:3])}, ...; take the recipe that these "
            "weights are for"
        )
    _refuse_unknown(path, file, found, backbone)
    own = backbone.state_dict()
    matched = Matched()
    for name, value in found.tensors.items():
        matched.place(name, value, own)
    # Norms of the maps belong to detectors.
    missing = [n for n in matched.absent(own) if n.startswith("net.") or found.layout == "ours"]
    if not allow_partial:
        _check(path, matched, missing, backbone)
    report = _report(path, model.state_dict(), own, found, matched, missing, prefix)
    assign(path, model, {prefix + name: value for name, value in matched.tensors.items()})
    return report


def _refuse_unknown(path: str, file: Unwrapped, found: Found, backbone: TimmBackbone) -> None:
    """Refuse a file with names that neither the model nor its whole class has.

    Raises:
        WeightsError: there are some.
    """
    if found.unknown:
        advice = size_advice(identify(file.state), identify(backbone.state_dict()))
        raise WeightsError(
            f"{path}: read as {TITLES[found.layout]}, {len(found.unknown)} names are not those of "
            f"timm model {backbone.name!r}: {summarise(found.unknown)}, for example "
            f"{', '.join(found.unknown[:3])}; {advice}"
        )


def _check(path: str, matched: Matched, missing: list[str], backbone: TimmBackbone) -> None:
    """Refuse weights of another size, and incomplete ones.

    Raises:
        WeightsError: they are.
    """
    if matched.mismatched:
        shapes = "; ".join(f"{name} {old} for {new}" for name, old, new in matched.mismatched[:3])
        raise WeightsError(
            f"{path}: {len(matched.mismatched)} tensors have another shape than those of timm "
            f"model {backbone.name!r}, for example {shapes}; the file is of another size: take the "
            "recipe that it is for"
        )
    given = len(matched.tensors)
    if given < MIN_BACKBONE_SHARE * (given + len(missing)):
        raise WeightsError(
            f"{path}: {len(missing)} of {given + len(missing)} tensors of timm model "
            f"{backbone.name!r} are not in the file, for example {', '.join(missing[:3])}; take "
            "the recipe that these weights are for, or set train.init_options.allow_partial=true"
        )


def _report(
    path: str,
    model: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    found: Found,
    matched: Matched,
    missing: list[str],
    prefix: str,
) -> LoadReport:
    def placed(names: Mapping[str, Tensor] | list[str]) -> tuple[str, ...]:
        return tuple(prefix + name for name in names)

    given = len(matched.tensors)
    outside = [name for name in model if not name.startswith(prefix)] if prefix else []
    new = [name for name in matched.absent(own) if name not in missing]
    return LoadReport(
        source=path,
        kind="encoder",
        origin=TITLES[found.layout],
        how="by the names of its tensors",
        loaded=placed(matched.tensors),
        supplied=(given, given + len(missing) + len(matched.mismatched)),
        initialised=(*placed(new), *outside),
        missing=placed(missing),
        mismatched=tuple((prefix + n, old, size) for n, old, size in matched.mismatched),
        resized=tuple((prefix + n, old, size) for n, old, size in matched.resized),
        dropped=(*found.dropped, *found.beside),
    )

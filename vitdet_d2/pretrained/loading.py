# SPDX-License-Identifier: Apache-2.0
"""The one door through which weights enter a model, with every tensor accounted for.

Vocabulary:
    encoder: the weights of a bare backbone of any known source.
    detector: weights with the names of the model's own state dict.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vitdet_d2.backbones import TimmBackbone
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.assign import assign, empty_buffers
from vitdet_d2.pretrained.choices import AbsentPositions, Choices, LayerScale, Statistics
from vitdet_d2.pretrained.container import Unwrapped, unwrap
from vitdet_d2.pretrained.detector import match
from vitdet_d2.pretrained.encoder import Encoder
from vitdet_d2.pretrained.entry import checked_entry
from vitdet_d2.pretrained.family import PLAIN_VIT, PYRAMID, Family, family_in
from vitdet_d2.pretrained.identity import Identity, identify, size_advice
from vitdet_d2.pretrained.load_timm import load_timm_encoder, named_for_detector
from vitdet_d2.pretrained.model_statistics import carry_normalisation, saved_statistics
from vitdet_d2.pretrained.other_detector import encoder_within
from vitdet_d2.pretrained.patch_kernel import PatchResize
from vitdet_d2.pretrained.place_pyramid import place_pyramid
from vitdet_d2.pretrained.place_vit import place_vit
from vitdet_d2.pretrained.placement import MIN_BACKBONE_SHARE, Placement
from vitdet_d2.pretrained.reader import read_weights
from vitdet_d2.pretrained.recognise import encoder_of
from vitdet_d2.pretrained.refusals import (
    check_complete,
    check_places,
    check_size,
    misshaped,
    too_few,
)
from vitdet_d2.pretrained.report import LoadReport
from vitdet_d2.pretrained.timm_names import find_timm_backbone
from vitdet_d2.zoo.addresses import redact
from vitdet_d2.zoo.initialisations import RANDOM, source_of, starts_at_random

__all__ = ["LoadReport", "load"]

logger = logging.getLogger(__name__)

_PLACES = {PLAIN_VIT: place_vit, PYRAMID: place_pyramid}


def load(
    model: nn.Module,
    path_or_url: str | os.PathLike[str],
    *,
    source: str | None = None,
    layer_scale: LayerScale = "auto",
    patch_resize: PatchResize = "pinv",
    position_grid: tuple[int, int] | None = None,
    absent_positions: AbsentPositions = "zeros",
    allow_partial: bool = False,
    normalisation: Statistics = "source",
    strict_heads: bool = False,
    content: Mapping[str, Any] | None = None,
) -> LoadReport:
    """Load weights, of any known source, into a detector or a bare backbone.

    Args:
        model: a detector, or a backbone; it may be wrapped for distributed training. On the meta
            device it takes the file's tensors themselves, so that nothing is held twice.
        path_or_url: a file, web address, ``detectron2://NAME`` (with or without
            ``?matching_heuristics=True``), or the name of a released checkpoint or initialisation;
            ``random`` or nothing: the model stays as it is.
        source: what the weights are (``mae``, ``beit``, ...), where their keys cannot tell it;
            None: as the keys, or the name of an initialisation, tell it.
        layer_scale: ``fold`` LayerScale into the layers before it (exact; training then differs),
            ``keep`` it, or ``auto``: keep it where the model has it.
        patch_resize: how a kernel of another patch size is resized: ``pinv`` (features of equal
            content stay equal) or ``bicubic``.
        position_grid: ``(h, w)`` of the file's absolute positions in patches; None: a square.
        absent_positions: where the file has no absolute positions (BEiT) and the model has them,
            they become ``zeros``, which changes no feature, or stay at ``random``.
        allow_partial: whether less than 95 % of what the source can supply will do.
        normalisation: whose pixel statistics the model gets, the ``source``'s where it is sure, or
            the ``recipe``'s, which the model has.
        strict_heads: for evaluation: every tensor of the model must come from the file.
        content: what `read_weights` gave for the file, where it was read before.

    Returns:
        What was loaded and what was not; it is logged too.

    Raises:
        RecipeError: there is no source of that name, or an argument has an unknown value.
        WeightsError: the file cannot be read, is of another model, or needs what the model lacks.
    """
    model = _unwrapped_model(model)
    if content is None and starts_at_random(os.fspath(path_or_url)):
        return _stay_random(model, strict_heads)
    path = redact(os.fspath(path_or_url))
    choices = Choices(
        source=source or source_of(os.fspath(path_or_url)), layer_scale=layer_scale,
        patch_resize=patch_resize,
        position_grid=position_grid, absent_positions=absent_positions,
        allow_partial=allow_partial, normalisation=normalisation,
        strict_heads=strict_heads,
    )  # fmt: skip
    if content is None:
        content = read_weights(path_or_url)
    timm_backbone = find_timm_backbone(model)
    if timm_backbone is not None:
        report = _load_beside_timm(path, model, content, *timm_backbone, choices, source)
        return _logged(report)
    file = unwrap(path, content)
    own = model.state_dict()
    found = family_in(own)
    if found is not None and found[0] is PLAIN_VIT:
        prefix = found[1]
        names = {name.removeprefix(prefix) for name in own if name.startswith(prefix)}
        file = encoder_within(file, names) or file
    entry = None
    if file.is_detector or found is None or _has_names_of(found[1], found[0], file):
        entry = checked_entry(path, file.entry)
        report = _load_detector(path, model, own, file, choices)
    else:
        report = _load_encoder(path, model, own, *found, file, choices)
    return _logged(_completed(report, model, file, entry, choices, source))


def _logged(report: LoadReport) -> LoadReport:
    for line in report.lines():
        logger.info(line)
    for line in report.warnings():
        logger.warning(line)
    return report


def _unwrapped_model(model: nn.Module) -> nn.Module:
    """Return the module itself, below data parallelism and compilation."""
    while True:
        # Compiled modules are known by this attribute; their class takes seconds to import.
        compiled = getattr(model, "_orig_mod", None)
        if isinstance(compiled, nn.Module):
            model = compiled
        elif isinstance(model, DistributedDataParallel):
            model = model.module
        else:
            return model


def _completed(
    report: LoadReport,
    model: nn.Module,
    file: Unwrapped,
    entry: Mapping[str, Any] | None,
    choices: Choices,
    source: str | None,
) -> LoadReport:
    """Add what the file says beside its weights, and carry its statistics over."""
    names = None if entry is None else entry.get("thing_classes")
    report = dataclasses.replace(
        report,
        thing_classes=None if names is None else tuple(names),
        wrappers=file.wrappers,
        unused=file.unused,
    )
    if report.kind == "detector" and source is not None:
        report = _with_lines(report, "", f"source={source} has no effect on a whole detector")
    saved = saved_statistics(entry)
    if report.kind == "detector" and saved is not None:
        lines = carry_normalisation(model, saved, keep=choices.normalisation == "recipe")
        report = _with_lines(report, *lines)
    if empty := empty_buffers(model):
        alert = (
            f"the model was built on the meta device, and no file has its buffers "
            f"{', '.join(empty[:3])}; build it on the CPU, or its backbone alone on the meta device"
        )
        report = _with_lines(report, "", alert)
    return report


def _with_lines(report: LoadReport, note: str, alert: str) -> LoadReport:
    """Return a report that says more; nothing where a text is empty."""
    return dataclasses.replace(
        report,
        notes=(*report.notes, *filter(None, [note])),
        alerts=(*report.alerts, *filter(None, [alert])),
    )


def _stay_random(model: nn.Module, strict_heads: bool) -> LoadReport:
    """Load nothing, and say so.

    Raises:
        WeightsError: all weights were asked for.
    """
    if strict_heads:
        raise WeightsError(f"{RANDOM} stands for no weights, and evaluation needs those of a model")
    report = LoadReport(
        source=RANDOM,
        kind="encoder",
        origin="no weights",
        how="as named",
        loaded=(),
        supplied=(0, 0),
        initialised=tuple(model.state_dict()),
    )
    for line in report.lines():
        logger.info(line)
    return report


def _load_beside_timm(
    path: str,
    model: nn.Module,
    content: Mapping[str, Any],
    prefix: str,
    backbone: TimmBackbone,
    choices: Choices,
    source: str | None,
) -> LoadReport:
    """Load a detector, or the backbone of one, whose backbone is a model of timm."""
    file = unwrap(path, content, whole=True)
    if file.is_detector and prefix:
        entry = checked_entry(path, file.entry)
        renamed, dropped = named_for_detector(path, file, prefix, backbone)
        report = _load_detector(path, model, model.state_dict(), renamed, choices)
        report = dataclasses.replace(report, dropped=(*report.dropped, *dropped))
        return _completed(report, model, file, entry, choices, source)
    report = load_timm_encoder(
        path, model, file, prefix, backbone, allow_partial=choices.allow_partial
    )
    if choices.strict_heads:
        check_complete(report, identify(file.state), identify(model.state_dict()))
    return _completed(report, model, file, None, choices, None)


def _has_names_of(prefix: str, family: Family, file: Unwrapped) -> bool:
    """Whether a file without a prefix has the names of a model that is more than its backbone."""
    return bool(prefix) and prefix + family.stem in file.state


# ------------------------------------------------------------------------------------ an encoder


def _load_encoder(
    path: str,
    model: nn.Module,
    own: Mapping[str, Tensor],
    family: Family,
    prefix: str,
    file: Unwrapped,
    choices: Choices,
) -> LoadReport:
    encoder = encoder_of(path, file, choices.source)
    ours = identify(own)
    _check_family(path, encoder, family, ours)
    backbone = model.get_submodule(prefix.removesuffix("."))
    names = {n.removeprefix(prefix): v for n, v in own.items() if n.startswith(prefix)}
    placement = _PLACES[family](path, file, encoder, backbone, names, ours, choices)
    encoder = placement.encoder
    report = _encoder_report(path, placement, own, prefix)
    if choices.strict_heads:
        check_complete(report, placement.identity, ours)
    tensors = placement.fitted.tensors
    assign(path, model, {prefix + name: tensor for name, tensor in tensors.items()})
    lines = carry_normalisation(
        model, encoder.normalisation, keep=choices.normalisation == "recipe"
    )
    return _with_lines(report, *lines)


def _check_family(path: str, encoder: Encoder, family: Family, ours: Identity) -> None:
    """Refuse an encoder of another family than the model's backbone is of.

    Raises:
        WeightsError: it is one.
    """
    theirs = encoder.source.family
    if theirs is not family:
        advice = size_advice(identify(encoder.tensors), ours)
        raise WeightsError(
            f"{path}: {encoder.source.title} goes into {theirs.takers}, and the backbone of the "
            f"model is {family.title}; {advice}"
        )


def _encoder_report(
    path: str, placement: Placement, own: Mapping[str, Tensor], prefix: str
) -> LoadReport:
    def placed(names: list[str]) -> tuple[str, ...]:
        return tuple(prefix + name for name in names)

    encoder, fitted = placement.encoder, placement.fitted
    given = len(fitted.from_file)
    outside = tuple(name for name in own if not name.startswith(prefix))
    return LoadReport(
        source=path,
        kind="encoder",
        origin=encoder.source.title,
        how=encoder.how,
        loaded=placed(fitted.from_file),
        supplied=(given, given + len(fitted.missing) + len(fitted.mismatched)),
        folded=tuple(fitted.folded),
        zeros=placed(fitted.zeros),
        ones=placed(fitted.ones),
        initialised=(*placed(fitted.new), *outside),
        missing=placed(fitted.missing),
        mismatched=tuple((prefix + n, old, new) for n, old, new in fitted.mismatched),
        resized=tuple((prefix + n, old, new) for n, old, new in fitted.resized),
        dropped=encoder.dropped,
        notes=(*encoder.notes, *placement.notes),
        alerts=placement.alerts,
    )


# ------------------------------------------------------------------------------------ a detector


def _load_detector(
    path: str, model: nn.Module, own: Mapping[str, Tensor], file: Unwrapped, choices: Choices
) -> LoadReport:
    matched = match(own, file.state)
    theirs, ours = identify(file.state), identify(own)
    if not matched.tensors and not matched.mismatched:
        advice = "take the recipe that these weights are for"
        if theirs.trunk != ours.trunk:
            advice = f"{theirs} in the file, {ours} in the model; {size_advice(theirs, ours)}"
        raise WeightsError(
            f"{path}: no tensor has a name of the model's. The file has "
            f"{', '.join(list(file.state)[:3])}, ..., the model {', '.join(list(own)[:3])}, ...; "
            f"{advice}"
        )
    absent = matched.absent(own)
    missing = [name for name in absent if name in matched.backbone]
    wrong = [found for found in matched.mismatched if found[0] in matched.backbone]
    covered = len(matched.backbone & matched.tensors.keys())
    share = covered / len(matched.backbone)
    check_places(path, matched.unexpected, theirs, ours)
    if choices.allow_partial:
        if theirs.trunk and ours.trunk:
            check_size(path, theirs, ours, allow_partial=True)
    else:
        if wrong:
            raise WeightsError(misshaped(path, wrong, theirs, ours))
        if share < MIN_BACKBONE_SHARE:
            names = sorted(matched.backbone - matched.tensors.keys())
            may_be = not choices.strict_heads
            raise WeightsError(too_few(path, share, names, theirs, ours, may_be_partial=may_be))
    found, wanted = theirs.num_classes, ours.num_classes
    report = LoadReport(
        source=path,
        kind="detector",
        origin="a detector",
        how="by the names of its tensors",
        loaded=tuple(matched.tensors),
        supplied=(covered, covered + len(missing) + len(wrong)),
        initialised=tuple(name for name in absent if name not in matched.backbone),
        missing=tuple(missing),
        mismatched=tuple(matched.mismatched),
        resized=tuple(matched.resized),
        unexpected=tuple(matched.unexpected),
        dropped=tuple(matched.dropped),
        classes=None if None in (found, wanted) or found == wanted else (found, wanted),  # type: ignore[arg-type]
    )
    if choices.strict_heads:
        check_complete(report, theirs, ours)
    assign(path, model, matched.tensors)
    return report

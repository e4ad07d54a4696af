# SPDX-License-Identifier: Apache-2.0
"""The one door through which weights enter a model, with every tensor accounted for.

Vocabulary:
    encoder: the weights of a bare ViT of any known source.
    detector: weights with the names of the model's own state dict.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.assign import assign
from vitdet_d2.pretrained.container import Unwrapped, unwrap
from vitdet_d2.pretrained.detector import match
from vitdet_d2.pretrained.encoder import STEM, Encoder
from vitdet_d2.pretrained.fit import Fitted, LayerScale, fit
from vitdet_d2.pretrained.identity import classes_advice, identify, size_advice
from vitdet_d2.pretrained.model_statistics import carry_normalisation, saved_statistics
from vitdet_d2.pretrained.needs import check_needs
from vitdet_d2.pretrained.patch_kernel import PatchResize
from vitdet_d2.pretrained.reader import read_weights
from vitdet_d2.pretrained.recognise import encoder_of
from vitdet_d2.pretrained.report import LoadReport, summarise
from vitdet_d2.pretrained.traits import traits_of
from vitdet_d2.zoo.addresses import redact
from vitdet_d2.zoo.initialisations import RANDOM, source_of, starts_at_random

__all__ = ["LoadReport", "load"]

logger = logging.getLogger(__name__)

# Below this share of a backbone's tensors the file belongs to another model.
MIN_BACKBONE_SHARE = 0.95


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Choices:
    """The arguments of `load` that say how."""

    source: str | None
    layer_scale: LayerScale
    patch_resize: PatchResize
    position_grid: tuple[int, int] | None
    allow_partial: bool
    normalisation: Literal["source", "recipe"]
    strict_heads: bool


def load(
    model: nn.Module,
    path_or_url: str | os.PathLike[str],
    *,
    source: str | None = None,
    layer_scale: LayerScale = "auto",
    patch_resize: PatchResize = "pinv",
    position_grid: tuple[int, int] | None = None,
    allow_partial: bool = False,
    normalisation: Literal["source", "recipe"] = "source",
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
        allow_partial: whether less than 95 % of what the source can supply will do.
        normalisation: whose pixel statistics the model gets, the ``source``'s where it is sure, or
            the ``recipe``'s, which the model has.
        strict_heads: for evaluation: every tensor of the model must come from the file.
        content: what `read_weights` gave for the file, where it was read before.

    Returns:
        What was loaded and what was not; it is logged too.

    Raises:
        RecipeError: there is no source of that name.
        WeightsError: the file cannot be read, is of another model, or needs what the model lacks.
    """
    if isinstance(model, DistributedDataParallel):
        model = model.module
    if content is None and starts_at_random(os.fspath(path_or_url)):
        return _stay_random(model, strict_heads)
    if content is None:
        content = read_weights(path_or_url)
    path = redact(os.fspath(path_or_url))
    choices = _Choices(
        source=source or source_of(os.fspath(path_or_url)), layer_scale=layer_scale,
        patch_resize=patch_resize,
        position_grid=position_grid, allow_partial=allow_partial, normalisation=normalisation,
        strict_heads=strict_heads,
    )  # fmt: skip
    file = unwrap(path, content)
    own = model.state_dict()
    prefix = _vit_prefix(own)
    if file.is_detector or prefix is None or _has_names_of(prefix, file):
        report = _load_detector(path, model, own, file, choices)
    else:
        report = _load_encoder(path, model, own, prefix, file, choices)
    report = dataclasses.replace(report, thing_classes=_class_names(content))
    saved = saved_statistics(content.get("vitdet_d2"))
    if report.kind == "detector" and saved is not None:
        line, alert = carry_normalisation(model, saved, keep=normalisation == "recipe")
        report = dataclasses.replace(
            report,
            notes=(*report.notes, *filter(None, [line])),
            alerts=(*report.alerts, *filter(None, [alert])),
        )
    for line in report.lines():
        logger.info(line)
    for line in report.warnings():
        logger.warning(line)
    return report


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


def _vit_prefix(model: Mapping[str, Tensor]) -> str | None:
    """Return what stands before the ViT's names in the model, if it has one ViT."""
    prefixes = [name.removesuffix(STEM) for name in model if name.endswith(STEM)]
    return prefixes[0] if len(prefixes) == 1 else None


def _has_names_of(prefix: str, file: Unwrapped) -> bool:
    """Whether a file without a prefix has the names of a model that is more than its ViT."""
    return bool(prefix) and prefix + STEM in file.state


def _class_names(content: Mapping[str, Any]) -> tuple[str, ...] | None:
    ours = content.get("vitdet_d2")
    names = ours.get("thing_classes") if isinstance(ours, dict) else None
    return None if names is None else tuple(names)


# ------------------------------------------------------------------------------------ an encoder


def _load_encoder(
    path: str,
    model: nn.Module,
    own: Mapping[str, Tensor],
    prefix: str,
    file: Unwrapped,
    choices: _Choices,
) -> LoadReport:
    encoder = encoder_of(path, file, choices.source)
    vit = model.get_submodule(prefix.removesuffix("."))
    traits = traits_of(vit)
    names = {n.removeprefix(prefix): v for n, v in own.items() if n.startswith(prefix)}
    if not choices.allow_partial:
        _check_size(path, encoder, own, file)
    notes = check_needs(
        path, encoder, names, traits, keep_layer_scale=choices.layer_scale == "keep"
    )
    fitted = fit(
        path, encoder, names, has_class_position=traits.has_class_position,
        layer_scale=choices.layer_scale, patch_resize=choices.patch_resize,
        position_grid=choices.position_grid,
    )  # fmt: skip
    _check_encoder(path, fitted, own, file, encoder, choices.allow_partial)
    report = _encoder_report(path, encoder, fitted, own, prefix, notes)
    if choices.strict_heads:
        _check_complete(report, own, file)
    assign(path, model, {prefix + name: tensor for name, tensor in fitted.tensors.items()})
    line, alert = carry_normalisation(
        model, encoder.normalisation, keep=choices.normalisation == "recipe"
    )
    return dataclasses.replace(
        report,
        notes=(*report.notes, *([line] if line else [])),
        alerts=tuple([alert] if alert else []),
    )


def _encoder_report(
    path: str,
    encoder: Encoder,
    fitted: Fitted,
    own: Mapping[str, Tensor],
    prefix: str,
    notes: tuple[str, ...],
) -> LoadReport:
    def placed(names: list[str]) -> tuple[str, ...]:
        return tuple(prefix + name for name in names)

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
        notes=(*encoder.notes, *notes),
    )


def _check_size(path: str, encoder: Encoder, own: Mapping[str, Tensor], file: Unwrapped) -> None:
    """Refuse an encoder of another width or depth, before its options are looked at.

    Raises:
        WeightsError: it is one.
    """
    model = identify(own)
    if (encoder.width, encoder.depth) == (model.width, model.depth):
        return
    theirs = dataclasses.replace(
        identify(file.state),
        width=encoder.width,
        depth=encoder.depth,
        patch=encoder.patch_size,
    )
    raise WeightsError(
        f"{path}: {theirs} in the file, {model} in the model; {size_advice(theirs, model)}"
    )


def _check_encoder(
    path: str,
    fitted: Fitted,
    own: Mapping[str, Tensor],
    file: Unwrapped,
    encoder: Encoder,
    allow_partial: bool,
) -> None:
    """Refuse weights of another ViT.

    Raises:
        WeightsError: tensors are missing, misshaped, or without a place in the model.
    """
    if fitted.unexpected:
        raise WeightsError(
            f"{path}: {encoder.source.title}: without a place in the model: "
            f"{summarise(fitted.unexpected)}, for example {', '.join(fitted.unexpected[:3])}; take "
            "a model that has them"
        )
    if allow_partial:
        return
    if fitted.mismatched:
        raise WeightsError(_misshaped(path, fitted.mismatched, own, file))
    given = len(fitted.from_file)
    total = given + len(fitted.missing)
    if given < MIN_BACKBONE_SHARE * total:
        raise WeightsError(_too_few(path, given / total, fitted.missing, own, file))


# ------------------------------------------------------------------------------------ a detector


def _load_detector(
    path: str, model: nn.Module, own: Mapping[str, Tensor], file: Unwrapped, choices: _Choices
) -> LoadReport:
    matched = match(own, file.state)
    if not matched.tensors and not matched.mismatched:
        raise WeightsError(
            f"{path}: no tensor has a name of the model's. The file has "
            f"{', '.join(list(file.state)[:3])}, ..., the model {', '.join(list(own)[:3])}, ...; "
            "convert the file first"
        )
    absent = matched.absent(own)
    missing = [name for name in absent if name in matched.backbone]
    wrong = [found for found in matched.mismatched if found[0] in matched.backbone]
    covered = len(matched.backbone & matched.tensors.keys())
    share = covered / len(matched.backbone)
    if not choices.allow_partial:
        if wrong:
            raise WeightsError(_misshaped(path, wrong, own, file))
        if share < MIN_BACKBONE_SHARE:
            names = sorted(matched.backbone - matched.tensors.keys())
            raise WeightsError(_too_few(path, share, names, own, file))
    found, wanted = identify(file.state).num_classes, identify(own).num_classes
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
        _check_complete(report, own, file)
    assign(path, model, matched.tensors)
    return report


# ------------------------------------------------------------------------------------ refusals


def _sizes(own: Mapping[str, Tensor], file: Unwrapped) -> tuple[str, str]:
    theirs, model = identify(file.state), identify(own)
    return f"{theirs} in the file, {model} in the model", size_advice(theirs, model)


def _misshaped(
    path: str, found: list[tuple[str, Any, Any]], own: Mapping[str, Tensor], file: Unwrapped
) -> str:
    sizes, advice = _sizes(own, file)
    shapes = "; ".join(f"{name} {old} for {new}" for name, old, new in found[:3])
    return (
        f"{path}: {len(found)} backbone tensors have another shape, for example {shapes} "
        f"({sizes}); {advice}"
    )


def _too_few(
    path: str, share: float, missing: list[str], own: Mapping[str, Tensor], file: Unwrapped
) -> str:
    sizes, advice = _sizes(own, file)
    return (
        f"{path}: only {share:.0%} of the backbone's tensors are in the file; missing, for "
        f"example, {', '.join(missing[:3])} ({sizes}); {advice}, or allow it with --allow-partial"
    )


def _check_complete(report: LoadReport, own: Mapping[str, Tensor], file: Unwrapped) -> None:
    """Refuse to evaluate a model of which parts are random.

    Raises:
        WeightsError: a tensor of the model is not in the file, or has another shape there.
    """
    theirs, model = identify(file.state), identify(own)
    if report.classes is not None:
        raise WeightsError(f"{report.source}: {classes_advice(theirs, model)}")
    absent = [*report.missing, *report.initialised, *(name for name, _, _ in report.mismatched)]
    if absent:
        recipe = theirs.recipe() if theirs.family and theirs.family != model.family else None
        cure = f"; the file is one of {recipe}: use --config-file {recipe}" if recipe else ""
        raise WeightsError(
            f"{report.source}: {len(absent)} tensors of the model are not in the file: "
            f"{summarise(absent)}; evaluation needs a detector trained with this recipe{cure}"
        )

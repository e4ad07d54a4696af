# SPDX-License-Identifier: Apache-2.0
"""Loading ``train.init_checkpoint`` into a detector, with every tensor accounted for.

Vocabulary:
    encoder: the weights of a bare plain ViT, named as MAE names them (``pos_embed``,
        ``patch_embed.proj.weight``, ``blocks.N...``).
    detector: weights with the names of the model's own state dict.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.identity import STEM, classes_advice, identify, size_advice
from vitdet_d2.pretrained.positions import resize_positions
from vitdet_d2.pretrained.reader import read_weights
from vitdet_d2.pretrained.report import CLASS_WEIGHTS, LoadReport, Shape, summarise
from vitdet_d2.zoo.addresses import redact

__all__ = ["LoadReport", "load_init_checkpoint"]

logger = logging.getLogger(__name__)

# Below this share of a backbone's tensors the file belongs to another model.
MIN_BACKBONE_SHARE = 0.95

# What pre-training leaves in a file and detection has no use for.
_PRETRAINING_ONLY = re.compile(
    r"cls_token|mask_token|(norm|fc_norm|head|decoder\w*)\..*|decoder_pos_embed"
)
# What fine-tuning adds to an encoder, and convolutional blocks to a detector without them. The
# additions start at zero, hence change nothing at first.
_ADDED_BY_DETECTION = re.compile(r"\.rel_pos_[hw]$|\.residual\.")
_CONVOLUTIONAL_BLOCK = re.compile(r"\.residual\.")
_RELATIVE_POSITIONS = re.compile(r"\.rel_pos_[hw]$")
# Rebuilt from the recipe; some files carry them. The weights of the federated loss are of use in
# training only, and a model that was built for inference has none.
_REBUILT = re.compile(
    rf"pixel_mean|pixel_std|.*anchor_generator\.cell_anchors.*|.*\.{CLASS_WEIGHTS}"
)


def load_init_checkpoint(
    model: nn.Module,
    path_or_url: str | os.PathLike[str],
    *,
    strict_heads: bool = False,
    content: Mapping[str, Any] | None = None,
) -> LoadReport:
    """Load the weights to start from.

    Args:
        model: a detector, or a bare backbone; it may be wrapped for distributed training.
        path_or_url: a file, web address, ``detectron2://NAME`` (with or without
            ``?matching_heuristics=True``), or the name of a released checkpoint.
        strict_heads: for evaluation: every tensor of the model must come from the file.
        content: what `read_weights` gave for the file, where it was read before.

    Returns:
        What was loaded and what was not; it is logged too.

    Raises:
        WeightsError: the file cannot be read, or is one of another model.
    """
    if isinstance(model, DistributedDataParallel):
        model = model.module
    if content is None:
        content = read_weights(path_or_url)
    source = redact(os.fspath(path_or_url))
    plan = _plan(source, model.state_dict(), _model_tensors(source, content))
    report = plan.report(_class_names(content))
    _check_backbone(plan)
    if strict_heads:
        _check_complete(plan, report)
    model.load_state_dict(plan.tensors, strict=False)
    for line in report.lines():
        logger.info(line)
    for line in report.warnings():
        logger.warning(line)
    return report


def _model_tensors(source: str, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the model's tensors out of a checkpoint, without the prefix of a wrapped model.

    Raises:
        WeightsError: there are other things among them.
    """
    state = content.get("model", content)
    if not isinstance(state, dict) or not state:
        raise WeightsError(f"{source}: expected tensors under 'model', got {type(state).__name__}")
    other = sorted(str(name) for name, value in state.items() if not isinstance(value, Tensor))
    if other:
        raise WeightsError(
            f"{source}: expected a dictionary of tensors or {{'model': ...}}, got also "
            f"{', '.join(other[:5])}; extract the model's state dict"
        )
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _class_names(content: Mapping[str, Any]) -> tuple[str, ...] | None:
    ours = content.get("vitdet_d2")
    names = ours.get("thing_classes") if isinstance(ours, dict) else None
    return None if names is None else tuple(names)


@dataclass(kw_only=True)
class _Plan:
    """What to do with each tensor; ``backbone`` holds the model's names that must be covered."""

    source: str
    kind: Literal["encoder", "detector"]
    model: dict[str, Tensor]
    file: dict[str, Tensor]
    backbone: set[str]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    mismatched: list[tuple[str, Shape, Shape]] = field(default_factory=list)
    resized: list[tuple[str, Shape, Shape]] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def place(self, name: str, value: Tensor) -> None:
        """Take one tensor of the file for the model's tensor of this name."""
        wanted, found = tuple(self.model[name].shape), tuple(value.shape)
        if found != wanted and name.endswith("pos_embed") and _can_resize(found, wanted):
            value = resize_positions(value, wanted[1])
            self.resized.append((name, found, wanted))
        elif found != wanted:
            self.mismatched.append((name, found, wanted))
            return
        self.tensors[name] = value

    def report(self, thing_classes: tuple[str, ...] | None) -> LoadReport:
        """Sum up."""
        touched = {*self.tensors, *(name for name, _, _ in self.mismatched)}
        absent = [n for n in self.model if n not in touched and not _REBUILT.fullmatch(n)]
        return LoadReport(
            source=self.source,
            kind=self.kind,
            loaded=tuple(self.tensors),
            initialised=tuple(name for name in absent if name not in self.backbone),
            missing=tuple(name for name in absent if name in self.backbone),
            mismatched=tuple(self.mismatched),
            resized=tuple(self.resized),
            unexpected=tuple(self.unexpected),
            dropped=tuple(self.dropped),
            classes=self._classes(),
            thing_classes=thing_classes,
        )

    def _classes(self) -> tuple[int, int] | None:
        found, wanted = identify(self.file).num_classes, identify(self.model).num_classes
        return None if found is None or wanted is None or found == wanted else (found, wanted)


def _can_resize(found: Shape, wanted: Shape) -> bool:
    return len(found) == len(wanted) == 3 and found[0] == wanted[0] == 1 and found[2] == wanted[2]


def _plan(source: str, model: dict[str, Tensor], file: dict[str, Tensor]) -> _Plan:
    prefix = _vit_prefix(model)
    if prefix is not None and STEM in file:
        return _plan_encoder(source, model, file, prefix)
    if any(name in model for name in file):
        return _plan_detector(source, model, file)
    raise WeightsError(
        f"{source}: no tensor has a name of the model's. The file has {', '.join(list(file)[:3])}"
        f", ..., the model {', '.join(list(model)[:3])}, ...; convert the file first"
    )


def _vit_prefix(model: Mapping[str, Tensor]) -> str | None:
    """Return what stands before the ViT's names in the model, if it has one ViT."""
    prefixes = [name.removesuffix(STEM) for name in model if name.endswith(STEM)]
    return prefixes[0] if len(prefixes) == 1 else None


def _plan_encoder(
    source: str, model: dict[str, Tensor], file: dict[str, Tensor], prefix: str
) -> _Plan:
    expected = {
        name
        for name in model
        if name.startswith(prefix) and not _ADDED_BY_DETECTION.search("." + name)
    }
    plan = _Plan(source=source, kind="encoder", model=model, file=file, backbone=expected)
    for name, value in file.items():
        if prefix + name in model:
            plan.place(prefix + name, value)
        elif _PRETRAINING_ONLY.fullmatch(name):
            plan.dropped.append(name)
        else:
            plan.unexpected.append(name)
    return plan


def _plan_detector(source: str, model: dict[str, Tensor], file: dict[str, Tensor]) -> _Plan:
    expected = {name for name in model if name.startswith("backbone.")} or set(model)
    if not any(_CONVOLUTIONAL_BLOCK.search(name) for name in file):
        expected = {name for name in expected if not _CONVOLUTIONAL_BLOCK.search(name)}
    plan = _Plan(source=source, kind="detector", model=model, file=file, backbone=expected)
    for name, value in file.items():
        if name in model and not _is_other_class_weights(name, value, model[name]):
            plan.place(name, value)
        elif _REBUILT.fullmatch(name):
            plan.dropped.append(name)
        else:
            plan.unexpected.append(name)
    return plan


def _is_other_class_weights(name: str, value: Tensor, wanted: Tensor) -> bool:
    return name.endswith(CLASS_WEIGHTS) and value.shape != wanted.shape


def _check_backbone(plan: _Plan) -> None:
    """Refuse weights of another backbone.

    Raises:
        WeightsError: tensors are missing, misshaped, or have no place in an encoder.
    """
    file, model = identify(plan.file), identify(plan.model)
    sizes, advice = f"{file} in the file, {model} in the model", size_advice(file, model)
    misshaped = [
        f"{name} {found} for {wanted}"
        for name, found, wanted in plan.mismatched
        if name in plan.backbone and not _RELATIVE_POSITIONS.search(name)
    ]
    if misshaped:
        raise WeightsError(
            f"{plan.source}: {len(misshaped)} backbone tensors have another shape, for example "
            f"{'; '.join(misshaped[:3])} ({sizes}); {advice}"
        )
    if plan.kind == "encoder" and plan.unexpected:
        raise WeightsError(
            f"{plan.source}: not the weights of a plain ViT as MAE trains it; without a place: "
            f"{summarise(plan.unexpected)}, for example {', '.join(plan.unexpected[:3])}; convert "
            "the file first"
        )
    share = len(plan.backbone & plan.tensors.keys()) / len(plan.backbone)
    if share < MIN_BACKBONE_SHARE:
        missing = sorted(plan.backbone - plan.tensors.keys())
        raise WeightsError(
            f"{plan.source}: only {share:.0%} of the backbone's tensors are in the file; missing, "
            f"for example, {', '.join(missing[:3])} ({sizes}); {advice}"
        )


def _check_complete(plan: _Plan, report: LoadReport) -> None:
    """Refuse to evaluate a model of which parts are random.

    Raises:
        WeightsError: a tensor of the model is not in the file, or has another shape there.
    """
    file, model = identify(plan.file), identify(plan.model)
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

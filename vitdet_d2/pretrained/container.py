# SPDX-License-Identifier: Apache-2.0
"""From what a file holds to the state dict of one encoder: wrappers and prefixes taken off.

Vocabulary:
    wrapper: a key of a training script's dictionary below which the weights are, or a prefix of
        all their names.
    beside: names of the same state dict that are not the encoder's (a momentum encoder, a text
        tower).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vitdet_d2.checks.safetensors_file import METADATA
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.entry import raw_entry

# Honest files have at most three.
_MAX_WRAPPERS = 10

# Where training scripts put weights; the first that is there is taken. Teachers and targets are
# averages of the students, and what their authors evaluate.
_WRAPPERS = (
    "model", "module", "state_dict", "model_state", "teacher", "target_encoder", "encoder",
    "student",
)  # fmt: skip
_OTHER_WEIGHTS = (*_WRAPPERS, "model_ema", "model_without_ddp")

# What data parallelism and compilation put before all names.
_WRAPPED_MODEL = ("module.", "_orig_mod.")

# Before an encoder's names, most specific first; the stem below it shows that it is one.
_PREFIXES = (
    "base_encoder.",
    # Of Google's codes, whose names are paths.
    "opt/target/",
    "params/img/",
    "params/",
    "img/",
    "backbone.net.",
    "backbone.bottom_up.",
    "backbone.",
    "image_encoder.",
    "visual.trunk.",
    "visual.",
    "vision_model.",
    "vision_encoder.",
    "data2vec_vision.",
    "dinov2.",
    "beit.",
    "deit.",
    "vit.",
    "pvt.",
    "pvt_v2.",
    "segformer.",
    "net.",
    "bottom_up.",
    "model.",
    "encoder.",
)
# The patch embedding of every layout; its name tells where an encoder begins.
_STEMS = (
    "patch_embed.proj.weight",
    "patch_embed.proj.0.weight",
    "patch_embed.proj.0.0.weight",
    "patch_embed.stem.0.weight",
    "patch_embed.projection.weight",
    "patch_embed1.proj.weight",
    "conv1.weight",
    "embedding/kernel",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.weight",
    "embeddings.patch_embedding.weight",
    "embeddings.projection.weight",
    "patch_embeddings.0.projection.weight",
    "patch_embeddings.0.proj.weight",
    "layers.0.patch_embedding.proj.weight",
    "stages.0.patch_embeddings.proj.weight",
)


@dataclass(frozen=True, kw_only=True)
class Unwrapped:
    """The state dict of an encoder, or of a detector.

    Attributes:
        state: tensors by the source's names.
        wrappers: what was taken off, outermost first.
        beside: names of the file that are not the encoder's, as they stand in the file's state
            dict after the prefix of a wrapped model.
        unused: other weights in the file, by the wrapper that holds them.
        siblings: all other keys beside the wrappers; they tell whose training script wrote them.
        entry: what a file of ours says of itself, unchecked; None: nothing.
        is_detector: the names are those of a whole Detectron2 model.
    """

    state: dict[str, Tensor]
    wrappers: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    siblings: tuple[str, ...] = ()
    entry: Any = None
    is_detector: bool = False


def unwrap(path: str, content: Mapping[str, Any], *, whole: bool = False) -> Unwrapped:
    """Find the weights in what a file holds.

    Args:
        path: of the file, for messages.
        content: what `read_weights` returned.
        whole: whether names keep what stands before those of an encoder.

    Raises:
        WeightsError: there are no tensors, or other things among them.
    """
    entry = raw_entry(content)
    state: Any = {key: value for key, value in content.items() if key != METADATA}
    wrappers: list[str] = []
    unused: list[str] = []
    siblings: list[str] = []
    while len(wrappers) < _MAX_WRAPPERS and (key := _wrapper_of(state)) is not None:
        unused += [k for k in _OTHER_WEIGHTS if k != key and isinstance(state.get(k), dict)]
        siblings += [str(k) for k in state if k != key]
        wrappers.append(key)
        state = state[key]
    _require_tensors(path, state, wrappers)
    for wrapped in _WRAPPED_MODEL:
        if all(name.startswith(wrapped) for name in state):
            state = {name.removeprefix(wrapped): value for name, value in state.items()}
            wrappers.append(wrapped)
    is_detector = _is_detector(state)
    if is_detector or whole:
        return Unwrapped(
            state=state, wrappers=tuple(wrappers), unused=tuple(unused),
            siblings=tuple(siblings), entry=entry, is_detector=is_detector,
        )  # fmt: skip
    beside: list[str] = []
    while (prefix := _encoder_prefix(state)) is not None:
        beside += [name for name in state if not name.startswith(prefix)]
        state = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
        wrappers.append(prefix)
    return Unwrapped(
        state=state, wrappers=tuple(wrappers), beside=tuple(beside), unused=tuple(unused),
        siblings=tuple(siblings), entry=entry,
    )  # fmt: skip


def _wrapper_of(state: Any) -> str | None:
    """Return the key below which the weights are; None: here."""
    if not isinstance(state, dict):
        return None
    return next((key for key in _WRAPPERS if isinstance(state.get(key), dict)), None)


def _require_tensors(path: str, state: Any, wrappers: list[str]) -> None:
    """Refuse what is no state dict.

    Raises:
        WeightsError: it is none.
    """
    where = f" under {' / '.join(map(repr, wrappers))}" if wrappers else ""
    if not isinstance(state, dict) or not state:
        kind = "none" if isinstance(state, dict) else type(state).__name__
        raise WeightsError(f"{path}: expected tensors{where}, got {kind}")
    other = [n for n, v in state.items() if not isinstance(v, Tensor) or not isinstance(n, str)]
    if other:
        shown = ", ".join(str(name)[:80] for name in other[:5])
        raise WeightsError(
            f"{path}: expected a dictionary of tensors or {{'model': ...}}, got also {shown}"
            f"{where}; extract the model's state dict"
        )


def _is_detector(state: Mapping[str, Tensor]) -> bool:
    """Whether names are those of a Detectron2 model, or of its backbone with a neck."""
    parts = (
        "roi_heads.", "proposal_generator.", "backbone.simfp_", "backbone.fpn_", "simfp_", "fpn_"
    )  # fmt: skip
    return any(name.startswith(parts) for name in state)


def _encoder_prefix(state: Mapping[str, Tensor]) -> str | None:
    if any(stem in state for stem in _STEMS):
        return None
    for prefix in _PREFIXES:
        if any(prefix + stem in state for stem in _STEMS):
            return prefix
    # Two prefixes in a row: "vision_model.vision_model." or "model.visual.".
    for outer in _PREFIXES:
        for inner in _PREFIXES:
            if any(outer + inner + stem in state for stem in _STEMS):
                return outer
    return None

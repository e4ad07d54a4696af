# SPDX-License-Identifier: Apache-2.0
"""DINOv3: rotary positions only; official files and timm's.

The keys' bias is multiplied by a mask that is zero. Larger models have gated perceptrons, and no
bias of queries, keys and values.

Source: facebookresearch/dinov3, ``models/vision_transformer.py``; timm, ``vit_*_dinov3``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from vitdet_d2.layers.rotary import HALF_BASE
from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable, Part, Take
from vitdet_d2.pretrained.normalisation import IMAGENET, SATELLITE, Normalisation
from vitdet_d2.pretrained.source import Needs, Source

_PERIODS = "rope_embed.periods"
_SATELLITE_WIDTH, _LARGEST_WIDTH = 1024, 4096
NOT_TOLD = (
    "DINOv3 of this size was trained on photographs (LVD-1689M) and on satellite images "
    "(SAT-493M), which are normalised otherwise, and the keys do not tell which: name the source "
    "dinov3_sat for the latter"
)
# Half a unit in the last place of bfloat16, in which the released periods were stored.
_ROUNDING = 2**-8

DINOV3_HEADS: Mapping[int, int] = {
    192: 3,
    384: 6,
    768: 12,
    1024: 16,
    1152: 18,
    1280: 20,
    1536: 24,
    4096: 32,
}


def _without_keys(bias: Tensor) -> Tensor:
    """Return queries, zeros for the keys, values: what the mask makes of the bias."""
    query, key, value = bias.chunk(3)
    return torch.cat([query, torch.zeros_like(key), value])


_COMMON: KeyTable = {
    "patch_embed.proj.{rest}": "patch_embed.proj.{rest}",
    "blocks.{n}.norm1.{rest}": "blocks.{n}.norm1.{rest}",
    "blocks.{n}.attn.qkv.weight": "blocks.{n}.attn.qkv.weight",
    "blocks.{n}.attn.proj.{rest}": "blocks.{n}.attn.proj.{rest}",
    "blocks.{n}.norm2.{rest}": "blocks.{n}.norm2.{rest}",
    "cls_token": None,
    "norm.{rest}": None,
    "head.{rest}": None,
}
_PERCEPTRON: KeyTable = {
    "blocks.{n}.mlp.fc1.{rest}": "blocks.{n}.mlp.fc1.{rest}",
    "blocks.{n}.mlp.fc2.{rest}": "blocks.{n}.mlp.fc2.{rest}",
}
_OFFICIAL: KeyTable = {
    "blocks.{n}.ls1.gamma": "blocks.{n}.ls1.gamma",
    "blocks.{n}.ls2.gamma": "blocks.{n}.ls2.gamma",
    "blocks.{n}.mlp.w1.{rest}": "blocks.{n}.mlp.w1.{rest}",
    "blocks.{n}.mlp.w2.{rest}": "blocks.{n}.mlp.w2.{rest}",
    "blocks.{n}.mlp.w3.{rest}": "blocks.{n}.mlp.w3.{rest}",
    **_PERCEPTRON,
    "storage_tokens": None,
    "mask_token": None,
    # Calculated again, see `_refuse`.
    _PERIODS: None,
    # Of the class token: of all crops, and of small crops in training.
    "cls_norm.{rest}": None,
    "local_cls_norm.{rest}": None,
}
_MASKED_BIAS: KeyTable = {
    "blocks.{n}.attn.qkv.bias_mask": None,
    "blocks.{n}.attn.qkv.bias": Take("blocks.{n}.attn.qkv.bias", _without_keys),
}
_WHOLE_BIAS: KeyTable = {"blocks.{n}.attn.qkv.bias": "blocks.{n}.attn.qkv.bias"}
_TIMM: KeyTable = {
    "blocks.{n}.gamma_1": "blocks.{n}.ls1.gamma",
    "blocks.{n}.gamma_2": "blocks.{n}.ls2.gamma",
    "blocks.{n}.attn.q_bias": Part("blocks.{n}.attn.qkv.bias", 0),
    "blocks.{n}.attn.v_bias": Part("blocks.{n}.attn.qkv.bias", 2),
    "reg_token": None,
    "fc_norm.{rest}": None,
}
_GATED_IN_TIMM: KeyTable = {
    "blocks.{n}.mlp.fc1_g.{rest}": "blocks.{n}.mlp.w1.{rest}",
    "blocks.{n}.mlp.fc1_x.{rest}": "blocks.{n}.mlp.w2.{rest}",
    "blocks.{n}.mlp.fc2.{rest}": "blocks.{n}.mlp.w3.{rest}",
}


def _is_official(file: Unwrapped) -> bool:
    return _PERIODS in file.state


def _matches(file: Unwrapped) -> bool:
    state = file.state
    in_timm = (
        {"cls_token", "reg_token", "blocks.0.gamma_1"} <= state.keys()
        and "pos_embed" not in state
        # timm's other rotary ViTs have one or none.
        and state["reg_token"].shape[1] == 4
    )
    return "patch_embed.proj.weight" in state and (_is_official(file) or in_timm)


def _table(file: Unwrapped) -> KeyTable:
    if _is_official(file):
        masked = "blocks.0.attn.qkv.bias_mask" in file.state
        return {**_COMMON, **_OFFICIAL, **(_MASKED_BIAS if masked else _WHOLE_BIAS)}
    gated = "blocks.0.mlp.fc1_g.weight" in file.state
    return {**_COMMON, **_TIMM, **(_GATED_IN_TIMM if gated else _PERCEPTRON)}


def _normalisation(file: Unwrapped) -> Normalisation | None:
    """Tell satellite images from others, where the keys do: of the official ViT-L."""
    width = _width(file)
    if width != _SATELLITE_WIDTH or not _is_official(file):
        return statistics_of_width(width)
    return SATELLITE if "local_cls_norm.weight" in file.state else IMAGENET


def statistics_of_width(width: int) -> Normalisation | None:
    """Return those of all models of a width; None: two sizes were trained on satellite images too.

    Args:
        width: of a token.
    """
    return None if width in (_SATELLITE_WIDTH, _LARGEST_WIDTH) else IMAGENET


def _width(file: Unwrapped) -> int:
    return file.state["patch_embed.proj.weight"].shape[0]


def _num_prefix(file: Unwrapped) -> int:  # noqa: ARG001
    return 0  # there are no absolute positions


def _needs(file: Unwrapped) -> Needs:  # noqa: ARG001
    return Needs(eps=1e-5, rope="half")


def _heads(file: Unwrapped) -> Mapping[int, int]:
    """Read them from the periods, of which each head has one per four channels."""
    if not _is_official(file):
        return DINOV3_HEADS
    width = _width(file)
    return {width: width // (4 * file.state[_PERIODS].numel())}


def _refuse(file: Unwrapped) -> str | None:
    if "blocks.0.norm1.bias" not in file.state:
        return "its norms have no bias (RMSNorm), which this ViT does not have"
    if _is_official(file) and _distance_of_periods(file) > _ROUNDING:
        return (
            f"{_PERIODS}: expected {HALF_BASE:g} ** (i / n), those of the released models, got "
            f"{[round(value, 3) for value in file.state[_PERIODS].tolist()][:4]}, ..."
        )
    if any(
        not _is_expected_mask(value)
        for name, value in file.state.items()
        if name.endswith(".attn.qkv.bias_mask")
    ):
        return "attn.qkv.bias_mask: expected ones, zeros for the keys, ones"
    return None


def _distance_of_periods(file: Unwrapped) -> float:
    """Return the largest relative distance from the periods that the model calculates."""
    found = file.state[_PERIODS]
    if found.device.type == "meta":
        return 0.0
    count = found.numel()
    expected = HALF_BASE ** (torch.arange(count, dtype=torch.float64) / count)
    return float((found.double() / expected - 1).abs().max())


def _is_expected_mask(mask: Tensor) -> bool:
    """Whether it takes the keys' bias away, and nothing else; official ones start as NaN."""
    if mask.device.type == "meta" or bool(mask.isnan().all()):
        return True
    query, key, value = mask.chunk(3)
    return bool((query == 1).all() and (key == 0).all() and (value == 1).all())


def _notes(file: Unwrapped) -> tuple[str, ...]:
    state = file.state
    name = "storage_tokens" if _is_official(file) else "reg_token"
    notes = []
    if name in state:
        count = state[name].shape[1]
        notes.append(f"{count} register tokens are left out: detection runs patches only")
    if _is_official(file) and _distance_of_periods(file) > 1e-6:
        notes.append(
            "the file's rotary periods are rounded to bfloat16, the model's are not: features "
            "differ slightly from those of the official code"
        )
    return tuple(notes)


def _notes_and_doubt(file: Unwrapped) -> tuple[str, ...]:
    return (*_notes(file), *(() if _normalisation(file) else (NOT_TOLD,)))


DINOV3 = Source(
    name="dinov3",
    title="DINOv3",
    matches=_matches,
    table=_table,
    beside=("dino_head.{rest}", "ibot_head.{rest}", "projectors.{rest}"),
    normalisation=_normalisation,
    num_prefix=_num_prefix,
    needs=_needs,
    heads=_heads,
    refuse=_refuse,
    notes=_notes_and_doubt,
)
# Recognised only where it is named: it comes after the other.
DINOV3_SAT = dataclasses.replace(
    DINOV3,
    name="dinov3_sat",
    title="DINOv3 for satellite images",
    normalisation=SATELLITE,
    notes=_notes,
)

# SPDX-License-Identifier: Apache-2.0
"""Fitting an encoder to a ViT: folding, splitting and resizing until names and shapes agree.

Names are those of the ViT's own state dict. Nothing here changes the model, and everything works
on the meta device.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.choices import AbsentPositions, LayerScale
from vitdet_d2.pretrained.encoder import BLOCK_BIAS, POSITIONS, SHARED_BIAS, STEM, Encoder
from vitdet_d2.pretrained.family import PLAIN_VIT
from vitdet_d2.pretrained.fitted import Fitted
from vitdet_d2.pretrained.patch_kernel import PatchResize, resize_patch_kernel
from vitdet_d2.pretrained.positions import fit_positions
from vitdet_d2.pretrained.relative_tables import fit_table

# What starts as nothing in a model, and may stay so where no block of the file has it.
_MAY_BE_NEW = re.compile(r"\.rel_pos_[hw]$|relative_position_bias_table$|^rel_pos_bias_")
_CONVOLUTIONAL_BLOCK = re.compile(r"\.residual\.")
# The layer before each LayerScale, whatever the kind of perceptron.
_SCALED = {"ls1": ("attn.proj",), "ls2": ("mlp.fc2", "mlp.w3")}
_SHARED_TABLES = ("rel_pos_bias_window", "rel_pos_bias_global")


def fit(
    path: str,
    encoder: Encoder,
    model: Mapping[str, Tensor],
    *,
    has_class_position: bool,
    layer_scale: LayerScale = "auto",
    patch_resize: PatchResize = "pinv",
    position_grid: tuple[int, int] | None = None,
    absent_positions: AbsentPositions = "zeros",
) -> Fitted:
    """Fit an encoder to a ViT.

    Args:
        path: of the file, for messages.
        encoder: whose needs the model has (`check_needs`).
        model: state dict of the ViT; shapes alone are read.
        has_class_position: whether its position embedding has a row for a class token.
        layer_scale: ``fold`` it into the layers before it, ``keep`` it, or ``auto``: keep it where
            the model has it.
        patch_resize: how the kernel of another patch size is resized.
        position_grid: ``(h, w)`` of the file's positions, in patches; None: a square.
        absent_positions: what absolute positions are where the file has none, ``zeros``, which
            changes no feature, or what the model has, at ``random``.

    Raises:
        WeightsError: positions that are no such grid, a bias of keys where the model has none, or
            a patch kernel that must not be resized.
    """
    if STEM in model:
        check_patch_size(path, encoder, tuple(model[STEM].shape[2:]), "the model")
    fitted = Fitted()
    tensors = dict(encoder.tensors)
    _place_layer_scale(tensors, model, layer_scale, fitted)
    _split_biases(path, tensors, model)
    _spread_bias_tables(tensors, model)
    for name, tensor in tensors.items():
        if name not in model:
            fitted.unexpected.append(name)
            continue
        found, wanted = tuple(tensor.shape), tuple(model[name].shape)
        if name == POSITIONS:
            tensor = _positions(
                path, tensor, encoder.num_prefix, wanted[1], has_class_position, position_grid
            )
        elif found != wanted:
            tensor = _resized(name, tensor, wanted, patch_resize)
        if tuple(tensor.shape) != wanted:
            fitted.mismatched.append((name, found, wanted))
            continue
        if found != wanted:
            fitted.resized.append((name, found, wanted))
        fitted.tensors[name] = tensor
    _account(model, fitted, absent_positions)
    return fitted


def lost_positions(encoder: Encoder, model: Mapping[str, Tensor], has_class_position: bool) -> str:
    """Say that a model has fewer positions than an encoder; nothing where it has as many.

    ViTDet resizes them once more to the grid of each image, and detail that is lost stays lost.

    Args:
        encoder: from the file.
        model: state dict of the ViT; shapes alone are read.
        has_class_position: whether its position embedding has a row for a class token.
    """
    if POSITIONS not in encoder.tensors or POSITIONS not in model:
        return ""
    found = encoder.tensors[POSITIONS].shape[1] - encoder.num_prefix
    wanted = model[POSITIONS].shape[1] - int(has_class_position)
    if found <= wanted:
        return ""
    side = math.isqrt(found - 1) + 1  # rounded up, where they are no square
    size = side * model[STEM].shape[-1]
    return (
        f"the {found} positions of the file are reduced to the model's {wanted}, before they are "
        f"enlarged to the images' again: {PLAIN_VIT.recipe_prefix}pretrain_img_size={size} keeps "
        "them"
    )


def check_patch_size(path: str, encoder: Encoder, wanted: tuple[int, ...], taker: str) -> None:
    """Refuse to resize a kernel that was resized already.

    Args:
        path: of the file, for messages.
        encoder: from the file.
        wanted: sides of a patch in pixels.
        taker: who wants it, for messages.

    Raises:
        WeightsError: it has another size, and must keep it.
    """
    found = tuple(encoder.tensors[STEM].shape[2:])
    if encoder.patch_is_final is not None and found != wanted:
        raise WeightsError(
            f"{path}: {STEM} has patches of {found} pixels, {taker} {wanted}: "
            f"{encoder.patch_is_final}"
        )


def fold_factor(tensors: dict[str, Tensor], name: str) -> Tensor:
    """Fold one factor of LayerScale into the layer before it, which takes its place.

    ``x + g * (W h + b) = x + (g W) h + g b``.

    Args:
        tensors: changed in place; names may have any prefix.
        name: of the factor, ``...ls1.gamma`` or ``...ls2.gamma``.

    Returns:
        The factor.
    """
    block, scale, _ = name.rsplit(".", 2)
    gamma = tensors.pop(name)
    for layer in _SCALED[scale]:
        if f"{block}.{layer}.weight" in tensors:
            weight = tensors[f"{block}.{layer}.weight"]
            tensors[f"{block}.{layer}.weight"] = _product(gamma[:, None], weight)
        if f"{block}.{layer}.bias" in tensors:
            bias = tensors[f"{block}.{layer}.bias"]
            tensors[f"{block}.{layer}.bias"] = _product(gamma, bias)
    return gamma


def _place_layer_scale(
    tensors: dict[str, Tensor], model: Mapping[str, Tensor], mode: LayerScale, fitted: Fitted
) -> None:
    """Fold the factors into the layers before them, where the model has none, or if asked to."""
    for name in [name for name in tensors if name.endswith(".gamma")]:
        if mode != "fold" and name in model:
            continue
        gamma = fold_factor(tensors, name)
        fitted.folded.append(name)
        if name in model:
            tensors[name] = torch.ones_like(gamma)


def _product(gamma: Tensor, tensor: Tensor) -> Tensor:
    """Multiply in single precision at least: factors of 1e-5 are lost in half."""
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    return gamma.to(dtype) * tensor.to(dtype)


def _split_biases(path: str, tensors: dict[str, Tensor], model: Mapping[str, Tensor]) -> None:
    """Part the biases for a model whose keys have none.

    Raises:
        WeightsError: the file's keys have one.
    """
    for name in [name for name in tensors if name.endswith(".attn.qkv.bias")]:
        stem = name.removesuffix("qkv.bias")
        if stem + "q_bias" not in model:
            continue
        q, k, v = tensors.pop(name).chunk(3)
        if k.device.type != "meta" and k.any():
            raise WeightsError(
                f"{path}: {name}: keys have a bias in the file, and none in the model: set "
                "qkv_bias=True"
            )
        tensors[stem + "q_bias"], tensors[stem + "v_bias"] = q, v


def _spread_bias_tables(tensors: dict[str, Tensor], model: Mapping[str, Tensor]) -> None:
    """Give a table that all blocks share to those who take it."""
    if SHARED_BIAS not in tensors:
        return
    takers = [name for name in model if name.endswith(BLOCK_BIAS) or name in _SHARED_TABLES]
    table = tensors.pop(SHARED_BIAS)
    tensors.update(dict.fromkeys(takers, table))


def _positions(
    path: str,
    positions: Tensor,
    num_prefix: int,
    num_tokens: int,
    has_class_position: bool,
    old_hw: tuple[int, int] | None,
) -> Tensor:
    """Fit positions to the model's grid.

    Raises:
        WeightsError: they are no grid.
    """
    try:
        return fit_positions(positions, num_prefix, old_hw, num_tokens, has_class_position)
    except ValueError as error:
        raise WeightsError(f"{path}: {POSITIONS}: {error}") from None


def _resized(
    name: str, tensor: Tensor, wanted: tuple[int, ...], patch_resize: PatchResize
) -> Tensor:
    """Resize what geometry changes; other tensors stay as they are."""
    if name == STEM and tensor.shape[:2] == wanted[:2]:
        return resize_patch_kernel(tensor, (wanted[2], wanted[3]), patch_resize)
    return fit_table(name, tensor, wanted)


def _account(
    model: Mapping[str, Tensor], fitted: Fitted, absent_positions: AbsentPositions
) -> None:
    """Say of every name of the model that got nothing why, and fill in zeros and ones."""
    touched = {*fitted.tensors, *(name for name, _, _ in fitted.mismatched)}
    kinds = {_kind(name) for name in touched}
    for name, value in model.items():
        if name in touched:
            continue
        # What other blocks of the file have is missing here.
        in_no_block = _kind(name) not in kinds
        if name == POSITIONS and absent_positions == "random":
            fitted.new.append(name)
        elif name == POSITIONS or (in_no_block and _weight_of(name) in touched):
            # Zeros are what an encoder without them has.
            fitted.zeros.append(name)
            fitted.tensors[name] = torch.zeros_like(value, device=_device(fitted))
        elif in_no_block and name.endswith(".gamma"):
            # And this is what one without LayerScale has, however small the model's factors are.
            fitted.ones.append(name)
            fitted.tensors[name] = torch.ones_like(value, device=_device(fitted))
        elif _CONVOLUTIONAL_BLOCK.search(name) or (in_no_block and _MAY_BE_NEW.search(name)):
            fitted.new.append(name)
        else:
            fitted.missing.append(name)


def _weight_of(name: str) -> str | None:
    """Return the weight beside a bias; None: it is no bias."""
    if name.endswith((".attn.q_bias", ".attn.v_bias")):
        return f"{name.rpartition('.')[0]}.qkv.weight"
    return f"{name.removesuffix('.bias')}.weight" if name.endswith(".bias") else None


def _kind(name: str) -> str:
    """Return a name without the number of its block."""
    return re.sub(r"\.\d+\.", ".", name)


def _device(fitted: Fitted) -> torch.device:
    return next((value.device for value in fitted.tensors.values()), torch.device("cpu"))

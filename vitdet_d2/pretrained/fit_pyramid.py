# SPDX-License-Identifier: Apache-2.0
"""Fitting an encoder to a pyramid transformer: its positions are resized, and all else is equal.

Names are those of the backbone's own state dict. Nothing here changes the model, and everything
works on the meta device.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.encoder import Encoder
from vitdet_d2.pretrained.fitted import Fitted
from vitdet_d2.pretrained.positions import can_resize_positions, fit_positions

# Pixels between the tokens of the first stage.
_FIRST_STRIDE = 4

_POSITIONS = re.compile(r"pos_embed(\d)")
_BIAS = re.compile(r"block\d\.\d+\.attn\.(q|kv)\.bias")


def fit_pyramid(
    path: str,
    encoder: Encoder,
    model: Mapping[str, Tensor],
    *,
    position_grid: tuple[int, int] | None = None,
) -> Fitted:
    """Fit an encoder to a pyramid transformer.

    Args:
        path: of the file, for messages.
        encoder: of a pyramid transformer.
        model: state dict of the backbone; shapes alone are read.
        position_grid: ``(h, w)`` of the positions of the file's first stage, in tokens; each
            further stage has half as many; None: a square.

    Raises:
        WeightsError: positions that are no such grid.
    """
    fitted = Fitted()
    for name, tensor in encoder.tensors.items():
        if name not in model:
            fitted.unexpected.append(name)
            continue
        found, wanted = tuple(tensor.shape), tuple(model[name].shape)
        stage = _POSITIONS.fullmatch(name)
        if stage and can_resize_positions(found, wanted):
            tensor = _positions(
                path, name, tensor, wanted[1], _halved(position_grid, int(stage[1]))
            )
        if tuple(tensor.shape) != wanted:
            fitted.mismatched.append((name, found, wanted))
            continue
        if found != wanted:
            fitted.resized.append((name, found, wanted))
        fitted.tensors[name] = tensor
    _account(model, fitted)
    return fitted


def trained_pixels(num_positions: int) -> int:
    """Return the side of the images that a first stage has so many positions for.

    Args:
        num_positions: of a square.
    """
    return _FIRST_STRIDE * math.isqrt(num_positions)


def _halved(grid: tuple[int, int] | None, stage: int) -> tuple[int, int] | None:
    """Return the grid of a stage from that of the first."""
    return None if grid is None else (grid[0] >> (stage - 1), grid[1] >> (stage - 1))


def _positions(
    path: str, name: str, positions: Tensor, num_tokens: int, old_hw: tuple[int, int] | None
) -> Tensor:
    """Fit the positions of a stage to the model's grid; in the last there may be a class token's.

    Raises:
        WeightsError: they are no grid.
    """
    try:
        return fit_positions(
            positions, _class_rows(positions.shape[1], old_hw), old_hw, num_tokens,
            bool(_class_rows(num_tokens, None)), mode="bilinear",
        )  # fmt: skip
    except ValueError as error:
        raise WeightsError(f"{path}: {name}: {error}") from None


def _class_rows(count: int, grid: tuple[int, int] | None) -> int:
    """Count the rows of a class token, none or one: n and n + 1 are not both squares."""
    if grid is not None:
        return int(count == math.prod(grid) + 1)
    return int(math.isqrt(count) ** 2 != count)


def _account(model: Mapping[str, Tensor], fitted: Fitted) -> None:
    """Say of every name of the model that got nothing why, and fill in zeros."""
    touched = {*fitted.tensors, *(name for name, _, _ in fitted.mismatched)}
    has_biases = any(_BIAS.fullmatch(name) for name in touched)
    for name, value in model.items():
        if name in touched:
            continue
        if _BIAS.fullmatch(name) and not has_biases:
            # An encoder that was trained without them has these.
            fitted.zeros.append(name)
            fitted.tensors[name] = torch.zeros_like(value, device=_device(fitted))
        else:
            fitted.missing.append(name)


def _device(fitted: Fitted) -> torch.device:
    return next((value.device for value in fitted.tensors.values()), torch.device("cpu"))

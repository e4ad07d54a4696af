# SPDX-License-Identifier: Apache-2.0
"""Whether the options of a plain ViT that pre-trained models need are known and fit together."""

from __future__ import annotations

import logging
import math
from typing import Any, get_args

from vitdet_d2.backbones.option_checks import nearest
from vitdet_d2.errors import RecipeError
from vitdet_d2.layers.activation import ACTIVATIONS
from vitdet_d2.layers.attention import RelPosBias
from vitdet_d2.layers.block import MlpKind
from vitdet_d2.layers.rotary import RopeKind

logger = logging.getLogger(__name__)


def check_block_options(
    *,
    embed_dim: int,
    num_heads: int,
    qkv_bias: Any,
    layer_scale_init: Any,
    act: Any,
    has_act_layer: bool,
    mlp: Any,
    mlp_norm: bool,
    rope: Any,
    rel_pos_bias: Any,
) -> None:
    """Require options that are known and do not contradict each other.

    Args:
        embed_dim: channels of a token.
        num_heads: attention heads of each block.
        qkv_bias: as `ViT` has it, and so on.
        layer_scale_init: likewise.
        act: likewise.
        has_act_layer: whether ``act_layer`` is another one than the default.
        mlp: likewise.
        mlp_norm: likewise.
        rope: likewise.
        rel_pos_bias: likewise.

    Raises:
        RecipeError: an unknown value, or options that contradict each other.
    """
    _check_choice("qkv_bias", qkv_bias, (True, False, "qv"))
    _check_choice("act", act, (None, *ACTIVATIONS))
    _check_choice("mlp", mlp, get_args(MlpKind))
    _check_choice("rope", rope, (None, *get_args(RopeKind)))
    _check_choice("rel_pos_bias", rel_pos_bias, (None, *get_args(RelPosBias)))
    is_number = isinstance(layer_scale_init, (int, float)) and not isinstance(
        layer_scale_init, bool
    )
    if layer_scale_init is not None and not (is_number and math.isfinite(layer_scale_init)):
        raise RecipeError(
            "layer_scale_init: expected a number such as 1e-5, or None for no LayerScale, got "
            f"{layer_scale_init!r}"
        )
    if act is not None and has_act_layer:
        raise RecipeError(
            f"act={act!r} and act_layer are both set; leave out one of the two (act=None takes "
            "act_layer)"
        )
    if mlp_norm and mlp != "swiglu":
        raise RecipeError(
            f"mlp_norm: expected mlp='swiglu' with it, got mlp={mlp!r}; only the gated perceptron "
            "has a norm of its hidden layer"
        )
    if mlp == "swiglu" and act is not None:
        logger.warning("act=%r has no effect on perceptrons with mlp='swiglu', gated by SiLU", act)
    if rope is not None and embed_dim % (4 * num_heads):
        raise RecipeError(
            f"rope={rope!r}: expected embed_dim to be a multiple of 4 * num_heads={4 * num_heads} "
            f"(pairs of channels for rows and for columns), got {embed_dim}"
        )


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    # By type as well: for Python, 1 is True.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        expected = ", ".join(map(repr, choices))
        words = [choice for choice in choices if isinstance(choice, str)]
        guess = nearest(value, words) if isinstance(value, str) else ""
        raise RecipeError(f"{name}: expected one of {expected}, got {value!r}{guess}")

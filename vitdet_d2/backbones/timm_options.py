# SPDX-License-Identifier: Apache-2.0
"""The keys ``MODEL.TIMM`` of a yacs configuration: `TimmBackbone`'s arguments in upper case."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_type_hints

from vitdet_d2.backbones.fpn_options import PYRAMID_DEFAULTS
from vitdet_d2.backbones.option_checks import check_options
from vitdet_d2.backbones.timm_backbone import TimmBackbone
from vitdet_d2.errors import RecipeError
from vitdet_d2.layers.norm import layer_norm

# What the builder sets itself.
_NO_OPTIONS = frozenset({"self", "return", "in_chans"})
# In place of the class `out_norm`, and what belongs to the pyramid.
_OWN: dict[str, Any] = {"NAME": "", "OUT_NORM": "", "NORM_EPS": 1e-5, **PYRAMID_DEFAULTS}


def timm_defaults() -> dict[str, Any]:
    """Return every option of ``MODEL.TIMM`` with its default."""
    parameters = inspect.signature(TimmBackbone).parameters
    of_class = {
        name.upper(): parameter.default
        for name, parameter in parameters.items()
        if name not in _NO_OPTIONS
    }
    return {**of_class, **_OWN}


def timm_arguments_from_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of `TimmBackbone` from ``MODEL.TIMM``; those left out keep their default.

    Args:
        given: options, in upper case.

    Raises:
        RecipeError: an unknown option, a value of another type, or no name.
    """
    hints: dict[str, Any] = {
        name.upper(): hint for name, hint in get_type_hints(TimmBackbone.__init__).items()
    }
    hints |= {option: type(value) for option, value in _OWN.items()}
    check_options("MODEL.TIMM", given, timm_defaults(), hints)
    options = {**timm_defaults(), **given}
    if not options["NAME"]:
        raise RecipeError(
            "MODEL.TIMM.NAME: expected a model of timm, such as swin_tiny_patch4_window7_224, got "
            "nothing"
        )
    norm, eps = options.pop("OUT_NORM"), options.pop("NORM_EPS")
    if norm not in ("", "LN"):
        raise RecipeError(f"MODEL.TIMM.OUT_NORM: expected '' or 'LN', got {norm!r}")
    arguments = {
        option.lower(): value for option, value in options.items() if option not in PYRAMID_DEFAULTS
    }
    return {**arguments, "out_norm": layer_norm(eps) if norm else None}

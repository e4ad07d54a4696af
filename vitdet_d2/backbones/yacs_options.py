# SPDX-License-Identifier: Apache-2.0
"""The keys that a yacs configuration has for our backbones, and for the optimizer of ViTs.

Vocabulary: an *option* is a constructor argument in upper case, below ``MODEL.VIT`` or
``MODEL.SFP``. Arguments that a configuration cannot hold, such as classes, are options by name.
Options, defaults and types follow the constructors' signatures.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_type_hints

from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from fvcore.common.config import CfgNode
from torch import nn

from vitdet_d2.backbones.option_checks import by_name, check_options
from vitdet_d2.backbones.pvt_options import pvt_defaults
from vitdet_d2.backbones.sizes import VIT_SIZES
from vitdet_d2.backbones.timm_options import timm_defaults
from vitdet_d2.backbones.vit import ViT
from vitdet_d2.errors import RecipeError
from vitdet_d2.necks.simple_feature_pyramid import SimpleFeaturePyramid

NORM_LAYERS: dict[str, Callable[..., nn.Module]] = {"LN": nn.LayerNorm, "RMSNorm": nn.RMSNorm}
ACT_LAYERS: dict[str, Callable[[], nn.Module]] = {
    "GELU": nn.GELU,
    "ReLU": nn.ReLU,
    "SiLU": nn.SiLU,
}
TOP_BLOCKS: dict[str, Callable[[], nn.Module] | None] = {
    "LastLevelMaxPool": LastLevelMaxPool,
    "": None,
}

# What the builders set themselves.
_NO_VIT_OPTIONS = frozenset({"self", "return", "in_chans"})
_NO_SFP_OPTIONS = frozenset({"self", "return", "net", "in_feature"})

# Beside the signature, or in place of what it says. NORM_EPS: torch's default, as ViT's. QKV_BIAS:
# as ViT's; yacs lets None alone be replaced by values of several types, here a bool or "qv".
_VIT_OWN: dict[str, Any] = {
    "SIZE": "",
    "NORM_LAYER": "LN",
    "NORM_EPS": 1e-5,
    "ACT_LAYER": "GELU",
    "QKV_BIAS": None,
}
# The pyramid of the ViTDet recipes: strides 4 to 32 and 64, 256 channels.
_SFP_OWN: dict[str, Any] = {
    "OUT_CHANNELS": 256,
    "SCALE_FACTORS": (4.0, 2.0, 1.0, 0.5),
    "TOP_BLOCK": "LastLevelMaxPool",
}

# Read by `vitdet_d2.solver.build_optimizer`, with Detectron2's own keys.
SOLVER_DEFAULTS: dict[str, Any] = {
    "OPTIMIZER": "ADAMW",  # or "SGD", Detectron2's own
    "BETAS": (0.9, 0.999),
    "LAYER_DECAY": 1.0,  # factor from one layer to the one before it; ViTDet: 0.7, 0.8, 0.9
    "WEIGHT_DECAY_POS_EMBED": 0.0,  # None: as the weights
}


def add_vitdet_config(cfg: CfgNode) -> None:
    """Add ``MODEL.{VIT, SFP, TIMM, PVT}``, and the keys of AdamW with layer decay.

    What ``cfg`` has already stays as it is; a second call changes nothing.

    Args:
        cfg: a configuration of ``detectron2.config.get_cfg()``, before files are merged.
    """
    _add(cfg.MODEL, "VIT", vit_defaults())
    _add(cfg.MODEL, "SFP", sfp_defaults())
    _add(cfg.MODEL, "TIMM", timm_defaults())
    _add(cfg.MODEL, "PVT", pvt_defaults())
    for key, value in SOLVER_DEFAULTS.items():
        cfg.SOLVER.setdefault(key, value)


def _add(parent: CfgNode, name: str, defaults: Mapping[str, Any]) -> None:
    if name not in parent:
        # Unknown keys reach the builder, which can say what was meant; a merge cannot.
        parent[name] = type(parent)(new_allowed=True)
    for key, value in defaults.items():
        parent[name].setdefault(key, value)


def vit_defaults() -> dict[str, Any]:
    """Return every option of ``MODEL.VIT`` with its default."""
    return {**_signature_defaults(ViT, _NO_VIT_OPTIONS), **_VIT_OWN}


def sfp_defaults() -> dict[str, Any]:
    """Return every option of ``MODEL.SFP`` with its default."""
    return {**_signature_defaults(SimpleFeaturePyramid, _NO_SFP_OPTIONS), **_SFP_OWN}


def vit_arguments_from_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of `ViT` from ``MODEL.VIT``; those left out keep their default.

    Args:
        given: options, in upper case.

    Raises:
        RecipeError: an unknown option, a value of another type, an unknown name, or a ``SIZE``
            that other options contradict.
    """
    options = _checked(given, vit_defaults(), ViT, "MODEL.VIT")
    norm = by_name(NORM_LAYERS, options.pop("NORM_LAYER"), "MODEL.VIT.NORM_LAYER")
    eps = options.pop("NORM_EPS")
    activation = by_name(ACT_LAYERS, options.pop("ACT_LAYER"), "MODEL.VIT.ACT_LAYER")
    options.update(_of_size(options.pop("SIZE"), options))
    if options["QKV_BIAS"] is None:
        options["QKV_BIAS"] = inspect.signature(ViT).parameters["qkv_bias"].default
    arguments = {option.lower(): value for option, value in options.items()}
    return {**arguments, "norm_layer": partial(norm, eps=eps), "act_layer": activation}


def sfp_arguments_from_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of `SimpleFeaturePyramid` from ``MODEL.SFP``.

    Args:
        given: options, in upper case.

    Raises:
        RecipeError: an unknown option, a value of another type, or an unknown name.
    """
    options = _checked(given, sfp_defaults(), SimpleFeaturePyramid, "MODEL.SFP")
    make_top = by_name(TOP_BLOCKS, options.pop("TOP_BLOCK"), "MODEL.SFP.TOP_BLOCK")
    arguments = {option.lower(): value for option, value in options.items()}
    return {**arguments, "top_block": None if make_top is None else make_top()}


def _signature_defaults(target: type, excluded: frozenset[str]) -> dict[str, Any]:
    parameters = inspect.signature(target).parameters
    return {
        name.upper(): parameter.default
        for name, parameter in parameters.items()
        if name not in excluded
    }


def _checked(
    given: Mapping[str, Any], defaults: Mapping[str, Any], target: type, where: str
) -> dict[str, Any]:
    """Return all options, the given ones checked.

    Raises:
        RecipeError: an option is unknown, or of another type.
    """
    constructor = vars(target)["__init__"]
    hints = {name.upper(): hint for name, hint in get_type_hints(constructor).items()}
    own = {**_VIT_OWN, **_SFP_OWN}
    hints |= {name: type(value) for name, value in own.items() if isinstance(value, str | float)}
    check_options(where, given, defaults, hints)
    return {**defaults, **given}


def _of_size(size: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return width, depth and heads of a size; nothing where no size is given.

    Raises:
        RecipeError: an unknown size, or one that contradicts what is set beside it.
    """
    if not size:
        return {}
    chosen = by_name(
        {name.upper(): value for name, value in VIT_SIZES.items()}, size.upper(), "MODEL.VIT.SIZE"
    )
    values = {"EMBED_DIM": chosen.embed_dim, "DEPTH": chosen.depth, "NUM_HEADS": chosen.num_heads}
    defaults = vit_defaults()
    for option, value in values.items():
        # A value that equals the default cannot be told from one that was not set.
        if options[option] not in (value, defaults[option]):
            raise RecipeError(
                f"MODEL.VIT.SIZE: {size} means {option}: {value}, but {option} is "
                f"{options[option]}; leave out one of the two"
            )
    return values

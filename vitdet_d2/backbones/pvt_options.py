# SPDX-License-Identifier: Apache-2.0
"""The keys ``MODEL.PVT`` of a yacs configuration: a pyramid transformer's arguments in upper case.

``KIND`` says which: ``pvt`` (v1), ``pvt_v2`` or ``mit``. ``SIZE`` stands for the arguments of one
of its sizes; an option that is None is left to it, or to the constructor.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from vitdet_d2.backbones.fpn_options import PYRAMID_DEFAULTS
from vitdet_d2.backbones.mit import MiT
from vitdet_d2.backbones.option_checks import by_name, check_options
from vitdet_d2.backbones.pvt import PVT
from vitdet_d2.backbones.pvt_sizes import (
    MIT_SIZES,
    PVT_SIZES,
    PVT_V2_SIZES,
    PyramidSize,
    mit_arguments,
    pvt_arguments,
    pvt_v2_arguments,
)
from vitdet_d2.backbones.pvt_v2 import PVTv2
from vitdet_d2.backbones.pyramid_transformer import PyramidTransformer
from vitdet_d2.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """A member of the family, with its sizes."""

    build: Callable[..., PyramidTransformer]
    sizes: Mapping[str, PyramidSize]
    arguments: Callable[[str], Mapping[str, Any]]


KINDS = {
    "pvt": _Kind(build=PVT, sizes=PVT_SIZES, arguments=pvt_arguments),
    "pvt_v2": _Kind(build=PVTv2, sizes=PVT_V2_SIZES, arguments=pvt_v2_arguments),
    "mit": _Kind(build=MiT, sizes=MIT_SIZES, arguments=mit_arguments),
}
# What the builder sets itself.
_NO_OPTIONS = frozenset({"self", "return", "in_chans"})
# Beside the constructors' arguments.
_OWN: dict[str, Any] = {"KIND": "pvt", "SIZE": "", **PYRAMID_DEFAULTS}


def pvt_defaults() -> dict[str, Any]:
    """Return every option of ``MODEL.PVT`` with its default; what kinds or sizes set is None."""
    of_any = {
        name.upper(): parameter.default
        for kind in KINDS.values()
        for name, parameter in inspect.signature(kind.build).parameters.items()
        if name not in _NO_OPTIONS
    }
    of_kind = {name.upper() for kind in KINDS.values() for name in _own_arguments(kind)}
    return {**of_any, **dict.fromkeys(of_kind), **_OWN}


def pvt_from_options(given: Mapping[str, Any], in_chans: int) -> PyramidTransformer:
    """Build the backbone that ``MODEL.PVT`` describes.

    Args:
        given: options, in upper case; those left out keep their default.
        in_chans: channels of the images.

    Raises:
        RecipeError: an unknown option, kind or size, a value of another type, an option of
            another kind, or one that contradicts the size.
    """
    hints: dict[str, Any] = {option: type(value) for option, value in _OWN.items()}
    for kind in KINDS.values():
        constructor = vars(kind.build)["__init__"]
        hints |= {name.upper(): hint for name, hint in get_type_hints(constructor).items()}
    check_options("MODEL.PVT", given, pvt_defaults(), hints)
    options = {**pvt_defaults(), **given}
    kind = by_name(KINDS, options["KIND"], "MODEL.PVT.KIND")
    accepted = set(inspect.signature(kind.build).parameters)
    chosen = {
        name.lower(): value
        for name, value in options.items()
        if name not in _OWN and value is not None
    }
    foreign = sorted(set(chosen) - accepted)
    if foreign:
        raise RecipeError(
            f"MODEL.PVT.{foreign[0].upper()}: KIND {options['KIND']} has no such option; leave it "
            "at None"
        )
    of_size = _of_size(kind, options["SIZE"], chosen)
    return kind.build(**{**chosen, **of_size}, in_chans=in_chans)


def _own_arguments(kind: _Kind) -> set[str]:
    """Return what a kind's sizes set, and what not all kinds have."""
    shared = set.intersection(*(set(inspect.signature(k.build).parameters) for k in KINDS.values()))
    of_sizes = {name for size in kind.sizes for name in kind.arguments(size)}
    return of_sizes | set(inspect.signature(kind.build).parameters) - shared


def _of_size(kind: _Kind, size: str, chosen: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments of a size; nothing where no size is given.

    Raises:
        RecipeError: an unknown size, or one that contradicts what is set beside it.
    """
    if not size:
        return {}
    by_name(kind.sizes, size, "MODEL.PVT.SIZE")
    arguments = kind.arguments(size)
    for name, value in arguments.items():
        if name in chosen and _plain(chosen[name]) != _plain(value):
            raise RecipeError(
                f"MODEL.PVT.SIZE: {size} means {name.upper()}: {value}, but {name.upper()} is "
                f"{_plain(chosen[name])}; leave out one of the two"
            )
    return arguments


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

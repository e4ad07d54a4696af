# SPDX-License-Identifier: Apache-2.0
"""timm's models as feature extractors: what is asked of one, and what is refused.

Vocabulary:
    level: one of the maps that a timm model can return, in order from the image on; timm's
        ``feature_info`` says which module it comes from, its stride and its channels.
    fixed: a model that takes images of one size alone, which is chosen when it is built.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn

from vitdet_d2.backbones.timm_mvit import takes_any_size
from vitdet_d2.errors import RecipeError

# What FPN-like necks of Detectron2 are made for.
DETECTION_STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True, kw_only=True)
class Level:
    """One map that a timm model can return.

    Attributes:
        index: its number in timm's list.
        name: unique in the model: the module that it comes from, if timm names one for it alone.
        stride: pixels of the image per pixel of the map.
        channels: of the map.
    """

    index: int
    name: str
    stride: int
    channels: int

    def __str__(self) -> str:
        return f"{self.index}: {self.name} (stride {self.stride}, {self.channels} channels)"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What can be said of a model of timm without building it.

    Attributes:
        name: timm's.
        levels: all maps that it can return.
        arguments: names that its constructor takes.
        made_for: height and width of the images that it was trained on.
        is_fixed: whether it takes no other size as it is.
    """

    name: str
    levels: tuple[Level, ...]
    arguments: frozenset[str]
    made_for: tuple[int, int]
    is_fixed: bool


def describe_architecture(name: str) -> Architecture:
    """Look at a model without memory for its weights.

    Args:
        name: timm's name, with or without the tag of its weights.

    Raises:
        RecipeError: timm has no such model, or it cannot return feature maps.
    """
    _require_name(name)
    with torch.device("meta"):
        model: Any = timm.create_model(name)
    arguments = frozenset(inspect.signature(type(model).__init__).parameters)
    info = getattr(model, "feature_info", None)
    if not info or not hasattr(model, "forward_intermediates"):
        raise RecipeError(
            f"timm model {name!r} gives no feature maps (no feature_info), only classes; take "
            "another one: timm.list_models() names them"
        )
    levels = _name_levels([dict(entry) for entry in info])
    height, width = model.pretrained_cfg["input_size"][-2:]
    says_fixed = bool(model.pretrained_cfg.get("fixed_input_size"))
    return Architecture(
        name=name,
        levels=levels,
        arguments=arguments,
        made_for=(int(height), int(width)),
        is_fixed=says_fixed and "dynamic_img_size" not in arguments and not takes_any_size(model),
    )


def build_model(
    architecture: Architecture,
    *,
    pretrained: bool,
    in_chans: int,
    drop_path_rate: float | None,
    img_size: tuple[int, int] | None,
) -> nn.Module:
    """Build a model that takes images of any size, or of one that is given.

    Args:
        architecture: of the model.
        pretrained: whether timm downloads its weights.
        in_chans: channels of the images.
        drop_path_rate: of the last block; None: timm's default.
        img_size: height and width, for a fixed model; None: any.

    Raises:
        RecipeError: the model has no such option, or not with this value, or no weights, or they
            cannot be had now.
    """
    arguments: dict[str, Any] = {"in_chans": in_chans}
    if drop_path_rate is not None:
        _require_argument(architecture, "drop_path_rate", "leave it out (None)")
        if not 0.0 <= drop_path_rate < 1.0:
            raise RecipeError(
                f"drop_path_rate: expected 0 <= drop_path_rate < 1, got {drop_path_rate}"
            )
        arguments["drop_path_rate"] = drop_path_rate
    arguments.update(_size_arguments(architecture, img_size))
    if pretrained:
        _require_weights(architecture.name)
    try:
        return timm.create_model(architecture.name, pretrained=pretrained, **arguments)
    except Exception as error:
        if not pretrained:
            raise
        # Of timm, Hugging Face's client, the network or the disk: there is no common class.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise RecipeError(
            f"timm model {architecture.name!r}: its pre-trained weights cannot be had now "
            f'({type(error).__name__}: {reason}); with a network, run once: python -c "import '
            f"timm; timm.create_model('{architecture.name}', pretrained=True)\" and copy the cache "
            "(HF_HOME, TORCH_HOME) here, or set pretrained=False and give a file to "
            "train.init_checkpoint"
        ) from error


def choose_levels(
    architecture: Architecture, out_indices: Sequence[int] | None
) -> tuple[Level, ...]:
    """Return the levels that are asked for.

    Args:
        architecture: of the model.
        out_indices: numbers of levels, increasing; negative ones count from the last. None: the
            last level of each of the strides 4, 8, 16 and 32 that the model has.

    Raises:
        RecipeError: these are no numbers, there are no such levels, they do not increase, or the
            model is a plain one.
    """
    levels = architecture.levels
    if out_indices is None:
        return _detection_levels(architecture)
    if isinstance(out_indices, int | str) or not all(isinstance(i, int) for i in out_indices):
        raise RecipeError(f"out_indices: expected a list of whole numbers, got {out_indices!r}")
    wrong = [i for i in out_indices if not -len(levels) <= i < len(levels)]
    if wrong or not out_indices:
        raise RecipeError(
            f"out_indices={list(out_indices)}: timm model {architecture.name!r} has the levels "
            f"{'; '.join(map(str, levels))}; give numbers of 0 to {len(levels) - 1}"
        )
    chosen = [i % len(levels) for i in out_indices]
    if chosen != sorted(set(chosen)):
        raise RecipeError(f"out_indices: expected increasing numbers, got {list(out_indices)}")
    return tuple(levels[i] for i in chosen)


def pixel_statistics(name: str) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of the pixels that a timm model was trained on.

    Args:
        name: timm's name; the tag of the weights may matter.

    Returns:
        Of red, green and blue, from 0 to 255: for ``model.pixel_mean`` and ``model.pixel_std`` of a
        detector with ``input_format`` RGB.

    Raises:
        RecipeError: timm has no such model.
    """
    config = _require_name(name)
    return [255.0 * value for value in config.mean], [255.0 * value for value in config.std]


def _require_name(name: str) -> Any:
    """Return what timm knows of the weights of a name.

    Raises:
        RecipeError: it does not know it.
    """
    if not timm.is_model(name):
        base = name.split(".")[0]
        near = difflib.get_close_matches(base, timm.list_models(), n=3)
        cure = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() names them"
        raise RecipeError(f"timm {timm.__version__} has no model {name!r}; {cure}")
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # what timm raises for an unknown tag
        tags = sorted(timm.list_pretrained(f"{name.split('.')[0]}.*"))
        raise RecipeError(
            f"timm model {name!r}: no weights of this tag; there are {', '.join(tags) or 'none'}"
        ) from error


def _name_levels(info: Sequence[dict[str, Any]]) -> tuple[Level, ...]:
    modules = [str(entry["module"]) for entry in info]
    return tuple(
        Level(
            index=i,
            name=module if module and modules.count(module) == 1 else f"level{i}",
            stride=int(entry["reduction"]),
            channels=int(entry["num_chs"]),
        )
        for i, (module, entry) in enumerate(zip(modules, info, strict=True))
    )


def _detection_levels(architecture: Architecture) -> tuple[Level, ...]:
    """Return the last level of each stride that detectors use.

    Raises:
        RecipeError: there are not two of them.
    """
    levels = architecture.levels
    by_stride = {level.stride: level for level in levels if level.stride in DETECTION_STRIDES}
    if len(by_stride) > 1:
        return tuple(by_stride.values())
    if len({level.stride for level in levels}) == 1:
        raise RecipeError(
            f"timm model {architecture.name!r} is plain: all of its maps have stride "
            f"{levels[0].stride}, and a pyramid needs several; take vitdet_d2.backbones.ViT with "
            "SimpleFeaturePyramid for plain ViTs (docs/pretrained.md: it loads timm's weights), or "
            "give out_indices for maps of one stride"
        )
    raise RecipeError(
        f"timm model {architecture.name!r} has no two maps of strides 4, 8, 16, 32, which FPN "
        f"needs; its levels are {'; '.join(map(str, levels))}; choose with out_indices"
    )


def _require_argument(architecture: Architecture, argument: str, cure: str) -> None:
    """Refuse an option that the model's constructor lacks.

    Raises:
        RecipeError: it lacks it.
    """
    if argument not in architecture.arguments:
        raise RecipeError(
            f"timm model {architecture.name!r} has no option {argument}; {cure}, or take another "
            "model"
        )


def _size_arguments(architecture: Architecture, img_size: tuple[int, int] | None) -> dict[str, Any]:
    """Return what makes a model take images of any size, or of the given one.

    Raises:
        RecipeError: the model is fixed and no size is given, or it cannot have the given one.
    """
    name, made_for = architecture.name, architecture.made_for
    if not architecture.is_fixed:
        if img_size is not None:
            raise RecipeError(
                f"img_size={list(img_size)}: timm model {name!r} takes images of any size; leave "
                "img_size out (None)"
            )
        # Windows that are not clipped to the small maps of classification.
        options = ("dynamic_img_size", "always_partition")
        return {option: True for option in options if option in architecture.arguments}
    if img_size is None:
        may = "any" if "img_size" in architecture.arguments else "no other"
        raise RecipeError(
            f"timm model {name!r} takes images of one fixed size, by default {made_for[0]}x"
            f"{made_for[1]}, and it can be built for {may}; give img_size=(height, width) and pad "
            "images to it (FPN's square_pad), or take a model of any size, such as Swin or ConvNeXt"
        )
    if "img_size" in architecture.arguments:
        return {"img_size": img_size}
    if img_size != made_for:
        raise RecipeError(
            f"img_size={list(img_size)}: timm model {name!r} takes images of {made_for[0]}x"
            f"{made_for[1]} alone; give this size and pad images to it, or take another model"
        )
    return {}


def _require_weights(name: str) -> None:
    """Refuse a model that timm would leave with random weights.

    Raises:
        RecipeError: timm has no weights of it.
    """
    if not _require_name(name).has_weights:
        raise RecipeError(
            f"timm model {name!r}: timm has no pre-trained weights of it; set pretrained=False, or "
            "take one of timm.list_models(pretrained=True)"
        )

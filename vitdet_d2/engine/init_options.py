# SPDX-License-Identifier: Apache-2.0
"""``train.init_options``: how ``train.init_checkpoint`` is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast, get_args

from omegaconf import DictConfig, OmegaConf
from torch import nn

from vitdet_d2.atomic_write import atomic_write
from vitdet_d2.backbones.option_checks import nearest
from vitdet_d2.errors import RecipeError
from vitdet_d2.pretrained import LoadReport, load
from vitdet_d2.pretrained.choices import AbsentPositions, LayerScale, Statistics
from vitdet_d2.pretrained.patch_kernel import PatchResize

# In the run folder.
LOAD_REPORT = "load_report.json"


@dataclass(frozen=True, kw_only=True)
class InitOptions:
    """The arguments of `vitdet_d2.pretrained.load` that recipes set.

    Attributes:
        source: what the weights are, where neither their keys nor their name tell it.
        layer_scale: keep LayerScale, fold it into the layers before it, or (auto) keep it where the
            model has it.
        patch_resize: how the kernel of another patch size is resized.
        position_grid: ``(h, w)`` of the file's absolute positions in patches; None: a square.
        absent_positions: what absolute positions are where the file has none.
        allow_partial: whether less than 95 % of what the source can supply will do.
        normalisation: whose pixel statistics are used, the source's or the recipe's.
    """

    source: str | None = None
    layer_scale: LayerScale = "auto"
    patch_resize: PatchResize = "pinv"
    position_grid: tuple[int, int] | None = None
    absent_positions: AbsentPositions = "zeros"
    allow_partial: bool = False
    normalisation: Statistics = "source"

    def load(self, model: nn.Module, init_checkpoint: str) -> LoadReport:
        """Load first weights.

        Args:
            model: of the recipe.
            init_checkpoint: path, address or name.

        Raises:
            RecipeError: there is no such source.
            WeightsError: the weights cannot be read, or do not fit.
        """
        return load(
            model,
            init_checkpoint,
            source=self.source,
            layer_scale=self.layer_scale,
            patch_resize=self.patch_resize,
            position_grid=self.position_grid,
            absent_positions=self.absent_positions,
            allow_partial=self.allow_partial,
            normalisation=self.normalisation,
        )


def save_load_report(report: LoadReport, output_dir: Path) -> None:
    """Write what became of every tensor beside the run's other files, as JSON.

    Args:
        report: of the first weights.
        output_dir: an existing folder.

    Raises:
        OSError: the folder cannot be written to.
    """
    with atomic_write(output_dir / LOAD_REPORT) as file:
        file.write(json.dumps(report.to_dict(), indent=1).encode())


def read_init_options(cfg: DictConfig) -> InitOptions:
    """Read ``cfg.train.init_options``; what it lacks has its default.

    Args:
        cfg: a recipe.

    Raises:
        RecipeError: a key or a value is none.
    """
    key = "train.init_options"
    node = OmegaConf.select(cfg, key)
    given = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    if given is None:
        return InitOptions()
    if not isinstance(given, dict):
        raise RecipeError(f"{key}: expected a mapping, got {given!r}")
    names = [field.name for field in fields(InitOptions)]
    for name in given:
        if name not in names:
            raise RecipeError(
                f"{key}: there is no {name!r}{nearest(str(name), names)}; it has {', '.join(names)}"
            )
    given = {name: value for name, value in given.items() if value is not None}
    source, partial = given.get("source"), given.get("allow_partial", False)
    if source is not None and not isinstance(source, str):
        raise RecipeError(f"{key}.source: expected the name of a source or null, got {source!r}")
    if not isinstance(partial, bool):
        raise RecipeError(f"{key}.allow_partial: expected true or false, got {partial!r}")
    layer_scale = _choice(given, "layer_scale", get_args(LayerScale), "auto")
    patch_resize = _choice(given, "patch_resize", get_args(PatchResize), "pinv")
    positions = _choice(given, "absent_positions", get_args(AbsentPositions), "zeros")
    statistics = _choice(given, "normalisation", get_args(Statistics), "source")
    return InitOptions(
        source=source,
        layer_scale=cast(LayerScale, layer_scale),
        patch_resize=cast(PatchResize, patch_resize),
        position_grid=_grid(given.get("position_grid")),
        absent_positions=cast(AbsentPositions, positions),
        allow_partial=partial,
        normalisation=cast(Statistics, statistics),
    )


def _grid(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = value if isinstance(value, list) and len(value) == 2 else []
    # True is an integer in Python.
    if not sides or not all(type(side) is int and side > 0 for side in sides):
        raise RecipeError(
            "train.init_options.position_grid: expected [height, width] in patches or null, got "
            f"{value!r}"
        )
    return sides[0], sides[1]


def _choice(given: Mapping[Any, Any], name: str, choices: tuple[str, ...], default: str) -> str:
    value = given.get(name, default)
    if value not in choices:
        raise RecipeError(
            f"train.init_options.{name}: expected one of {', '.join(choices)}, got {value!r}"
        )
    return str(value)

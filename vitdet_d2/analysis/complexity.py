# SPDX-License-Identifier: Apache-2.0
"""What a recipe costs: counts, and measurements where it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vitdet_d2.analysis.detector_count import DetectorCount, count_detector, total
from vitdet_d2.analysis.job import Outcome, Part, Phase
from vitdet_d2.analysis.parts import TITLES, BackboneOnly
from vitdet_d2.analysis.published import PublishedRow
from vitdet_d2.errors import RecipeError
from vitdet_d2.zoo.recipe_names import ENDINGS

_AUGMENTATIONS = "dataloader.train.mapper.augmentations"
# A backward pass computes two products for every one of the forward pass.
TRAINING_STEP_FACTOR = 3


@dataclass(frozen=True, kw_only=True)
class Row:
    """One recipe.

    Attributes:
        recipe: as it was named.
        variant: the change that tells it from other rows of the same recipe, ``key=value``.
        part: the whole detector, or its backbone alone.
        batch: images of a measured run.
        count: None where it failed.
        measured: by phase; empty without measurements.
        error: why nothing was counted.
        published: what its authors reached with the recipe as it stands; None: not asked for, or
            nothing.
        own_size: ``(H, W)`` of the recipe's images, where `published` is there and they are known.
    """

    recipe: str
    variant: str | None = None
    part: Part
    batch: int
    count: DetectorCount | None = None
    measured: Mapping[Phase, Outcome] = field(default_factory=dict)
    error: str | None = None
    published: PublishedRow | None = None
    own_size: tuple[int, int] | None = None

    @property
    def title(self) -> str:
        """What the row is called in tables: the recipe's name, or that of its file, and variant."""
        path = Path(self.recipe)
        # Every run folder has its `config`.
        is_file = path.suffix in ENDINGS and path.stem != "config"
        name = path.stem if is_file else self.recipe
        return name if self.variant is None else f"{name} {self.variant}"

    @property
    def failures(self) -> list[str]:
        """What went wrong, each with the recipe's name."""
        reasons = [] if self.error is None else [f"{self.title}: {self.error}"]
        for phase, outcome in self.measured.items():
            if outcome.failure is not None:
                reasons.append(f"{self.title}, {phase}: {outcome.failure}")
        return reasons

    def describe(self) -> dict[str, Any]:
        """Return all that is known as plain data: numbers of single units, bytes and seconds."""
        facts: dict[str, Any] = {
            "recipe": self.recipe,
            "variant": self.variant,
            "part": self.part,
            "batch": self.batch,
            "error": self.error,
        }
        if self.count is not None:
            facts |= _describe_count(self.count)
        for phase, outcome in self.measured.items():
            facts[phase] = {**asdict(outcome), "failure": outcome.failure}
        if self.published is not None:
            size = None if self.own_size is None else "{}x{}".format(*self.own_size)
            facts["published"] = {**asdict(self.published), "size": size}
        return facts


def _describe_count(count: DetectorCount) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "image_size": list(count.image_size),
        "parameters": {"total": sum(count.parameters.values()), **count.parameters},
    }
    for phase, parts in (("test", count.test), ("train_forward", count.train)):
        whole = {"total": total(parts), **parts}
        for name in ("flops", "activations"):
            facts[f"{phase}_{name}"] = {part: getattr(w, name) for part, w in whole.items()}
    facts["train_step_flops"] = TRAINING_STEP_FACTOR * total(count.train).flops
    facts["padding_flops"] = total(count.test).padding_flops
    for name in ("test_regions", "train_regions"):
        regions = getattr(count, name)
        facts[name] = None if regions is None else asdict(regions)
    facts["notes"] = list(count.notes)
    return facts


def count_recipe(cfg: DictConfig, image_size: tuple[int, int] | None, part: Part) -> DetectorCount:
    """Count a recipe's model on the meta device.

    Args:
        cfg: with all overrides.
        image_size: ``(H, W)`` in pixels; None: the recipe's.
        part: the whole detector, or its backbone (with neck) alone.

    Raises:
        RecipeError: the model cannot be built or counted, or its image size is not known.
    """
    size = recipe_size(cfg) if image_size is None else image_size
    if part == "backbone":
        return count_detector(BackboneOnly(_without_memory(cfg.model.backbone)), size)
    return count_detector(_without_memory(cfg.model), size)


def _without_memory(node: DictConfig) -> nn.Module:
    """Build a model on the meta device."""
    try:
        with torch.device("meta"):
            return instantiate(node)
    except (RuntimeError, NotImplementedError):
        # One that computes with numbers as it is built, as Detectron2's own ViT does; if that is
        # not why it failed, it fails again.
        return instantiate(node).to("meta")


def recipe_size(cfg: DictConfig) -> tuple[int, int]:
    """Return the size of the images that a recipe trains on, in pixels.

    Args:
        cfg: reads ``model.backbone.square_pad``, ``data.image_size``, ``dataloader.image_size``,
            the ``crop_size`` of the last augmentation in training, and what images are resized to
            there, the largest shorter side by the longest: a wide image; the first that is there
            counts.

    Raises:
        RecipeError: it has none of them.
    """
    keys = ["model.backbone.square_pad", "data.image_size", "dataloader.image_size"]
    augmentations = OmegaConf.select(cfg, _AUGMENTATIONS)
    steps = list(augmentations) if OmegaConf.is_list(augmentations) else []
    if steps:
        keys.append(f"{_AUGMENTATIONS}.{len(steps) - 1}.crop_size")
    for key in keys:
        side = OmegaConf.select(cfg, key)
        if isinstance(side, int) and side > 0:
            return (side, side)
        if isinstance(side, Sequence) and len(side) == 2:
            return (int(side[0]), int(side[1]))
    resized = [size for step in steps if (size := _resized(step)) is not None]
    if resized:
        return resized[-1]
    raise RecipeError(
        "the recipe does not say how large its images are (model.backbone.square_pad or "
        "data.image_size); give --size, for example --size 1024 or --size 800x1333"
    )


def _resized(augmentation: DictConfig) -> tuple[int, int] | None:
    """Return the largest shorter side and the longest longer one; None of other augmentations."""
    short, longest = (augmentation.get(key) for key in ("short_edge_length", "max_size"))
    if short is None or not isinstance(longest, int):
        return None
    return (max(short) if isinstance(short, Sequence) else int(short), longest)


def columns(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return rows with one value per column, for a file that spreadsheets read.

    Args:
        rows: in any state.

    Returns:
        A mapping for every row, all with the same keys in the same order; None where there is no
        value.
    """
    flat = [_flatten(row.describe()) for row in rows]
    known = dict.fromkeys(name for facts in flat for name in facts)
    return [{name: facts.get(name) for name in known} for facts in flat]


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}_")
        elif name == "image_size":
            flat |= {"height": value[0], "width": value[1]}
        elif isinstance(value, list):
            flat[f"{prefix}{name}"] = "; ".join(value)
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def used_parts(rows: Sequence[Row]) -> list[str]:
    """Return the parts that any row has, in the order of tables.

    Args:
        rows: counted or not.
    """
    counts = [row.count for row in rows if row.count is not None]
    return [part for part in TITLES if any(part in count.parameters for count in counts)]

# SPDX-License-Identifier: Apache-2.0
"""What a state dict is, told from names and shapes alone, and which recipe is for it.

Vocabulary: size: a row of ``VIT_SIZES``; family: a recipe's name without its size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vitdet_d2.backbones.sizes import VIT_SIZES
from vitdet_d2.zoo.catalogue import NUM_CLASSES
from vitdet_d2.zoo.recipe_names import recipe_names

STEM = "patch_embed.proj.weight"

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")
# Of a single box head, or of the first stage of a cascade.
_CLASS_SCORES = re.compile(r"(?:^|\.)box_predictor\.(?P<stage>0\.)?cls_score\.weight$")
_DATASETS = {count: name for name, count in NUM_CLASSES.items()}


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a file or a model is.

    Attributes:
        width: channels of its ViT; 0 where it has none.
        depth: blocks of its ViT.
        patch: side of a patch in pixels.
        num_classes: categories it tells apart; None: it has no box head.
        cascade: its box head has stages.
        masks: it has a mask head.
    """

    width: int
    depth: int
    patch: int
    num_classes: int | None
    cascade: bool
    masks: bool

    def __str__(self) -> str:
        """Describe the backbone."""
        if not self.width:
            return "no ViT"
        return f"ViT of width {self.width}, depth {self.depth}, patch {self.patch}"

    @property
    def size(self) -> str | None:
        """The size with this width and depth, if there is one."""
        for name, size in VIT_SIZES.items():
            if (size.embed_dim, size.depth) == (self.width, self.depth):
                return name
        return None

    @property
    def closest_size(self) -> str:
        """The size nearest in width, then in depth."""

        def distance(name: str) -> tuple[int, int]:
            size = VIT_SIZES[name]
            return abs(size.embed_dim - self.width), abs(size.depth - self.depth)

        return min(VIT_SIZES, key=distance)

    @property
    def dataset(self) -> str | None:
        """The data set with this number of classes, ``coco`` or ``lvis``, if it is one of them."""
        return None if self.num_classes is None else _DATASETS.get(self.num_classes)

    @property
    def family(self) -> str | None:
        """The family of recipes with such heads for such data; None: no box head."""
        if self.num_classes is None:
            return None
        head = ("cascade_" if self.cascade else "") if self.masks else "faster_rcnn_"
        return ("lvis_" if self.dataset == "lvis" else "") + head + "vitdet"

    def recipe(self, family: str | None = None) -> str | None:
        """Return the recipe for these weights, if there is one.

        Args:
            family: of recipes; None: of its own heads.
        """
        name = f"{family or self.family}_{self.size}"
        return name if name in recipe_names() else None


def identify(state: Mapping[str, Tensor]) -> Identity:
    """Tell what a state dict is.

    Args:
        state: of a detector, or of a bare ViT.
    """
    stem = next((v for name, v in state.items() if name.endswith(STEM) and v.dim() == 4), None)
    blocks = {number for name in state for number in _BLOCK.findall(name)}
    num_classes, cascade = None, False
    for name, value in state.items():
        found = _CLASS_SCORES.search(name)
        if found and value.dim() == 2:
            num_classes = value.shape[0] - 1  # the last row is the background
            cascade = found["stage"] is not None
    return Identity(
        width=0 if stem is None else stem.shape[0],
        depth=len(blocks),
        patch=0 if stem is None else stem.shape[-1],
        num_classes=num_classes,
        cascade=cascade,
        masks=any(".mask_head." in name for name in state),
    )


def size_advice(file: Identity, model: Identity) -> str:
    """Say which recipe takes weights that do not fit a model.

    Args:
        file: what the weights are.
        model: what the recipe made.
    """
    if not file.width:
        return "take the recipe that these weights are for"
    if (file.width, file.depth, file.patch) == (model.width, model.depth, model.patch):
        return (
            "the sizes are the same, so the file is incomplete, or of a ViT with other options; "
            "take the recipe that these weights are for"
        )
    closest = VIT_SIZES[file.closest_size]
    label = f"ViT-{file.closest_size.capitalize()} ({closest.embed_dim}/{closest.depth})"
    if file.size is None:
        return f"the closest size is {label}; take the recipe that these weights are for"
    # A bare encoder goes below any heads: those of the model stay.
    recipe = file.recipe() if file.family else file.recipe(model.family)
    advice = f"the shapes are those of {label}"
    if recipe is None or recipe == model.recipe():
        return f"{advice}; take the recipe that these weights are for"
    return f"{advice}: use --config-file {recipe}"


def classes_advice(file: Identity, model: Identity) -> str:
    """Say what to do with weights of other classes.

    Args:
        file: what the weights are.
        model: what the recipe made; the numbers of classes differ.
    """
    theirs, ours = _classes(file), _classes(model)
    recipe = file.recipe() if file.dataset else None
    if file.dataset and model.dataset:
        cure = f"use --config-file {recipe}" if recipe else "take the recipe that they are for"
        return (
            f"these are {file.dataset.upper()} weights ({theirs}) under a {model.dataset.upper()} "
            f"recipe ({ours}); {cure}, or weights of this recipe"
        )
    return (
        f"the file has {theirs}, the recipe {ours}; evaluate on the data set it was trained on"
        f"{f' with --config-file {recipe}' if recipe else ''}, or set "
        f"model.roi_heads.num_classes={file.num_classes}"
    )


def _classes(identity: Identity) -> str:
    recipe = identity.recipe() if identity.dataset else None
    return f"{identity.num_classes} classes" + (f": {recipe}" if recipe else "")

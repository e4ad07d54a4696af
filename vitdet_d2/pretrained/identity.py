# SPDX-License-Identifier: Apache-2.0
"""What a state dict is, told from names and shapes alone, and which recipe is for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vitdet_d2.pretrained.comparison_trunk import comparison_trunk
from vitdet_d2.pretrained.plain_trunk import plain_trunk
from vitdet_d2.pretrained.pyramid_trunk import pyramid_trunk
from vitdet_d2.pretrained.trunk import Heads, Trunk
from vitdet_d2.zoo.catalogue import NUM_CLASSES
from vitdet_d2.zoo.recipe_names import recipe_names

# Of a single box head, or of the first stage of a cascade.
_CLASS_SCORES = re.compile(r"(?:^|\.)box_predictor\.(?P<stage>0\.)?cls_score\.weight$")
# Of RetinaNet, whose rows are one for each anchor and class, or anchor and side of a box.
_DENSE_SCORES, _DENSE_BOXES = "head.cls_score.weight", "head.bbox_pred.weight"
_DATASETS = {count: name for name, count in NUM_CLASSES.items()}


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a file or a model is.

    Attributes:
        trunk: its backbone; None: of no family that we know.
        heads: its heads; None: it has none, and is a backbone.
    """

    trunk: Trunk | None
    heads: Heads | None

    def __str__(self) -> str:
        """Describe the backbone."""
        return "no backbone of a known family" if self.trunk is None else str(self.trunk)

    @property
    def num_classes(self) -> int | None:
        """How many categories it tells apart; None: it has no heads."""
        return None if self.heads is None else self.heads.num_classes

    @property
    def dataset(self) -> str | None:
        """The data set with this number of classes, ``coco`` or ``lvis``, if it is one of them."""
        return None if self.heads is None else self.heads.dataset

    @property
    def family(self) -> str | None:
        """The family of recipes with such heads for such data; None: there is none."""
        if self.trunk is None or self.heads is None:
            return None
        return self.trunk.recipe_family(self.heads)

    def recipe(self, heads: Heads | None = None) -> str | None:
        """Return the recipe for these weights, if there is one.

        Args:
            heads: that the recipe should have; None: its own.
        """
        heads = heads or self.heads
        if self.trunk is None or heads is None:
            return None
        name = f"{self.trunk.recipe_family(heads)}_{self.trunk.size}"
        return name if name in recipe_names() else None


def identify(state: Mapping[str, Tensor]) -> Identity:
    """Tell what a state dict is.

    Args:
        state: of a detector, or of a bare backbone.
    """
    # A Swin and an MViTv2 have the first kernel of a plain ViT, too.
    trunk = comparison_trunk(state) or plain_trunk(state) or pyramid_trunk(state)
    return Identity(trunk=trunk, heads=_heads(state))


def _heads(state: Mapping[str, Tensor]) -> Heads | None:
    scores, boxes = state.get(_DENSE_SCORES), state.get(_DENSE_BOXES)
    if scores is not None and boxes is not None and boxes.dim() == scores.dim() == 4:
        num_classes = 4 * scores.shape[0] // max(boxes.shape[0], 1)
        return Heads(num_classes=num_classes, dataset=_DATASETS.get(num_classes), dense=True)
    heads = None
    for name, value in state.items():
        found = _CLASS_SCORES.search(name)
        if found and value.dim() == 2:
            num_classes = value.shape[0] - 1  # the last row is the background
            heads = Heads(
                num_classes=num_classes,
                dataset=_DATASETS.get(num_classes),
                cascade=found["stage"] is not None,
                masks=any(".mask_head." in other for other in state),
            )
    return heads


def size_advice(file: Identity, model: Identity) -> str:
    """Say which recipe takes weights that do not fit a model.

    Args:
        file: what the weights are.
        model: what the recipe made.
    """
    if file.trunk is None:
        return "take the recipe that these weights are for"
    if file.trunk == model.trunk:
        return (
            "the sizes are the same, so the file is incomplete, or of a model with other options; "
            "take the recipe that these weights are for"
        )
    if file.trunk.size is None:
        return (
            f"the closest size is {file.trunk.closest}; take the recipe that these weights are for"
        )
    # A bare encoder goes below any heads: those of the model stay.
    recipe = file.recipe() if file.heads else file.recipe(model.heads)
    advice = f"the shapes are those of {file.trunk.closest}"
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
    is_dense = model.heads is not None and model.heads.dense
    key = "model.num_classes" if is_dense else "model.roi_heads.num_classes"
    if file.dataset and model.dataset:
        cure = f"use --config-file {recipe}" if recipe else "take the recipe that they are for"
        return (
            f"these are {file.dataset.upper()} weights ({theirs}) under a {model.dataset.upper()} "
            f"recipe ({ours}); {cure}, or weights of this recipe"
        )
    return (
        f"the file has {theirs}, the recipe {ours}; evaluate on the data set it was trained on"
        f"{f' with --config-file {recipe}' if recipe else ''}, or set "
        f"{key}={file.num_classes}"
    )


def _classes(identity: Identity) -> str:
    recipe = identity.recipe() if identity.dataset else None
    return f"{identity.num_classes} classes" + (f": {recipe}" if recipe else "")

# SPDX-License-Identifier: Apache-2.0
"""Whole detectors with the parts of our ViT that Detectron2's lacks and arithmetic can remove.

LayerScale is folded into the layers before it, and biases of queries and values get keys of zero
between them. The recipe in the entry follows, so that it still builds the model of the file.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from vitdet_d2.pretrained.fit import fold_factor
from vitdet_d2.pretrained.only_ours import names_only_ours, recipe_only_ours, refuse_only_ours

Entry = dict[str, Any]


def detector_for_detectron2(
    path: str, tensors: dict[str, Tensor], entry: Entry
) -> tuple[dict[str, Tensor], Entry, int]:
    """Return a detector as Detectron2 can build it.

    Args:
        path: of the file, for messages.
        tensors: by the model's names.
        entry: what the file says of itself; checked.

    Returns:
        Its tensors, its entry, and the number of factors that were folded.

    Raises:
        WeightsError: Detectron2 cannot build such a model.
    """
    recipe = _recipe_of(entry)
    lacks = {**names_only_ours(tensors), **recipe_only_ours(recipe.get("model"))}
    refuse_only_ours(path, "the backbone of this detector", lacks)
    tensors, entry, folded = fold_detector(tensors, entry)
    joined = _join_biases(tensors)
    if joined:
        entry = _with_option(entry, "qkv_bias", True)
    return tensors, entry, folded


def fold_detector(tensors: dict[str, Tensor], entry: Entry) -> tuple[dict[str, Tensor], Entry, int]:
    """Return a detector whose ViT has no LayerScale, and the same features.

    Args:
        tensors: by the model's names.
        entry: what the file says of itself; checked.

    Returns:
        Its tensors, its entry, and the number of factors that were folded.
    """
    tensors = dict(tensors)
    factors = [name for name in tensors if name.endswith((".ls1.gamma", ".ls2.gamma"))]
    for name in factors:
        fold_factor(tensors, name)
    return (
        tensors,
        _with_option(entry, "layer_scale_init", None) if factors else entry,
        len(factors),
    )


def _join_biases(tensors: dict[str, Tensor]) -> bool:
    """Put biases of queries and values into one, whose part for the keys is zero."""
    stems = [name.removesuffix("q_bias") for name in tensors if name.endswith(".attn.q_bias")]
    stems = [stem for stem in stems if stem + "v_bias" in tensors]
    for stem in stems:
        query, value = tensors.pop(stem + "q_bias"), tensors.pop(stem + "v_bias")
        tensors[stem + "qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    return bool(stems)


def _recipe_of(entry: Entry) -> dict[str, Any]:
    recipe = json.loads(entry.get("recipe") or "{}")
    assert isinstance(recipe, dict), "the entry is checked"
    return recipe


def _with_option(entry: Entry, option: str, value: Any) -> Entry:
    """Set an option of the ViT in the recipe, wherever it stands below the model."""
    if not entry.get("recipe"):
        return entry
    recipe = _recipe_of(entry)
    pending = [recipe.get("model")]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if option in node:
                node[option] = value
            pending += node.values()
        elif isinstance(node, list):
            pending += node
    return {**entry, "recipe": json.dumps(recipe, indent=1) + "\n"}

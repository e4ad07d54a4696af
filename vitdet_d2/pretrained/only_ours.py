# SPDX-License-Identifier: Apache-2.0
"""What our models can be and Detectron2's cannot: seen in names, and in what no tensor shows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.source import Needs

# Part of a name, and what it is.
_PARTS = {
    "relative_position_bias_table": "biases of relative positions",
    "rel_pos_bias_window": "biases of relative positions",
    "rel_pos_bias_global": "biases of relative positions",
    "norm_pre.": "a norm before the blocks",
    ".mlp.w1.": "gated perceptrons",
    ".mlp.ffn_ln.": "norms in its perceptrons",
}
# Of convolutional blocks, Detectron2's alone have a third layer.
_CONVOLUTION, _BOTTLENECK = ".residual.conv1.", ".residual.conv3."
# Those of our classes in a model's backbone whose names and numbers are Detectron2's.
_SAME_CLASSES = ("ViT", "SimpleFeaturePyramid")


def names_only_ours(names: Collection[str]) -> dict[str, str]:
    """Return what tensors show: in words, each with one of its names.

    Args:
        names: of an encoder, or of a detector.
    """
    found: dict[str, str] = {}
    for part, words in _PARTS.items():
        name = next((name for name in names if part in name), None)
        if name is not None:
            found.setdefault(words, name)
    block = next((name for name in names if _CONVOLUTION in name), None)
    if block is not None and not any(_BOTTLENECK in name for name in names):
        found["convolutional blocks other than bottlenecks"] = block
    return found


def facts_only_ours(needs: Needs) -> dict[str, str]:
    """Return what an encoder was trained with: in words, with the option of our ViT.

    Args:
        needs: of the encoder.
    """
    found = {}
    if needs.rope is not None:
        found[f"{needs.rope} rotary positions"] = f"rope={needs.rope}"
    if needs.act == "quick_gelu":
        found["QuickGELU"] = f"act={needs.act}"
    return found


def recipe_only_ours(model: Any) -> dict[str, str]:
    """Return what a recipe asks for: in words, with the key.

    Args:
        model: the node ``model`` of a recipe, as `recipe_json` writes it.
    """
    found: dict[str, str] = {}
    backbone = model.get("backbone") if isinstance(model, dict) else None
    if not isinstance(backbone, dict):
        return found
    net = backbone.get("net")
    nodes = {"model.backbone": backbone} | (
        {"model.backbone.net": net} if isinstance(net, dict) else {}
    )
    for key, node in nodes.items():
        target = str(node.get("_target_"))
        package, name = target.partition(".")[0], target.rpartition(".")[2]
        if package == "vitdet_d2" and name not in _SAME_CLASSES:
            found[name[:80]] = f"{key}._target_"
        for words, option in _options_only_ours(node):
            found[words] = f"{key}.{option}"
    return found


def _options_only_ours(node: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    if node.get("rope") is not None:
        found.append(("rotary positions", "rope"))
    if node.get("act") not in (None, "gelu"):
        found.append((f"the activation {str(node['act'])[:40]}", "act"))
    if node.get("cross_window") == "shifted":
        found.append(("shifted windows", "cross_window"))
    if node.get("out_block_indexes"):
        found.append(("maps of several blocks", "out_block_indexes"))
    return found


def refuse_only_ours(path: str, title: str, lacks: Mapping[str, str]) -> None:
    """Refuse what Detectron2's models cannot be.

    Args:
        path: of the file, for messages.
        title: what the weights are.
        lacks: what Detectron2 has not, in words, each with where it is seen.

    Raises:
        WeightsError: there is any.
    """
    if not lacks:
        return
    named = ", ".join(f"{words} ({where})" for words, where in lacks.items())
    raise WeightsError(
        f"{path}: Detectron2's ViT cannot be {title}: it has no {named}; convert it with --to "
        "vitdet, and use our ViT"
    )

# SPDX-License-Identifier: Apache-2.0
"""From other people's names of Swin and MViTv2 to those of `TimmBackbone`.

Detectron2's classes, and the official classification models, differ from timm in where a stage
begins: their Swin counts the merging of patches to the end of a stage, timm to the start of the
next one, and their MViTv2 counts its blocks through all stages.

Source: detectron2/modeling/backbone/{swin,mvit}.py at 02b5c4e, microsoft/Swin-Transformer and
facebookresearch/mvit on GitHub; all names measured on their models.
"""

from __future__ import annotations

from timm.models.mvitv2 import MultiScaleVit
from timm.models.swin_transformer import SwinTransformer

from vitdet_d2.backbones import TimmBackbone
from vitdet_d2.pretrained.key_table import KeyTable

# Of classification alone; the class token is left out by detectors, and indexes are rebuilt.
_CLASSIFICATION: KeyTable = {
    "norm.{rest}": None,
    "head.{rest}": None,
    "cls_token": None,
    "layers.{n}.blocks.{m}.attn.relative_position_index": None,
    "layers.{n}.blocks.{m}.attn_mask": None,
}


def detectron2_table(backbone: TimmBackbone) -> KeyTable | None:
    """Return the table for names of Detectron2's class, or of the official classification model.

    Args:
        backbone: that takes the weights.

    Returns:
        None: Detectron2 has no class of this architecture.
    """
    kind = type(backbone.net)
    if kind is SwinTransformer:
        return {**_CLASSIFICATION, **_swin_table(len(backbone.net.layers))}
    if kind is MultiScaleVit:
        depths = [len(stage.blocks) for stage in backbone.net.stages]
        return {**_CLASSIFICATION, **_mvit_table(depths)}
    return None


def _swin_table(num_stages: int) -> KeyTable:
    merging = {
        f"layers.{stage}.downsample.{{rest}}": f"net.layers.{stage + 1}.downsample.{{rest}}"
        for stage in range(num_stages - 1)
    }
    return {
        **merging,
        "patch_embed.{rest}": "net.patch_embed.{rest}",
        "layers.{n}.blocks.{m}.{rest}": "net.layers.{n}.blocks.{m}.{rest}",
        "norm{n}.{rest}": "norm{n}.{rest}",
    }


def _mvit_table(depths: list[int]) -> KeyTable:
    table: dict[str, str] = {"patch_embed.{rest}": "net.patch_embed.{rest}"}
    number = 0
    for stage, depth in enumerate(depths):
        for block in range(depth):
            ours = f"net.stages.{stage}.blocks.{block}"
            table[f"blocks.{number}.proj.{{rest}}"] = f"{ours}.shortcut_proj_attn.{{rest}}"
            table[f"blocks.{number}.{{rest}}"] = f"{ours}.{{rest}}"
            number += 1
        table[f"scale{stage + 2}_norm.{{rest}}"] = f"norm{stage}.{{rest}}"
    return table

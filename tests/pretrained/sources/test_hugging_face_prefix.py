# SPDX-License-Identifier: Apache-2.0
"""All tokens of transformers' models, in their own forward pass, against our blocks on one row.

Of the models whose whole features are no plain comparison: ViTMAE shuffles its patches, BEiT and
data2vec have biases, DINOv3 rotations, of the patches alone.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.pretrained.golden import TOLERANCE, patch_features, prefix_features
from tests.pretrained.sources.attention import full_bias, run_block
from tests.pretrained.sources.hugging_face_models import CASES, IMAGE, PATCH, SIDE, layers_of
from tests.pretrained.sources.test_hugging_face import build_vit, on_disk
from vitdet_d2.pretrained import load

GRID = SIDE // PATCH
NAMES = (
    "vit_mae",
    "vit_mae_pretraining",
    "beit_per_layer",
    "beit_shared",
    "data2vec",
    "dinov3",
    "dinov3_gated",
)


@cache
def _whole(name: str) -> tuple[Any, Tensor]:
    """Return an encoder, and what its last block makes of all tokens, patches in their order."""
    model = CASES[name].make()
    encoder = CASES[name].encoder(model)
    seen: list[Tensor] = []
    handle = layers_of(encoder)[-1].register_forward_hook(
        lambda module, inputs, output: seen.append(
            output[0] if isinstance(output, tuple) else output
        )
    )
    if name == "vit_mae_pretraining":
        encoder.config.mask_ratio = 0.0
    with torch.no_grad():
        output = encoder(IMAGE)
    handle.remove()
    tokens = seen[0][0]
    if name.startswith("vit_mae"):
        tokens = torch.cat([tokens[:1], tokens[1:][output.ids_restore[0]]])
    return encoder, tokens


def _prefix(encoder: Any) -> Tensor:
    embeddings = encoder.embeddings
    first = embeddings.cls_token[0]
    positions = getattr(embeddings, "position_embeddings", None)
    if positions is not None:
        first = first + positions[0, :1]
    registers = getattr(embeddings, "register_tokens", None)
    return first if registers is None else torch.cat([first, registers[0]])


def _biases(encoder: Any, depth: int) -> list[Tensor | None]:
    tables = [v for n, v in encoder.state_dict().items() if n.endswith("position_bias_table")]
    if not tables:
        return [None] * depth
    return [full_bias(table, GRID) for table in (tables * depth)[:depth]]


def _angles(encoder: Any) -> tuple[Tensor, Tensor] | None:
    return encoder.rope_embeddings(IMAGE) if hasattr(encoder, "rope_embeddings") else None


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_all_tokens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    vit = build_vit(name)
    load(vit, on_disk(name, tmp_path))
    encoder, expected = _whole(name)
    biases = dict(zip(vit.blocks, _biases(encoder, len(vit.blocks)), strict=True))
    angles = _angles(encoder)

    def run(block: nn.Module, x: Tensor) -> Tensor:
        return run_block(block, x, biases[block], angles)

    prefix = _prefix(encoder)
    found = prefix_features(vit, IMAGE, prefix, run)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
    # Otherwise the comparison of the patches alone could stand for this one.
    assert (found[len(prefix) :] - patch_features(vit, IMAGE)).abs().max() > 100 * TOLERANCE

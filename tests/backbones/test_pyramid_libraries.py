# SPDX-License-Identifier: Apache-2.0
"""PVT v2 and MiT give what timm's and Hugging Face's classes give."""

import re

import pytest
import torch
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from torch import nn
from transformers import SegformerConfig, SegformerModel

from tests.backbones.pyramid_case import TINY, images, make

TIMM_NAMES = [
    (r"^patch_embed1\.", "patch_embed."),
    (r"^patch_embed(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.downsample."),
    (r"^block(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks."),
    (r"^norm(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.norm."),
    (r"dwconv\.dwconv", "dwconv"),
]
SEGFORMER_NAMES = [
    (r"^patch_embed(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.patch_embeddings."),
    (r"^block(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks."),
    (r"^norm(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.layer_norm."),
    (r"patch_embeddings\.norm", "patch_embeddings.layer_norm"),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.(sr|norm)\.", r".attention.sequence_reduction.\1."),
    (r"reduction\.sr", "reduction.sequence_reduction"),
    (r"reduction\.norm", "reduction.layer_norm"),
    (r"\.attn\.(q|proj)\.", lambda m: f".attention.{'q' if m[1] == 'q' else 'o'}_proj."),
]


def renamed(state, names):
    result = {}
    for key, value in state.items():
        for pattern, replacement in names:
            key = re.sub(pattern, replacement, key)
        result[key] = value
    return result


@pytest.mark.parametrize("hw", [(64, 96), (77, 101)])
@pytest.mark.parametrize("linear", [False, True])
def test_pvt_v2_matches_timm(linear, hw):
    ours = make("pvt_v2", linear=linear)
    theirs = PyramidVisionTransformerV2(**TINY, linear=linear, num_classes=0).double().eval()
    theirs.load_state_dict(renamed(ours.state_dict(), TIMM_NAMES))
    with torch.no_grad():
        expected = theirs.forward_intermediates(images(*hw), intermediates_only=True)
        for actual, value in zip(ours(images(*hw)).values(), expected, strict=True):
            torch.testing.assert_close(actual, value)


@pytest.mark.parametrize("hw", [(64, 96), (77, 101)])
def test_mit_matches_hugging_face(hw):
    ours = make("mit")
    theirs = SegformerModel(
        SegformerConfig(
            hidden_sizes=TINY["embed_dims"],
            depths=TINY["depths"],
            num_attention_heads=TINY["num_heads"],
            sr_ratios=TINY["sr_ratios"],
            mlp_ratios=(4, 4, 4, 4),
        )
    )
    state = renamed(ours.state_dict(), SEGFORMER_NAMES)
    for key in [key for key in state if ".attn.kv." in key]:
        halves = state.pop(key).chunk(2)
        for kind, half in zip("kv", halves, strict=True):
            state[key.replace("attn.kv", f"attention.{kind}_proj")] = half
    theirs.double().eval().load_state_dict(state)
    # Theirs has one eps, 1e-5, for all norms; the released models were trained with these.
    for name, module in theirs.named_modules():
        if isinstance(module, nn.LayerNorm):
            is_inner = "patch_embeddings" in name or "sequence_reduction" in name
            module.eps = 1e-5 if is_inner else 1e-6
    with torch.no_grad():
        expected = theirs(images(*hw), output_hidden_states=True).hidden_states
        maps = list(ours(images(*hw)).values())
        for actual, value in zip(maps, expected[-4:], strict=True):
            torch.testing.assert_close(actual, value)

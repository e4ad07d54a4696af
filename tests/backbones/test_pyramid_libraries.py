# SPDX-License-Identifier: Apache-2.0
"""PVT v1, PVT v2 and MiT give what timm's and Hugging Face's classes give."""

import re

import pytest
import torch
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from torch import nn
from transformers import (
    PvtConfig,
    PvtModel,
    PvtV2Backbone,
    PvtV2Config,
    SegformerConfig,
    SegformerModel,
)

from tests.backbones.pyramid_case import FAMILY, TINY, images, make

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
    (r"\.attn\.([qkv])\.", r".attention.\1_proj."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
]
PVT_V2_NAMES = [
    (r"^patch_embed(\d)\.", lambda m: f"encoder.layers.{int(m[1]) - 1}.patch_embedding."),
    (r"^block(\d)\.", lambda m: f"encoder.layers.{int(m[1]) - 1}.blocks."),
    (r"^norm(\d)\.", lambda m: f"encoder.layers.{int(m[1]) - 1}.layer_norm."),
    (r"(patch_embedding|attn)\.norm", r"\1.layer_norm"),
    (r"\.norm([12])\.", r".layer_norm_\1."),
    (r"\.fc([12])\.", r".dense\1."),
    (r"\.attn\.sr\.", ".attn.spatial_reduction."),
    (r"\.attn\.([qkv])\.", lambda m: f".attn.{WORDS[m[1]]}."),
    (r"\.attn\.", ".attention."),
]
PVT_NAMES = [
    (r"^pos_embed(\d)", lambda m: f"patch_embed{m[1]}.position_embeddings"),
    (r"^patch_embed(\d)\.", lambda m: f"encoder.patch_embeddings.{int(m[1]) - 1}."),
    (r"^block(\d)\.", lambda m: f"encoder.block.{int(m[1]) - 1}."),
    (r"(patch_embeddings\.\d)\.proj", r"\1.projection"),
    (r"(patch_embeddings\.\d|attn)\.norm", r"\1.layer_norm"),
    (r"\.norm([12])\.", r".layer_norm_\1."),
    (r"\.fc([12])\.", r".dense\1."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.sr\.", ".attn.sequence_reduction."),
    (r"\.attn\.([qkv])\.", lambda m: f".attn.{WORDS[m[1]]}."),
    (r"\.attn\.", ".attention.self."),
]
WORDS = {"q": "query", "k": "key", "v": "value"}


def renamed(state, names):
    result = {}
    for key, value in state.items():
        for pattern, replacement in names:
            key = re.sub(pattern, replacement, key)
        result[key] = value
    return result


def load(theirs, ours, names):
    """Give a model of Hugging Face our weights, and the epsilons of the released models.

    Theirs has one for all norms.
    """
    state = ours.state_dict()
    for key in [key for key in state if ".attn.kv." in key]:
        for kind, half in zip("kv", state.pop(key).chunk(2), strict=True):
            state[key.replace(".kv.", f".{kind}.")] = half
    result = theirs.double().eval().load_state_dict(renamed(state, names), strict=False)
    assert not result.unexpected_keys
    for name, module in theirs.named_modules():
        if isinstance(module, nn.LayerNorm):
            is_inner = any(part in name for part in ("patch_embedding", "attention", "reduction"))
            module.eps = 1e-5 if is_inner else 1e-6
    return set(result.missing_keys)


def config(kind, name, **arguments):
    return kind(
        hidden_sizes=TINY["embed_dims"],
        depths=TINY["depths"],
        num_attention_heads=TINY["num_heads"],
        mlp_ratios=FAMILY[name][1].get("mlp_ratios", TINY["mlp_ratios"]),
        **arguments,
    )


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
    theirs = SegformerModel(config(SegformerConfig, "mit", sr_ratios=TINY["sr_ratios"]))
    assert not load(theirs, ours, SEGFORMER_NAMES)
    with torch.no_grad():
        expected = theirs(images(*hw), output_hidden_states=True).hidden_states
        maps = list(ours(images(*hw)).values())
        for actual, value in zip(maps, expected[-4:], strict=True):
            torch.testing.assert_close(actual, value)


@pytest.mark.parametrize("linear", [False, True])
def test_pvt_v2_matches_hugging_face(linear):
    ours = make("pvt_v2", linear=linear)
    theirs = PvtV2Backbone(
        config(
            PvtV2Config,
            "pvt_v2",
            sr_ratios=TINY["sr_ratios"],
            linear_attention=linear,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )
    )
    assert not load(theirs, ours, PVT_V2_NAMES)
    with torch.no_grad():
        expected = theirs(images(77, 101)).feature_maps
        for actual, value in zip(ours(images(77, 101)).values(), expected, strict=True):
            torch.testing.assert_close(actual, value)


def test_pvt_matches_hugging_face():
    """At the size of pre-training alone: theirs cannot resize positions. Without class token."""
    ours = make("pvt")
    theirs = PvtModel(
        config(PvtConfig, "pvt", sequence_reduction_ratios=TINY["sr_ratios"], image_size=64)
    )
    missing = load(theirs, ours, PVT_NAMES)
    assert missing == {
        "encoder.patch_embeddings.3.cls_token",
        "encoder.layer_norm.weight",
        "encoder.layer_norm.bias",
    }
    last = theirs.encoder.patch_embeddings[3]
    last.cls_token = None
    last.position_embeddings = nn.Parameter(last.position_embeddings[:, 1:])
    ends = torch.tensor(TINY["depths"]).cumsum(0) - 1
    with torch.no_grad():
        blocks = theirs(images(64, 64), output_hidden_states=True).hidden_states
        for end, actual in zip(ends.tolist(), ours(images(64, 64)).values(), strict=True):
            torch.testing.assert_close(actual.flatten(2).transpose(1, 2), blocks[end])

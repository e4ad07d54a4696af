# SPDX-License-Identifier: Apache-2.0
"""DINOv2, DINOv3, CLIP, SigLIP and SAM as timm stores them, against timm's own classes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from timm.layers import SwiGLUPacked
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn

from tests.pretrained.encoder_vit import read_encoder, vit_of
from tests.pretrained.golden import TOLERANCE, fill_model, image, patch_features
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.normalisation import CLIP, HALF, IMAGENET

SMALL: dict[str, Any] = {"img_size": 48, "embed_dim": 32, "depth": 2, "num_heads": 2}
EPS = partial(nn.LayerNorm, eps=1e-5)


@torch.no_grad()
def timm_features(model: nn.Module, num_prefix: int, side: int = 48) -> Tensor:
    """Run the patch tokens alone through a plain ViT of timm."""
    x = model.patch_embed(image(side, side)) + model.pos_embed[:, num_prefix:]
    x = model.norm_pre(x)
    for block in model.blocks:
        x = block(x)
    return x[0]


def assert_same(vit: nn.Module, expected: Tensor, side: int = 48) -> None:
    """Compare our ViT with what timm's gave."""
    found = patch_features(vit, image(side, side))
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_dinov2_matches_timm(registers: int, gated: bool):
    gate = {"mlp_ratio": 5.34, "mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if gated else {}
    model = VisionTransformer(
        **{**SMALL, "img_size": 42, "patch_size": 14}, num_classes=0, init_values=1.0,
        reg_tokens=registers, no_embed_class=registers > 0, **gate,
    ).eval()  # fmt: skip
    encoder = read_encoder(fill_model(model))
    # Without registers and gates, keys are those of other ViTs with LayerScale.
    assert encoder.source.name == ("dinov2" if registers or gated else "plain")
    assert encoder.num_prefix == (0 if registers else 1)
    expected = timm_features(model, encoder.num_prefix, side=42)
    assert_same(vit_of(encoder, num_heads=2), expected, side=42)
    assert read_encoder(fill_model(model), "dinov2").normalisation == IMAGENET


@pytest.mark.parametrize("bias", [False, True], ids=["no_bias", "qv_bias"])
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_dinov3_matches_timm(bias: bool, gated: bool):
    model = Eva(
        **SMALL, num_classes=0, qkv_bias=bias, init_values=1.0, rope_type="dinov3",
        rope_temperature=100, rope_rotate_half=True, use_rot_pos_emb=True, use_abs_pos_emb=False,
        num_reg_tokens=4, use_fc_norm=False, norm_layer=EPS, dynamic_img_size=True,
        swiglu_mlp=gated, swiglu_align_to=8,
    ).eval()  # fmt: skip
    encoder = read_encoder(fill_model(model))
    assert (encoder.source.name, encoder.needs.eps, encoder.needs.rope) == ("dinov3", 1e-5, "half")
    with torch.no_grad():
        x = model.patch_embed(image(48, 48)).flatten(1, 2)
        rope = model.rope.get_embed((3, 3))
        for block in model.blocks:
            block.attn.num_prefix_tokens = 0
            x = block(x, rope=rope)
    assert_same(vit_of(encoder, num_heads=2), x[0])


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_clip_matches_timm(act: str):
    model = VisionTransformer(
        **SMALL, num_classes=5, pre_norm=True, norm_layer=EPS, act_layer=act
    ).eval()
    state = fill_model(model)
    encoder = read_encoder(state, {"gelu": None, "quick_gelu": "clip"}[act])
    assert encoder.source.name == {"gelu": "openclip", "quick_gelu": "clip"}[act]
    assert (encoder.normalisation, encoder.needs.act) == (CLIP, act)
    assert_same(vit_of(encoder, num_heads=2), timm_features(model, 1))


def test_siglip_matches_timm_alone_and_as_a_tower():
    model = VisionTransformer(**SMALL, num_classes=0, class_token=False, global_pool="map").eval()
    state = fill_model(model)
    text = {"text.transformer.weight": torch.ones(2), "logit_bias": torch.ones(())}
    tower = {**{f"visual.trunk.{name}": value for name, value in state.items()}, **text}
    expected = timm_features(model, 0)
    for content in (state, tower):
        encoder = read_encoder(content)
        assert (encoder.source.name, encoder.normalisation) == ("siglip", HALF)
        # timm runs the exact GELU, with which it was not trained.
        assert encoder.needs.act == "gelu_tanh"
        assert_same(vit_of(encoder, num_heads=2, act="gelu"), expected)
        far = patch_features(vit_of(encoder, num_heads=2), image(48, 48)) - expected
        assert far.abs().max() > 10 * TOLERANCE


def test_other_towers_of_open_clip_are_read():
    model = VisionTransformer(**SMALL, num_classes=0, class_token=False, global_pool="avg").eval()
    state = {f"visual.trunk.{name}": value for name, value in fill_model(model).items()}
    encoder = read_encoder({**state, "text.token_embedding.weight": torch.ones(2, 2)})
    assert encoder.source.name == "timm_tower"
    assert_same(vit_of(encoder, num_heads=2), timm_features(model, 0))
    with pytest.raises(WeightsError, match=r"has no such keys: audio\.weight"):
        read_encoder({**state, "audio.weight": torch.ones(2)})


def test_sam_matches_timm():
    model = VisionTransformerSAM(
        img_size=80, embed_dim=32, depth=3, num_heads=2, num_classes=0, use_rel_pos=True,
        window_size=2, global_attn_indexes=(1,), norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_abs_pos=True,
    ).eval()  # fmt: skip
    encoder = read_encoder(fill_model(model))
    assert (encoder.source.name, encoder.normalisation) == ("sam", IMAGENET)
    vit = vit_of(encoder, num_heads=2, window_size=2, window_block_indexes=[0, 2])
    with torch.no_grad():
        x = model.patch_embed(image(80, 80)) + model.pos_embed
        for block in model.blocks:
            x = block(x)
    found = patch_features(vit, image(80, 80))
    torch.testing.assert_close(found, x[0].flatten(0, 1), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("embedded", [False, True], ids=["no_rows", "rows"])
@pytest.mark.parametrize("pool", ["avg", "map"])
def test_other_vits_with_registers_match_timm(class_token: bool, embedded: bool, pool: str):
    """timm's vit_*_reg1_gap, _reg4_gap and _reg4_map: of no source that keys tell."""
    model = VisionTransformer(
        **SMALL, num_classes=5, init_values=1.0, reg_tokens=4, class_token=class_token,
        no_embed_class=not embedded, global_pool=pool,
    ).eval()  # fmt: skip
    encoder = read_encoder(fill_model(model))
    assert (encoder.source.name, encoder.normalisation) == ("plain", None)
    assert encoder.num_prefix == (4 + class_token if embedded else 0)
    assert any("4 register tokens are left out" in note for note in encoder.notes)
    vit = vit_of(encoder, num_heads=2, pretrain_use_cls_token=False)
    assert_same(vit, timm_features(model, encoder.num_prefix))


def test_gated_vits_with_other_registers_than_dinov2s_match_timm():
    model = VisionTransformer(
        **SMALL, num_classes=0, init_values=1.0, reg_tokens=1, no_embed_class=True,
        mlp_ratio=5.34, mlp_layer=SwiGLUPacked, act_layer=nn.SiLU,
    ).eval()  # fmt: skip
    encoder = read_encoder(fill_model(model))
    assert (encoder.source.name, encoder.normalisation) == ("plain", None)
    assert_same(vit_of(encoder, num_heads=2), timm_features(model, 0))

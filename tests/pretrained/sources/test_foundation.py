# SPDX-License-Identifier: Apache-2.0
"""DINOv2, DINOv3, SAM, CLIP and OpenCLIP, against features of their official classes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from tests.pretrained.encoder_vit import read_encoder, vit_of
from tests.pretrained.golden import (
    TOLERANCE,
    assert_features,
    load_golden,
    patch_features,
    prefix_features,
    training_file,
)
from tests.pretrained.sources.attention import run_block
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.normalisation import CLIP, IMAGENET, SATELLITE

Change = Callable[[dict[str, Tensor]], None]


def _distance(vit: nn.Module, name: str) -> float:
    golden = load_golden(name)
    return float((patch_features(vit, golden.image) - golden.features).abs().max())


def _nan_masks(state: dict[str, Tensor]) -> None:
    for name in state:
        if name.endswith("bias_mask"):
            state[name] = torch.full_like(state[name], float("nan"))


@pytest.mark.parametrize(
    "name", ["dinov2", "dinov2_registers", "dinov2_chunks", "dinov2_giant"], ids=str
)
def test_dinov2_matches_official_class(name: str):
    golden = load_golden(name)
    state = golden.state()
    heads = {"dino_head.mlp.0.weight": torch.ones(2), "ibot_head.mlp.0.weight": torch.ones(2)}
    teacher = {**{f"backbone.{key}": value for key, value in state.items()}, **heads}
    positions = state["pos_embed"][0, :1]
    prefix = [state["cls_token"][0] + positions]
    if "register_tokens" in state:
        prefix.append(state["register_tokens"][0])
    for content in (state, {"teacher": teacher}):
        encoder = read_encoder(content)
        assert encoder.source.name == "dinov2"
        assert encoder.normalisation == IMAGENET
        assert encoder.needs.eps == 1e-6
        assert_features(vit_of(encoder, num_heads=2), golden, torch.cat(prefix))


def test_dinov2_says_that_registers_are_left_out_and_how_positions_are_resized():
    notes = read_encoder(load_golden("dinov2_registers").state()).notes
    assert notes[0].startswith("4 register tokens are left out")
    assert "DINOv2 resizes them with antialiasing" in notes[1]
    (note,) = read_encoder(load_golden("dinov2").state()).notes
    assert "by a factor with an offset of 0.1" in note


@pytest.mark.parametrize("name", ["dinov3", "dinov3_plus", "dinov3_7b"])
@pytest.mark.parametrize("change", [lambda state: None, _nan_masks], ids=["mask", "nan_mask"])
def test_dinov3_matches_official_class_on_a_map_that_is_no_square(name: str, change: Change):
    golden = load_golden(name)
    state = golden.state()
    change(state)
    encoder = read_encoder(state)
    assert encoder.source.name == "dinov3"
    assert (encoder.needs.eps, encoder.needs.rope, encoder.num_heads) == (1e-5, "half", 2)
    assert ("blocks.0.attn.qkv.bias" in encoder.tensors) == (name != "dinov3_7b")
    assert encoder.notes == ("4 register tokens are left out: detection runs patches only",)
    assert_features(vit_of(encoder, num_heads=2), golden)


def _angles_of_dinov3(height: int, width: int, channels: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of a map's positions, written out: rows first, twice the same."""
    quarter = channels // 4
    periods = torch.tensor([100 ** (i / quarter) for i in range(quarter)])
    angles = [
        torch.cat([2 * torch.pi * ((2 * k + 1) / count - 1) / periods for k, count in place])
        for place in (((y, height), (x, width)) for y in range(height) for x in range(width))
    ]
    table = torch.stack(angles).tile(1, 2)
    return table.cos(), table.sin()


@pytest.mark.parametrize("name", ["dinov3", "dinov3_plus", "dinov3_7b"])
def test_dinov3_matches_official_class_with_its_tokens(name: str):
    golden = load_golden(name)
    state = golden.state()
    vit = vit_of(read_encoder(state), num_heads=2)
    height, width = (side // 16 for side in golden.image.shape[-2:])
    angles = _angles_of_dinov3(height, width, vit.blocks[0].attn.proj.weight.shape[0] // 2)
    prefix = torch.cat([state["cls_token"][0], state["storage_tokens"][0]])
    both = prefix_features(
        vit, golden.image, prefix, lambda block, x: run_block(block, x, None, angles)
    )
    torch.testing.assert_close(both, golden.with_prefix, atol=TOLERANCE, rtol=0)
    assert (both[len(prefix) :] - golden.features).abs().max() > 100 * TOLERANCE


def test_dinov3_gives_other_features_without_rotation_or_with_the_bias_of_the_keys():
    state = load_golden("dinov3").state()
    encoder = read_encoder(state)
    assert _distance(vit_of(encoder, num_heads=2, rope=None), "dinov3") > 1e-2
    vit = vit_of(encoder, num_heads=2)
    key_rows = state["blocks.0.attn.qkv.bias"][32:64]
    with torch.no_grad():
        vit.blocks[0].attn.qkv.bias[32:64] = key_rows
    assert _distance(vit, "dinov3") > 1e-3


def test_dinov3_tells_satellite_images_where_keys_do():
    def content(width: int, *, local: bool) -> dict[str, Tensor]:
        empty = partial(torch.empty, device="meta")
        state = {
            "patch_embed.proj.weight": empty(width, 3, 16, 16),
            "rope_embed.periods": empty(16),
            "blocks.0.norm1.weight": empty(width),
            "blocks.0.norm1.bias": empty(width),
        }
        return {**state, **({"local_cls_norm.weight": empty(width)} if local else {})}

    assert read_encoder(content(1024, local=True)).normalisation == SATELLITE
    assert read_encoder(content(1024, local=False)).normalisation == IMAGENET
    assert read_encoder(content(4096, local=True)).normalisation is None
    # Where other ViTs of this width have 16.
    assert read_encoder(content(1280, local=False)).num_heads == 20


def test_dinov3_refuses_other_periods_and_other_masks():
    state = load_golden("dinov3").state()
    rounded = state["rope_embed.periods"].bfloat16()
    notes = read_encoder({**state, "rope_embed.periods": rounded}).notes
    assert any("rounded to bfloat16" in note for note in notes)
    with pytest.raises(WeightsError, match=r"rope_embed.periods: expected 100 \*\* \(i / n\)"):
        read_encoder({**state, "rope_embed.periods": 2 * rounded})
    mask = "blocks.1.attn.qkv.bias_mask"
    with pytest.raises(WeightsError, match="bias_mask: expected ones, zeros for the keys"):
        read_encoder({**state, mask: torch.ones_like(state[mask])})
    del state["blocks.0.norm1.bias"]
    with pytest.raises(WeightsError, match="RMSNorm"):
        read_encoder(state)


def test_sam_matches_official_class_with_windows_and_relative_positions():
    golden = load_golden("sam")
    encoder = read_encoder(golden.state())
    assert (encoder.source.name, encoder.normalisation) == ("sam", IMAGENET)
    assert (encoder.num_prefix, encoder.needs.eps) == (0, 1e-6)
    windows = {"window_size": 2, "window_block_indexes": [0, 2]}
    tables = {name for name in encoder.tensors if "rel_pos" in name}
    assert len(tables) == 6
    names = dict(encoder.tensors)
    vit = vit_of(encoder, num_heads=2, **windows)
    assert torch.equal(
        vit.state_dict()["blocks.0.attn.rel_pos_h"], names["blocks.0.attn.rel_pos_h"]
    )
    assert_features(vit, golden)
    with torch.no_grad():
        vit.blocks[0].attn.rel_pos_h.zero_()
    assert _distance(vit, "sam") > 1e-2


def _sam_block(x: Tensor, state: dict[str, Tensor], window: int) -> Tensor:
    """Run a block of SAM in the order of its formulas: pad, project, scale, add rows, columns."""
    linear, norm = nn.functional.linear, nn.functional.layer_norm

    def pair(name: str) -> tuple[Tensor, Tensor]:
        return state[f"{name}.weight"], state[f"{name}.bias"]

    side, C, heads = x.shape[1], x.shape[-1], 2
    h = norm(x, (C,), *pair("norm1"), eps=1e-6)
    w = window or side
    count = -(-side // w)
    h = nn.functional.pad(h, (0, 0, 0, count * w - side, 0, count * w - side))
    h = h.view(1, count, w, count, w, C).permute(0, 1, 3, 2, 4, 5).reshape(-1, w * w, C)
    qkv = linear(h, *pair("attn.qkv")).view(-1, w * w, 3, heads, C // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    distance = torch.arange(w)[:, None] - torch.arange(w)[None] + w - 1
    by_place = q.reshape(-1, w, w, C // heads)
    rows = torch.einsum("bhwc,hkc->bhwk", by_place, state["attn.rel_pos_h"][distance])
    columns = torch.einsum("bhwc,wkc->bhwk", by_place, state["attn.rel_pos_w"][distance])
    logits = ((q * (C // heads) ** -0.5) @ k.transpose(-2, -1)).view(-1, w, w, w, w)
    logits = logits + rows[..., :, None] + columns[..., None, :]
    h = logits.view(-1, heads, w * w, w * w).softmax(-1) @ v
    h = linear(h.transpose(1, 2).reshape(-1, w * w, C), *pair("attn.proj"))
    h = h.view(1, count, count, w, w, C).permute(0, 1, 3, 2, 4, 5).reshape(1, count * w, -1, C)
    x = x + h[:, :side, :side]
    h = linear(norm(x, (C,), *pair("norm2"), eps=1e-6), *pair("mlp.lin1"))
    return x + linear(nn.functional.gelu(h), *pair("mlp.lin2"))


@torch.no_grad()
def test_sam_is_exact_in_windows_and_globally():
    # The same bits as the official class, too, where the golden is made (make_sam.py).
    golden = load_golden("sam")
    state = golden.state()
    vit = vit_of(read_encoder(state), num_heads=2, window_size=2, window_block_indexes=[0, 2])
    vit.set_attention_method("explicit")
    x = vit.patch_embed(golden.image) + state["image_encoder.pos_embed"]
    for i, window in enumerate((2, 0, 2)):
        start = f"image_encoder.blocks.{i}."
        block = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
        x = _sam_block(x, block, window)
    assert torch.equal(patch_features(vit, golden.image), x[0].flatten(0, 1))


def _half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round the tensors that OpenAI's files have in half precision."""
    kept = ("embedding", "ln_", "logit_scale")
    return {k: v if any(word in k for word in kept) else v.half() for k, v in state.items()}


SIZES = {
    "input_resolution": torch.tensor(48),
    "context_length": torch.tensor(5),
    "vocab_size": torch.tensor(11),
}


def _prefix_of_clip(state: dict[str, Tensor]) -> Tensor:
    token = state["visual.class_embedding"] + state["visual.positional_embedding"][0]
    norm = [state[f"visual.ln_pre.{name}"] for name in ("weight", "bias")]
    return nn.functional.layer_norm(token, token.shape, *norm, eps=1e-5)[None]


@pytest.mark.parametrize("name", ["clip", "openclip"])
def test_clip_matches_official_class(name: str):
    golden = load_golden(name)
    state = golden.state()
    content = {**_half(state), **SIZES}
    if name == "openclip":
        content = training_file(state, wrapper="state_dict", prefix="module.")
    encoder = read_encoder(content)
    assert (encoder.source.name, encoder.normalisation) == (name, CLIP)
    assert encoder.needs.act == ("gelu" if name == "openclip" else "quick_gelu")
    assert encoder.needs.eps == 1e-5
    vit = vit_of(encoder, num_heads=2)
    assert_features(vit, golden)
    _assert_prefix_of_clip(vit, name, _prefix_of_clip(state))


def _assert_prefix_of_clip(vit: nn.Module, name: str, prefix: Tensor) -> None:
    """As `assert_features` with a prefix, which here stands before a norm."""
    golden = load_golden(name)
    with torch.no_grad():
        patches = vit.patch_embed(golden.image).flatten(1, 2) + vit.pos_embed[:, 1:]
        x = torch.cat([prefix[None], vit.norm_pre(patches)], dim=1)[:, None]
        for block in vit.blocks:
            x = block(x)
    torch.testing.assert_close(x[0, 0], golden.with_prefix, atol=TOLERANCE, rtol=0)
    assert (x[0, 0, 1:] - golden.features).abs().max() > 100 * TOLERANCE


def test_clip_gives_other_features_with_another_activation():
    encoder = read_encoder({**_half(load_golden("clip").state()), **SIZES})
    assert _distance(vit_of(encoder, num_heads=2, act="gelu"), "clip") > 1e-3


def test_layer_scale_of_openclip_and_dinov2_is_needed():
    for name in ("openclip", "dinov2"):
        vit = vit_of(read_encoder(load_golden(name).state()), num_heads=2)
        with torch.no_grad():
            vit.blocks[1].ls2.gamma.fill_(1)
        assert _distance(vit, name) > 1e-2


def test_clip_is_told_by_sizes_or_by_name():
    state = load_golden("clip").state()
    unnamed = read_encoder(state)
    assert unnamed.source.name == "openclip"
    assert "name the source clip" in unnamed.notes[0]
    named = read_encoder(state, "clip")
    assert (named.source.name, named.needs.act) == ("clip", "quick_gelu")
    assert named.notes == ()
    with pytest.raises(WeightsError, match="named openclip, but its keys are those of CLIP"):
        read_encoder({**state, **SIZES}, "openclip")


def test_clip_refuses_resnets():
    state = {
        "visual.conv1.weight": torch.ones(4, 3, 3, 3),
        "visual.layer1.0.conv1.weight": torch.ones(4, 4, 1, 1),
        "visual.attnpool.c_proj.weight": torch.ones(4, 4),
    }
    with pytest.raises(WeightsError, match="a ResNet, not a ViT"):
        read_encoder(state)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("dinov2", "blocks.0.attn.q_norm.weight"),
        ("dinov3", "blocks.0.attn.q_norm.weight"),
        ("sam", "image_encoder.blocks.0.adapter.weight"),
        ("clip", "visual.transformer.resblocks.0.attn.ln_q.weight"),
        ("clip", "audio.conv.weight"),
    ],
)
def test_unknown_keys_are_named(name: str, key: str):
    last = key.removeprefix("image_encoder.").removeprefix("visual.")
    with pytest.raises(WeightsError, match=f"has no such keys: {last}"):
        read_encoder({**load_golden(name).state(), key: torch.ones(2)})

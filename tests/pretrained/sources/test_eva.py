# SPDX-License-Identifier: Apache-2.0
"""EVA and EVA-02, against features of their official classes, and against timm's models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.models.eva import Eva
from torch import Tensor, nn

from tests.pretrained.encoder_vit import read_encoder, vit_of
from tests.pretrained.golden import (
    TOLERANCE,
    assert_features,
    fill_model,
    image,
    load_golden,
    patch_features,
    prefix_features,
    save_training_file,
)
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained import convert, load, vit_options
from vitdet_d2.pretrained.encoder import Encoder
from vitdet_d2.pretrained.normalisation import CLIP, IMAGENET
from vitdet_d2.pretrained.reader import read_weights

EVA02 = ("eva02_finetuned", "eva02_finetuned_p14to16", "eva02_finetuned_small", "eva02_pretrained")
HEADS = {"eva02_pretrained": 1}
close = partial(torch.testing.assert_close, atol=TOLERANCE, rtol=0)
Blocks = Callable[[nn.Module, Tensor], Tensor]


def _distance(vit: nn.Module, name: str) -> float:
    golden = load_golden(name)
    return float((patch_features(vit, golden.image) - golden.features).abs().max())


def _class_token(state: dict[str, Tensor]) -> Tensor:
    return state["cls_token"][0] + state["pos_embed"][0, :1]


def _read(path: Path, source: str | None = None) -> Encoder:
    return read_encoder(read_weights(path), source)


def _turn(x: Tensor, side: int) -> Tensor:
    """Turn pairs of channels by EVA-02's angles, token by token; the class token stays.

    Args:
        x: ``(heads, 1 + side * side, D)``.
        side: of the grid.
    """
    quarter = x.shape[-1] // 4
    x = x.clone()
    for token in range(side * side):
        for axis, place in enumerate(divmod(token, side)):
            for i in range(quarter):
                angle = torch.tensor(place / side * 16 * 10000.0 ** (-i / quarter))
                even = 2 * (axis * quarter + i)
                a, b = x[:, 1 + token, even].clone(), x[:, 1 + token, even + 1].clone()
                x[:, 1 + token, even] = a * angle.cos() - b * angle.sin()
                x[:, 1 + token, even + 1] = b * angle.cos() + a * angle.sin()
    return x


def _with_class_token(side: int) -> Blocks:
    """Return a block's computation on ``(1, 1, 1 + side * side, C)``, written out."""

    def run(block: nn.Module, x: Tensor) -> Tensor:
        attn, tokens = block.attn, x.shape[2]
        qkv = attn.qkv(block.norm1(x)).reshape(tokens, 3, attn.num_heads, -1)
        q, k, v = qkv.permute(1, 2, 0, 3)
        logits = _turn(q, side) @ _turn(k, side).transpose(1, 2) * q.shape[-1] ** -0.5
        out = (logits.softmax(-1) @ v).transpose(0, 1).reshape(x.shape)
        x = x + attn.proj(out)
        return x + block.mlp(block.norm2(x))

    return run


@pytest.mark.parametrize("name", EVA02)
def test_eva02_matches_official_class(name: str, tmp_path: Path):
    golden = load_golden(name)
    state = golden.state()
    wrapper = "module" if name == "eva02_pretrained" else "model"
    ema = {"model_ema": {key: torch.zeros(1) for key in state}}
    encoder = _read(save_training_file(tmp_path / "eva.pt", state, wrapper=wrapper, **ema))
    assert encoder.source.name == "eva02"
    assert encoder.normalisation == CLIP
    assert (encoder.needs.eps, encoder.needs.rope, encoder.num_prefix) == (1e-6, "interleaved", 1)
    has_norm = "blocks.0.mlp.ffn_ln.weight" in encoder.tensors
    assert has_norm == (name != "eva02_finetuned_small")
    vit = vit_of(encoder, num_heads=HEADS.get(name, 2), mlp_norm=has_norm)
    assert_features(vit, golden)
    side = round(len(golden.features) ** 0.5)
    both = prefix_features(vit, golden.image, _class_token(state), _with_class_token(side))
    close(both, golden.with_prefix)
    assert (both[1:] - golden.features).abs().max() > 100 * TOLERANCE


def test_eva02_gives_other_features_without_its_parts():
    encoder = read_encoder(load_golden("eva02_finetuned").state())
    build = partial(vit_of, encoder, num_heads=2, mlp_norm=True)
    assert _distance(build(rope=None), "eva02_finetuned") > 1e-2
    # Half rotation pairs other channels.
    assert _distance(build(rope="half"), "eva02_finetuned") > 1e-2
    vit = build()
    with torch.no_grad():
        for block in vit.blocks:
            block.mlp.ffn_ln.weight.fill_(1)
    assert _distance(vit, "eva02_finetuned") > 1e-2
    vit = build()
    with torch.no_grad():
        for block in vit.blocks:
            block.mlp.w1, block.mlp.w2 = block.mlp.w2, block.mlp.w1
    assert _distance(vit, "eva02_finetuned") > 1e-2


def test_keys_have_no_bias():
    for name in ("eva01_pretrained", "eva02_finetuned", "eva02_finetuned_small"):
        state = load_golden(name).state()
        encoder = read_encoder(state)
        names = [f"blocks.{n}.attn.qkv.bias" for n in range(2)]
        assert encoder.zero_key_biases == tuple(names)
        for n, bias in enumerate(encoder.tensors[key] for key in names):
            q, k, v = bias.chunk(3)
            assert torch.equal(q, state[f"blocks.{n}.attn.q_bias"])
            assert not k.any()
            assert torch.equal(v, state[f"blocks.{n}.attn.v_bias"])


def _detector_file(path: Path, name: str) -> Path:
    state = load_golden(name).state()
    torch.save({"model": {f"backbone.net.{key}": value for key, value in state.items()}}, path)
    return path


@pytest.mark.parametrize("name", ["eva01_detector", "eva02_detector"])
def test_backbones_of_detectors_match_official_classes(name: str, tmp_path: Path):
    encoder = _read(_detector_file(tmp_path / "det.pth", name))
    assert encoder.source.name == name.partition("_")[0]
    # EVA's detectors take ImageNet's statistics, and its pre-training CLIP's.
    assert encoder.normalisation == IMAGENET
    assert encoder.num_prefix == 1
    # Windows of 4 in a map of 6 are padded, and have rotary positions of their own.
    shape = {"img_size": 24, "window_size": 4, "window_block_indexes": (0,)}
    build = partial(vit_of, encoder, num_heads=2, mlp_norm=name == "eva02_detector")
    assert_features(build(**shape), load_golden(name))
    if name == "eva02_detector":
        assert _distance(build(img_size=24), name) > 1e-2


def _whole_detector(name: str) -> dict[str, Tensor]:
    heads = ("backbone.simfp_2.0.weight", "roi_heads.box_head.0.fc1.weight",
             "proposal_generator.rpn_head.conv.weight", "pixel_mean")  # fmt: skip
    state = {f"backbone.net.{key}": value for key, value in load_golden(name).state().items()}
    return state | {key: torch.ones(2) for key in heads}


@pytest.mark.parametrize("name", ["eva01_detector", "eva02_detector"])
def test_whole_detectors_give_their_backbone(name: str, tmp_path: Path):
    torch.save({"model": _whole_detector(name)}, tmp_path / "det.pth")
    shape = {"img_size": 24, "window_size": 4, "window_block_indexes": (0,), "num_heads": 2}
    encoder = _read(_detector_file(tmp_path / "backbone.pth", name))
    vit = vit_of(encoder, mlp_norm=name == "eva02_detector", **shape)
    expected = {key: value.clone() for key, value in vit.state_dict().items()}
    for value in vit.state_dict().values():
        value.zero_()
    report = load(vit, tmp_path / "det.pth")
    assert report.verdict.startswith("all that EVA")
    assert "roi_heads.box_head.0.fc1.weight" in report.dropped
    assert any("its neck and its heads are left out" in note for note in report.notes)
    torch.testing.assert_close(vit.state_dict(), expected, atol=0, rtol=0)
    assert_features(vit, load_golden(name))
    with pytest.raises(WeightsError, match="named mae, but its keys are those of EVA"):
        load(vit, tmp_path / "det.pth", source="mae")


def test_detectors_in_names_of_eva_tell_the_options_of_their_vit(tmp_path: Path):
    torch.save({"model": _whole_detector("eva02_detector")}, tmp_path / "det.pth")
    options = vit_options(tmp_path / "det.pth")
    assert (options["rope"], options["mlp"]) == ("interleaved", "swiglu")
    out = convert(tmp_path / "det.pth", to="vitdet")
    assert not any(name.startswith("roi_heads") for name in out.tensors)


def test_eva_matches_official_class(tmp_path: Path):
    golden = load_golden("eva01_pretrained")
    state = golden.state()
    encoder = _read(save_training_file(tmp_path / "eva_psz14.pt", state))
    assert encoder.source.name == "eva01"
    assert encoder.normalisation == CLIP
    assert encoder.needs.eps == 1e-6
    assert encoder.notes == ()
    assert_features(vit_of(encoder, num_heads=2), golden, _class_token(state))


def test_eva_says_that_fine_tuned_files_may_have_other_statistics():
    state = load_golden("eva01_pretrained").state()
    del state["mask_token"]
    encoder = read_encoder({**state, "head.weight": torch.ones(5, 24), "head.bias": torch.ones(5)})
    assert encoder.notes[0].startswith("timm uses ImageNet's statistics for EVA fine-tuned on")


@torch.no_grad()
def _timm_features(model: Eva, picture: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens of timm's blocks: of the patches alone, and with the class token."""
    model.eval()
    patches = model.patch_embed(picture).flatten(1, -2) if model.patch_embed else None
    assert patches is not None
    both = torch.cat([model.cls_token, patches], dim=1) + model.pos_embed
    rope = model.rope.get_embed() if model.rope is not None else None
    alone = both[:, 1:]
    for block in model.blocks:
        both = block(both, rope=rope)
    for block in model.blocks:
        block.attn.num_prefix_tokens = 0
        alone = block(alone, rope=rope)
    return alone[0], both[0]


@pytest.mark.parametrize("size", ["giant", "tiny", "base"])
def test_timms_layouts_match_timm(size: str, tmp_path: Path):
    gated = {"swiglu_mlp": True, "use_rot_pos_emb": True, "ref_feat_shape": (16, 16)}
    kind = {
        "giant": {},
        "tiny": {"mlp_ratio": 8 / 3, **gated},
        "base": {"mlp_ratio": 8 / 3, "qkv_fused": False, "scale_mlp": True, **gated},
    }[size]
    model = Eva(
        img_size=56, patch_size=14, embed_dim=24, depth=2, num_heads=2, num_classes=3, **kind
    )
    state = fill_model(model)
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    encoder = _read(path)
    assert encoder.source.name == ("eva01" if size == "giant" else "eva02")
    assert encoder.normalisation == CLIP
    vit = vit_of(encoder, num_heads=2, mlp_norm=size == "base")
    picture = image(56, 56)
    alone, both = _timm_features(model, picture)
    close(patch_features(vit, picture), alone)
    run = None if size == "giant" else _with_class_token(4)
    close(prefix_features(vit, picture, _class_token(state), run), both)


def test_norms_inside_attention_are_refused():
    state = load_golden("eva02_finetuned").state()
    for name in ("inner_attn_ln", "norm"):
        with pytest.raises(WeightsError, match=f"EVA-02-CLIP.*{name}.weight"):
            read_encoder({**state, f"blocks.0.attn.{name}.weight": torch.ones(24)})


def test_norms_behind_the_branches_are_refused():
    empty = partial(torch.empty, device="meta")
    state = {
        "cls_token": empty(1, 1, 1792),
        "pos_embed": empty(1, 257, 1792),
        "patch_embed.proj.weight": empty(1792, 3, 14, 14),
        "blocks.0.attn.q_bias": empty(1792),
        "blocks.0.attn.qkv.weight": empty(5376, 1792),
    }
    with pytest.raises(WeightsError, match="EVA-02-CLIP-E, which has its norms behind"):
        read_encoder(state)


def test_rotary_positions_of_another_grid_are_refused():
    state = load_golden("eva02_pretrained").state()
    state["rope.freqs_cos"] = torch.ones(14 * 14, 8)
    with pytest.raises(WeightsError, match="pre-trained on 14 x 14 patches"):
        read_encoder(state)


def test_unknown_keys_are_an_error_that_lists_them():
    # Position biases apart by rows and columns are in EVA's code, and in no released model.
    name = "blocks.1.attn.rel_pos_bias.relative_position_bias_for_high"
    for golden in ("eva01_pretrained", "eva02_finetuned"):
        with pytest.raises(WeightsError, match=name):
            read_encoder({**load_golden(golden).state(), name: torch.ones(2)})


def test_full_size_heads_are_known():
    empty = partial(torch.empty, device="meta")
    for width, heads in ((192, 3), (384, 6), (768, 12), (1024, 16), (1408, 16)):
        state = {
            "cls_token": empty(1, 1, width),
            "pos_embed": empty(1, 257, width),
            "patch_embed.proj.weight": empty(width, 3, 14, 14),
            "blocks.0.attn.q_bias": empty(width),
            "blocks.0.attn.v_bias": empty(width),
            "blocks.0.attn.qkv.weight": empty(3 * width, width),
        }
        assert read_encoder(state).num_heads == heads

# SPDX-License-Identifier: Apache-2.0
"""DeiT's and timm's files, against the features of the official classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.eva import Eva
from torch import Tensor, nn

from tests.pretrained import golden
from tests.pretrained.encoder_vit import read_file, vit_of
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.normalisation import HALF, IMAGENET
from vitdet_d2.pretrained.recognise import encoder_of


def prefix_of(state: dict[str, Tensor], num_prefix: int) -> Tensor:
    tokens = [state[name][0] for name in ("cls_token", "dist_token") if name in state]
    positions = state["pos_embed"][0, :num_prefix]
    prefix = torch.cat(tokens)
    return prefix + positions if num_prefix else prefix


@pytest.mark.parametrize(
    ("name", "source", "num_prefix"),
    [("deit", "deit", 1), ("deit_distilled", None, 2), ("deit3", None, 0)],
)
def test_training_file_gives_the_official_features(
    tmp_path: Path, name: str, source: str | None, num_prefix: int
):
    made = golden.load_golden(name)
    state = made.state()
    path = golden.save_training_file(tmp_path / "x.pth", state, max_accuracy=81.8)
    encoder = read_file(path, source)
    assert encoder.num_prefix == num_prefix
    assert encoder.normalisation == IMAGENET
    assert encoder.needs.eps == 1e-6
    golden.assert_features(vit_of(encoder, num_heads=3), made, prefix_of(state, num_prefix))


def test_384_pixel_file_keeps_its_grid():
    state = {
        "cls_token": torch.zeros(1, 1, 24),
        "pos_embed": torch.zeros(1, 577, 24),
        "patch_embed.proj.weight": torch.zeros(24, 3, 16, 16),
        "blocks.0.norm1.weight": torch.zeros(24),
    }
    encoder = encoder_of("x.pth", Unwrapped(state=state), "deit")
    assert encoder.num_prefix == 1
    assert encoder.tensors["pos_embed"].shape == (1, 24 * 24 + 1, 24)


def timm_vit(**arguments: object) -> nn.Module:
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=48, patch_size=16, embed_dim=24, depth=2, num_heads=3, num_classes=5, **arguments
    ).eval()
    golden.fill_model(model)
    return model


@torch.no_grad()
def timm_patches(model: nn.Module, picture: Tensor, num_prefix: int) -> Tensor:
    x = model.patch_embed(picture) + model.pos_embed[:, num_prefix:]
    return model.blocks(x)[0]


@pytest.mark.parametrize(
    ("arguments", "num_prefix", "name"),
    [
        ({}, 1, "plain"),
        ({"init_values": 1e-5, "no_embed_class": True}, 0, "deit3"),
        ({"class_token": False, "global_pool": "avg"}, 0, "plain"),
    ],
)
def test_timm_file_gives_the_features_of_timm(
    tmp_path: Path, arguments: dict[str, object], num_prefix: int, name: str
):
    model = timm_vit(**arguments)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    picture = golden.image(48, 48)
    encoder = read_file(tmp_path / "model.safetensors")
    assert encoder.source.name == name
    found = golden.patch_features(vit_of(encoder, num_heads=3), picture)
    wanted = timm_patches(model, picture, num_prefix)
    torch.testing.assert_close(found, wanted, atol=golden.TOLERANCE, rtol=0)


def test_pre_logits_tell_augreg_and_its_statistics(tmp_path: Path):
    state = timm_vit().state_dict()
    torch.save(state, tmp_path / "plain.pth")
    assert read_file(tmp_path / "plain.pth").normalisation is None
    assert read_file(tmp_path / "plain.pth", "augreg").normalisation == HALF
    state |= {"pre_logits.fc.weight": torch.ones(24, 24), "pre_logits.fc.bias": torch.ones(24)}
    torch.save(state, tmp_path / "in21k.pth")
    encoder = read_file(tmp_path / "in21k.pth")
    assert encoder.source.name == "augreg"
    assert encoder.normalisation == HALF


def test_ignored_layer_scale_changes_the_features():
    made = golden.load_golden("deit3")
    encoder = encoder_of("x.pth", Unwrapped(state=made.state(), wrappers=("model",)))
    vit = vit_of(encoder, num_heads=3)
    with torch.no_grad():
        for name, value in vit.named_parameters():
            if name.endswith(".gamma"):
                value.fill_(1)
    features = golden.patch_features(vit, made.image)
    assert (features - made.features).abs().max() > 100 * golden.TOLERANCE


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"blocks.0.attn1.qkv.weight": (72, 24)}, r"paralx2"),
        ({"patch_embed.proj.0.weight": (6, 3, 4, 4)}, r"hMLP"),
    ],
)
def test_models_of_another_shape_are_refused(extra: dict[str, tuple[int, ...]], reason: str):
    state = golden.load_golden("deit3").state()
    if "patch_embed.proj.0.weight" in extra:
        del state["patch_embed.proj.weight"]
    state |= {name: torch.zeros(shape) for name, shape in extra.items()}
    with pytest.raises(WeightsError, match=rf"DeiT III: .*{reason}"):
        encoder_of("x.pth", Unwrapped(state=state))


def test_wrong_name_is_an_error_that_gives_the_right_one():
    state = golden.load_golden("deit_distilled").state()
    with pytest.raises(WeightsError, match=r"named augreg, but its keys .*name it deit"):
        encoder_of("x.pth", Unwrapped(state=state), "augreg")


def test_keys_of_deit3_without_its_wrapper_may_be_of_a_vit_with_rotary_positions():
    """timm's Eva with LayerScale and both kinds of positions has not one key more."""
    state = golden.load_golden("deit3").state()
    rotary = Eva(
        img_size=48, embed_dim=24, depth=2, num_heads=3, num_classes=5, attn_type="rope",
        init_values=1e-5, global_pool="token", no_embed_class=True, use_rot_pos_emb=True,
    ).state_dict()  # fmt: skip
    assert rotary.keys() == state.keys()
    for keys in (state, rotary):
        with pytest.raises(WeightsError, match=r"rotary positions .* name the source deit3"):
            encoder_of("x.pth", Unwrapped(state=dict(keys)))
    assert encoder_of("x.pth", Unwrapped(state=state), "deit3").source.name == "deit3"
    assert encoder_of("x.pth", Unwrapped(state=state, wrappers=("model",))).source.name == "deit3"

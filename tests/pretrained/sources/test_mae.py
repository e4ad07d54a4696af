# SPDX-License-Identifier: Apache-2.0
"""MAE's files, against the features of its official classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.pretrained import golden
from tests.pretrained.encoder_vit import read_file, vit_of
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.encoder import Encoder
from vitdet_d2.pretrained.normalisation import IMAGENET
from vitdet_d2.pretrained.recognise import encoder_of
from vitdet_d2.pretrained.sincos import fixed_positions


def first_row(state: dict[str, Tensor]) -> Tensor:
    return state["cls_token"][0] + state["pos_embed"][0, :1]


@pytest.mark.parametrize("name", ["mae", "mae_p14", "mae_finetuned"])
def test_training_file_gives_the_official_features(tmp_path: Path, name: str):
    made = golden.load_golden(name)
    state = made.state()
    path = golden.save_training_file(tmp_path / "checkpoint-399.pth", state)
    encoder = read_file(path)
    vit = vit_of(encoder, num_heads=3)
    golden.assert_features(vit, made, first_row(state))
    assert encoder.source.name == "mae"
    assert encoder.normalisation == IMAGENET
    assert encoder.needs.eps == 1e-6


def encoder_only(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As released: no decoder."""
    return {n: v for n, v in state.items() if "decoder" not in n and n != "mask_token"}


def test_encoder_alone_is_a_plain_vit_unless_named(tmp_path: Path):
    made = golden.load_golden("mae")
    path = tmp_path / "mae_pretrain.pth"
    torch.save({"model": encoder_only(made.state())}, path)
    encoder = read_file(path)
    assert encoder.source.name == "plain"
    assert encoder.normalisation is None  # keys cannot tell
    named = read_file(path, "mae")
    assert named.source.name == "mae"
    assert named.normalisation == IMAGENET
    for found in (encoder, named):
        golden.assert_features(vit_of(found, num_heads=3), made)


def recognised(positions: Tensor, patch: int = 16) -> Encoder:
    width = positions.shape[2]
    state = {
        "cls_token": torch.zeros(1, 1, width),
        "pos_embed": positions,
        "patch_embed.proj.weight": torch.zeros(width, 3, patch, patch),
        "blocks.0.norm1.weight": torch.zeros(width),
    }
    return encoder_of("x.pth", Unwrapped(state=state))


def with_zero_row(grid: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(grid[:, :1]), grid], dim=1)


def test_fixed_positions_tell_mae_from_moco_v3_and_others():
    columns = with_zero_row(fixed_positions(14, 24, "columns"))
    rows = with_zero_row(fixed_positions(14, 24, "rows"))
    assert recognised(columns).source.name == "mae"
    assert "fixed position" in recognised(columns).how
    assert recognised(columns.half()).source.name == "mae"
    assert recognised(rows).source.name == "mocov3"
    trained = columns + 0.01 * torch.randn_like(columns)
    assert recognised(trained).source.name == "plain"
    assert recognised(columns.to("meta")).source.name == "plain"


def test_user_who_names_a_source_with_the_same_keys_is_believed():
    columns = with_zero_row(fixed_positions(4, 24, "columns"))
    state = {
        "cls_token": torch.zeros(1, 1, 24),
        "pos_embed": columns,
        "patch_embed.proj.weight": torch.zeros(24, 3, 16, 16),
        "blocks.0.norm1.weight": torch.zeros(24),
    }
    assert encoder_of("x.pth", Unwrapped(state=state), "dino").source.name == "dino"


@pytest.mark.parametrize("side", [14, 16])
def test_huge_file_whose_kernel_was_resized_says_so(side: int):
    grid = fixed_positions(16, 1280, "columns")
    if side != 16:
        maps = grid.transpose(1, 2).unflatten(2, (16, 16))
        maps = torch.nn.functional.interpolate(maps, size=(side, side), mode="bicubic")
        grid = maps.flatten(2).transpose(1, 2)
    resized = recognised(with_zero_row(grid), patch=16)
    assert resized.source.name == "mae"
    assert "resized already" in (resized.patch_is_final or "")
    assert any("14 to 16" in note for note in resized.notes)
    original = recognised(with_zero_row(fixed_positions(16, 1280, "columns")), patch=14)
    assert original.source.name == "mae"
    assert original.patch_is_final is None


def test_name_alone_tells_that_the_kernel_of_a_huge_file_was_resized():
    state = {
        "cls_token": torch.zeros(1, 1, 1280),
        "pos_embed": torch.ones(1, 197, 1280),
        "patch_embed.proj.weight": torch.zeros(1280, 3, 16, 16),
        "blocks.0.norm1.weight": torch.zeros(1280),
    }
    named = encoder_of("x.pth", Unwrapped(state=state), "mae")
    assert named.source.title == "MAE"
    assert "resized already" in (named.patch_is_final or "")
    assert encoder_of("x.pth", Unwrapped(state=state)).patch_is_final is None


def test_transposed_positions_change_the_features(tmp_path: Path):
    made = golden.load_golden("mae")
    state = made.state()
    grid = state["pos_embed"][:, 1:].unflatten(1, (3, 3)).transpose(1, 2).flatten(1, 2)
    state["pos_embed"] = torch.cat([state["pos_embed"][:, :1], grid], dim=1)
    torch.save({"model": state}, tmp_path / "x.pth")
    vit = vit_of(read_file(tmp_path / "x.pth"), num_heads=3)
    features = golden.patch_features(vit, made.image)
    assert (features - made.features).abs().max() > 100 * golden.TOLERANCE


def test_unknown_key_is_an_error_that_names_it(tmp_path: Path):
    state = golden.load_golden("mae").state()
    state["blocks.0.attn.extra"] = torch.zeros(1)
    torch.save({"model": state}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"no such keys: blocks\.0\.attn\.extra"):
        read_file(tmp_path / "x.pth")

# SPDX-License-Identifier: Apache-2.0
"""Files of DINO, iBOT, MSN and I-JEPA, against the features of the official classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.pretrained import golden
from tests.pretrained.encoder_vit import read_file, vit_of
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.normalisation import IMAGENET
from vitdet_d2.pretrained.recognise import encoder_of
from vitdet_d2.pretrained.sincos import fixed_positions


def first_row(state: dict[str, Tensor]) -> Tensor:
    return state["cls_token"][0] + state["pos_embed"][0, :1]


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def other(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights that give other features: those of a student beside its teacher."""
    return {name: value + 0.1 for name, value in state.items()}


@pytest.mark.parametrize(("name", "loss"), [("dino", "dino_loss"), ("ibot", "ibot_loss")])
def test_training_file_gives_the_teacher(tmp_path: Path, name: str, loss: str):
    made = golden.load_golden(name)
    state = made.state()
    heads = {"head.mlp.0.weight": torch.ones(2, 2), "head.last_layer.weight_g": torch.ones(2, 1)}
    teacher = {n: v for n, v in state.items() if n != "masked_embed"}
    path = golden.save_training_file(
        tmp_path / "checkpoint.pth",
        {**prefixed("backbone.", teacher), **heads},
        wrapper="teacher",
        student={**prefixed("module.backbone.", other(state)), **prefixed("module.", heads)},
        **{loss: {"center": torch.zeros(1, 4)}},
    )
    encoder = read_file(path)
    assert encoder.source.name == name
    assert encoder.normalisation == IMAGENET
    assert "head.mlp.0.weight" in encoder.dropped
    golden.assert_features(vit_of(encoder, num_heads=3), made, first_row(state))


def test_dino_encoder_alone_is_a_plain_vit_unless_named(tmp_path: Path):
    made = golden.load_golden("dino")
    torch.save(made.state(), tmp_path / "dino_pretrain.pth")
    assert read_file(tmp_path / "dino_pretrain.pth").source.name == "plain"
    encoder = read_file(tmp_path / "dino_pretrain.pth", "dino")
    assert encoder.source.name == "dino"
    assert encoder.normalisation == IMAGENET
    assert encoder.patch_size == 8
    golden.assert_features(vit_of(encoder, num_heads=3), made, first_row(made.state()))


@pytest.mark.parametrize("name", ["ibot", "ibot_scaled"])
def test_extracted_ibot_file(tmp_path: Path, name: str):
    made = golden.load_golden(name)
    torch.save({"state_dict": made.state()}, tmp_path / "x.pth")
    encoder = read_file(tmp_path / "x.pth")
    assert encoder.source.name == "ibot"
    golden.assert_features(vit_of(encoder, num_heads=3), made, first_row(made.state()))
    # LayerScale alone tells it too: a class token with a position, unlike DeiT III's.
    state = {n: v for n, v in made.state().items() if n != "masked_embed"}
    expected = "ibot" if name == "ibot_scaled" else "plain"
    assert encoder_of("x.pth", Unwrapped(state=state)).source.name == expected


def test_msn_training_file_gives_the_target_encoder(tmp_path: Path):
    made = golden.load_golden("msn")
    state = made.state()
    path = golden.save_training_file(
        tmp_path / "vitb16.pth.tar",
        state,
        wrapper="target_encoder",
        prefix="module.",
        encoder=prefixed("module.", other(state)),
        prototypes=torch.zeros(4, 6),
        loss=3.5,
    )
    encoder = read_file(path)
    assert encoder.source.name == "msn"
    assert encoder.normalisation == IMAGENET
    golden.assert_features(vit_of(encoder, num_heads=3), made, first_row(state))


def test_convolutional_stem_of_msn_is_refused():
    state = {"cls_token": torch.zeros(1, 1, 24), "patch_embed.stem.0.weight": torch.zeros(3)}
    with pytest.raises(WeightsError, match=r"MSN: .*stem of convolutions"):
        encoder_of("x.pth.tar", Unwrapped(state=state))


def test_ijepa_training_file_gives_the_target_encoder(tmp_path: Path):
    made = golden.load_golden("ijepa")
    state = made.state()
    path = golden.save_training_file(
        tmp_path / "IN1K-vit.h.14-300e.pth.tar",
        state,
        wrapper="target_encoder",
        prefix="module.",
        encoder=prefixed("module.", other(state)),
        predictor={"module.predictor_embed.weight": torch.ones(2, 2)},
    )
    encoder = read_file(path)
    assert encoder.source.name == "ijepa"
    assert encoder.num_prefix == 0
    vit = vit_of(encoder, num_heads=3)
    # It has no prefix token: its own forward pass is that of the patches alone.
    golden.assert_features(vit, made)


def test_ijepa_encoder_alone_is_told_by_its_positions():
    state = golden.load_golden("ijepa").state()
    assert encoder_of("x.pth", Unwrapped(state=state)).source.name == "plain"
    state["pos_embed"] = fixed_positions(3, 24, "columns")
    found = encoder_of("x.pth", Unwrapped(state=state))
    assert found.source.name == "ijepa"
    assert "no class token" in found.how

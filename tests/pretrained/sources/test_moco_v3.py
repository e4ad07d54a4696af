# SPDX-License-Identifier: Apache-2.0
"""MoCo v3's three kinds of files, against the features of its official class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.pretrained import golden
from tests.pretrained.encoder_vit import read_file, vit_of
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.recognise import encoder_of
from vitdet_d2.pretrained.sincos import fixed_positions

BASE = "base_encoder."


def base_encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(BASE): v for n, v in state.items() if n.startswith(BASE)}


def write(layout: str, path: Path, state: dict[str, Tensor]) -> Path:
    base = base_encoder(state)
    headless = {n: v for n, v in base.items() if not n.startswith("head.")}
    if layout == "training":
        return golden.save_training_file(
            path, state, wrapper="state_dict", prefix="module.", arch="vit_base"
        )
    if layout == "deit":
        torch.save({"model": headless}, path)
        return path
    classifier = {"head.weight": torch.ones(5, 24), "head.bias": torch.ones(5)}
    return golden.save_training_file(
        path,
        {**headless, **classifier},
        wrapper="state_dict",
        prefix="module.",
        best_acc1=torch.tensor(76.7),
    )


@pytest.mark.parametrize("layout", ["training", "deit", "classifier"])
def test_every_layout_gives_the_official_features(tmp_path: Path, layout: str):
    made = golden.load_golden("moco_v3")
    state = made.state()
    path = write(layout, tmp_path / "vit-b-300ep.pth.tar", state)
    encoder = read_file(path, None if layout == "training" else "mocov3")
    assert encoder.source.name == "mocov3"
    base = base_encoder(state)
    first = base["cls_token"][0] + base["pos_embed"][0, :1]
    golden.assert_features(vit_of(encoder, num_heads=3), made, first)


def test_momentum_encoder_is_not_taken_but_named():
    state = golden.load_golden("moco_v3").state()
    encoder = encoder_of(
        "x.pth.tar",
        Unwrapped(
            state=base_encoder(state),
            wrappers=(BASE,),
            beside=tuple(name for name in state if not name.startswith(BASE)),
        ),
    )
    assert "momentum_encoder.cls_token" in encoder.dropped
    stray = Unwrapped(state=base_encoder(state), wrappers=(BASE,), beside=("stray.weight",))
    with pytest.raises(WeightsError, match=r"no such keys: stray\.weight"):
        encoder_of("x.pth.tar", stray)


def test_small_model_has_12_heads_and_they_matter():
    rows = torch.cat([torch.zeros(1, 1, 384), fixed_positions(14, 384, "rows")], dim=1)
    state = {
        "cls_token": torch.zeros(1, 1, 384),
        "pos_embed": rows,
        "patch_embed.proj.weight": torch.zeros(384, 3, 16, 16),
        "blocks.0.norm1.weight": torch.zeros(384),
    }
    assert encoder_of("x.pth.tar", Unwrapped(state=state)).num_heads == 12
    assert encoder_of("x.pth.tar", Unwrapped(state=state), "deit").num_heads == 6
    made = golden.load_golden("moco_v3")
    file = Unwrapped(state=base_encoder(made.state()), wrappers=(BASE,))
    vit = vit_of(encoder_of("x.pth.tar", file), num_heads=6)
    features = golden.patch_features(vit, made.image)
    assert (features - made.features).abs().max() > 100 * golden.TOLERANCE


def test_convolutional_stem_is_refused():
    state = {
        "cls_token": torch.zeros(1, 1, 384),
        "pos_embed": torch.zeros(1, 197, 384),
        "patch_embed.proj.0.weight": torch.zeros(48, 3, 3, 3),
        "patch_embed.proj.12.weight": torch.zeros(384, 384, 1, 1),
    }
    for file in (Unwrapped(state=state), Unwrapped(state=state, wrappers=(BASE,))):
        with pytest.raises(WeightsError, match=r"MoCo v3: .*stem of convolutions.*vit_small"):
            encoder_of("x.pth.tar", file)

# SPDX-License-Identifier: Apache-2.0
"""Files with the layout of the released ones go into our recipes' models, tensor by tensor."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from torch import Tensor, nn

from tests.zoo.released_layout import golden_states, write_empty
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained import load, loading
from vitdet_d2.zoo import RELEASED, for_inference, get_config

NAMES = [entry.name for entry in RELEASED]
# Not loaded: the class weights of the federated loss are of use in training alone, and the indexes
# of Swin's positions are rebuilt.
NOT_LOADED = re.compile(r".*(fed_loss_cls_weights|relative_position_index)")


def build(name: str) -> nn.Module:
    with torch.device("meta"):
        return instantiate(for_inference(get_config(name).model))


def meta_state(name: str) -> dict[str, Tensor]:
    return {
        key: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        for key, (shape, dtype) in golden_states()[name].items()
    }


def test_the_file_has_all_models() -> None:
    assert set(golden_states()) == set(NAMES)
    assert len(NAMES) == 22


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_of_a_released_file_has_its_place(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(name)
    monkeypatch.setattr(loading, "read_weights", lambda _: {"model": meta_state(name)})
    report = load(model, name, strict_heads=True)
    expected = {key for key in golden_states()[name] if not NOT_LOADED.fullmatch(key)}
    assert set(report.loaded) == set(model.state_dict())
    assert len(report.loaded) == len(expected)
    if "vitdet" in name:  # the others have names of Detectron2's classes
        assert set(report.loaded) == expected
    assert not (report.missing)
    assert not (report.unexpected)
    assert not (report.mismatched)
    assert not (report.initialised)
    assert not report.resized
    assert len(report.dropped) == len(golden_states()[name]) - len(expected)
    assert report.classes is None


# Sizes and heads differ by numbers; one of each says that the reader takes them too.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter:UserWarning")
@pytest.mark.parametrize("name", ["vitdet_b", "vitdet_h"])
def test_files_of_full_size_are_read_and_loaded(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model_final_000000.pkl"
    write_empty(path, name)
    report = load(build(name), path, strict_heads=True)
    assert set(report.loaded) == set(golden_states()[name])


CONFUSED = {
    # weights under recipe: what the message must say
    ("lvis_vitdet_b", "vitdet_b"): (
        r"these are LVIS weights \(1203 classes: lvis_vitdet_b\) under a COCO recipe \(80 classes: "
        r"vitdet_b\); use --config-file lvis_vitdet_b, or weights of this recipe"
    ),
    ("vitdet_l", "vitdet_b"): (
        r"ViT of width 1024, depth 24, patch 16 in the file, ViT of width 768, .*the shapes are "
        r"those of ViT-L \(1024/24\): use --config-file vitdet_l$"
    ),
    ("lvis_cascade_vitdet_h", "vitdet_b"): (
        r"those of ViT-H \(1280/32\): use --config-file lvis_cascade_vitdet_h$"
    ),
    ("cascade_vitdet_b", "vitdet_b"): (
        r"tensors of the model are not in the file: .*use --config-file cascade_vitdet_b$"
    ),
    ("vitdet_b", "cascade_vitdet_b"): r"not in the file: .*use --config-file vitdet_b$",
    ("lvis_cascade_swin_b", "cascade_swin_b"): (
        r"these are LVIS weights \(1203 classes: lvis_cascade_swin_b\) under a COCO recipe \(80 "
        r"classes: cascade_swin_b\); use --config-file lvis_cascade_swin_b,"
    ),
    ("cascade_swin_l", "cascade_swin_b"): (
        r"Swin of width 192, depth 24 in the file, Swin of width 128, depth 24 in the model\); the "
        r"shapes are those of Swin-L \(192/24\): use --config-file cascade_swin_l$"
    ),
    ("cascade_mvitv2_l", "cascade_mvitv2_b"): (
        r"not those of timm model 'mvitv2_base_cls'.*; the shapes are those of MViTv2-L "
        r"\(144/48\): use --config-file cascade_mvitv2_l$"
    ),
    ("cascade_mvitv2_b", "cascade_vitdet_b"): (
        r"MViTv2 of width 96, depth 24 in the file, ViT of width 768, .*: use --config-file "
        r"cascade_mvitv2_b$"
    ),
    ("cascade_vitdet_b", "cascade_swin_b"): (
        r"the shapes are those of ViT-B \(768/12\): use --config-file cascade_vitdet_b$"
    ),
    ("vitdet_b", "lvis_cascade_vitdet_b"): r"these are COCO weights \(80 classes: vitdet_b\) under",
}


@pytest.mark.parametrize(("weights", "recipe"), CONFUSED)
def test_weights_of_another_recipe_are_refused_by_name(
    weights: str, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "read_weights", lambda _: {"model": meta_state(weights)})
    with pytest.raises(WeightsError, match=CONFUSED[weights, recipe]):
        load(build(recipe), "x.pkl", strict_heads=True)


def test_an_encoder_of_another_size_names_a_recipe_with_the_same_heads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prefix = "backbone.net."
    encoder = {
        key.removeprefix(prefix): value
        for key, value in meta_state("vitdet_h").items()
        if key.startswith(prefix) and "rel_pos" not in key
    }
    monkeypatch.setattr(loading, "read_weights", lambda _: dict(encoder))
    with pytest.raises(WeightsError, match=r"ViT-H \(1280/32\): use --config-file vitdet_h"):
        load(build("vitdet_l"), "mae.pth")
    for key in list(encoder):
        if "blocks.31" in key or "blocks.30" in key:
            del encoder[key]
    with pytest.raises(WeightsError, match=r"depth 30.* the closest size is ViT-H \(1280/32\)"):
        load(build("vitdet_l"), "mae.pth")


def test_old_buffers_in_a_file_are_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    state: dict[str, Any] = meta_state("vitdet_b")
    extra = {
        "pixel_mean": np.zeros((3, 1, 1)),
        "pixel_std": np.zeros((3, 1, 1)),
        "proposal_generator.anchor_generator.cell_anchors.0": np.zeros((3, 4)),
        "roi_heads.box_predictor.fed_loss_cls_weights": np.zeros(80),
    }
    state.update({key: torch.from_numpy(value) for key, value in extra.items()})
    monkeypatch.setattr(loading, "read_weights", lambda _: {"model": state})
    report = load(build("vitdet_b"), "x.pkl", strict_heads=True)
    assert set(report.dropped) == set(extra)
    assert not report.unexpected

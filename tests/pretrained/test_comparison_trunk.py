# SPDX-License-Identifier: Apache-2.0
"""Swin and MViTv2 are told from plain ViTs, and their sizes are those of timm's models."""

from __future__ import annotations

import dataclasses

import pytest
import timm
import torch
from torch import Tensor

from vitdet_d2.pretrained.comparison_trunk import ComparisonTrunk, comparison_trunk
from vitdet_d2.pretrained.identity import identify
from vitdet_d2.pretrained.trunk import Heads


def state_of(name: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(timm.create_model(name).state_dict())


@pytest.mark.parametrize(("name", "size", "text"), [
    ("swin_tiny_patch4_window7_224", "swin_t", "Swin of width 96, depth 12"),
    ("swin_small_patch4_window7_224", "swin_s", "Swin of width 96, depth 24"),
    ("swin_base_patch4_window7_224", "swin_b", "Swin of width 128, depth 24"),
    ("swin_large_patch4_window7_224", "swin_l", "Swin of width 192, depth 24"),
    ("mvitv2_tiny", "mvitv2_t", "MViTv2 of width 96, depth 10"),
    ("mvitv2_small", "mvitv2_s", "MViTv2 of width 96, depth 16"),
    ("mvitv2_base", "mvitv2_b", "MViTv2 of width 96, depth 24"),
    ("mvitv2_large", "mvitv2_l", "MViTv2 of width 144, depth 48"),
    ("mvitv2_huge_cls", "mvitv2_h", "MViTv2 of width 192, depth 80"),
])  # fmt: skip
def test_sizes_are_those_of_timm(name: str, size: str, text: str) -> None:
    state = state_of(name)
    for prefix in ("", "backbone.bottom_up.net."):
        trunk = identify({prefix + key: value for key, value in state.items()}).trunk
        assert isinstance(trunk, ComparisonTrunk)
        assert (trunk.size, str(trunk)) == (size, text)


def test_plain_vits_are_none() -> None:
    state = state_of("vit_tiny_patch16_224")
    assert comparison_trunk(state) is None
    assert str(identify(state)) == "ViT of width 192, depth 12, patch 16"


@pytest.mark.parametrize("name", ["swinv2_tiny_window8_256", "pvt_v2_b0"])
def test_other_models_with_stages_are_no_plain_vits(name: str) -> None:
    assert identify(state_of(name)).trunk is None


def test_what_fits_is_of_the_same_kind_and_size() -> None:
    swin = ComparisonTrunk(kind="swin", width=96, depth=24)
    deeper = dataclasses.replace(swin, depth=26)
    assert swin.fits(swin, partial=False)
    assert deeper.fits(swin, partial=True)
    assert not deeper.fits(swin, partial=False)
    assert not dataclasses.replace(swin, kind="mvitv2").fits(swin, partial=True)
    assert deeper.size is None
    assert deeper.closest == "Swin-S (96/24)"


def test_recipes_are_named_by_heads_and_data() -> None:
    swin = ComparisonTrunk(kind="swin", width=128, depth=24)
    heads = Heads(num_classes=1203, dataset="lvis", cascade=True, masks=True)
    assert swin.recipe_family(heads) == "lvis_cascade"
    plain = Heads(num_classes=80, dataset="coco", masks=True)
    assert swin.recipe_family(plain) == "mask_rcnn"
    assert swin.recipe_family(dataclasses.replace(plain, dense=True)) == "retinanet"

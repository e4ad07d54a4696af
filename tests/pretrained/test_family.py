# SPDX-License-Identifier: Apache-2.0
"""Which family of encoders a model has, by its names alone."""

from __future__ import annotations

import pytest

from vitdet_d2.pretrained.family import PLAIN_VIT, PYRAMID, family_in

VIT = ["patch_embed.proj.weight", "blocks.0.norm1.weight"]
PVT = ["patch_embed1.proj.weight", "block1.0.norm1.weight", "patch_embed2.proj.weight"]


def below(prefix: str, names: list[str]) -> list[str]:
    return [prefix + name for name in names]


@pytest.mark.parametrize("prefix", ["", "backbone.net.", "backbone.bottom_up.", "net."])
def test_the_one_encoder_is_found_with_its_prefix(prefix: str) -> None:
    heads = ["roi_heads.box_head.fc1.weight", "blocks.0.other"]
    assert family_in([*heads, *below(prefix, VIT)]) == (PLAIN_VIT, prefix)
    assert family_in([*heads, *below(prefix, PVT)]) == (PYRAMID, prefix)


def test_others_are_of_no_family() -> None:
    assert family_in([]) is None
    assert family_in(["stem.conv1.weight", "res2.0.conv1.weight"]) is None
    # A Swin has such patches, and no such blocks.
    assert family_in(["patch_embed.proj.weight", "layers.0.blocks.0.norm1.weight"]) is None
    assert family_in(["my_patch_embed1.proj.weight", *PVT[1:]]) is None


def test_two_encoders_are_none() -> None:
    assert family_in([*below("a.", PVT), *below("b.", PVT)]) is None
    assert family_in([*below("a.", PVT), *below("b.", VIT)]) is None

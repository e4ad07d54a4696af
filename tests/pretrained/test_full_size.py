# SPDX-License-Identifier: Apache-2.0
"""Every official class at full size, without memory: recognised, every key accounted for, loaded.

The lists in ``keys/`` are facts about the official code; each says what it was made with.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.pretrained import key_lists
from vitdet_d2.backbones.vit import ViT
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained import load, vit_options
from vitdet_d2.pretrained.container import unwrap
from vitdet_d2.pretrained.recognise import encoder_of

# Of the patch embedding, and of the positions.
PATCHES, POSITIONS = 2, 1
# Of a block of a plain ViT; with LayerScale, with a gate, with both tables of relative positions.
PLAIN = 12
SCALED, GATED, TABLES = PLAIN + 2, PLAIN + 2, PLAIN + 2
BASE = 12 * PLAIN + PATCHES + POSITIONS


@dataclass(frozen=True)
class Expected:
    """Of one list.

    Attributes:
        source: that it is recognised as.
        keys: in the file.
        dropped: of them by name; all others are in one of our tensors.
        tensors: of ours, after queries, keys and values are joined and gates are parted.
        prefix: rows of the positions before those of the patches.
    """

    source: str
    keys: int
    dropped: int
    tensors: int = BASE
    prefix: int = 1


BEIT_PER_BLOCK = 12 * (SCALED + 1) + PATCHES
BEIT_SHARED = 12 * SCALED + PATCHES + 1
DINOV2 = 12 * SCALED + PATCHES + POSITIONS
GIANT = 40 * (SCALED + 2) + PATCHES + POSITIONS

LISTS = {
    "beit_ft": Expected("beit_or_beit_v2", 211, 12 + 5, BEIT_PER_BLOCK),
    "beit_ft2": Expected("beit_or_beit_v2", 211, 12 + 5, BEIT_PER_BLOCK),
    "beit_pt": Expected("beit_or_beit_v2", 190, 7, BEIT_SHARED),
    "beit_pt2": Expected("beit_v2", 220, 7 + 30, BEIT_SHARED),
    # A norm before the blocks; no bias of the patches.
    "clip": Expected("openclip", 152, 4, BASE + 1),
    "deit": Expected("plain", 152, 5),
    "deit384": Expected("plain", 152, 5),
    "deit_dist": Expected("deit", 155, 8, prefix=2),
    "deit3": Expected("deit3", 176, 5, 12 * SCALED + PATCHES + POSITIONS, prefix=0),
    "dinov2": Expected("dinov2", 175, 4, DINOV2),
    "dinov2_reg": Expected("dinov2", 176, 5, DINOV2),
    "dinov2_g": Expected("dinov2", 567, 4, GIANT),
    "dinov3": Expected("dinov3", 188, 6 + 12, 12 * SCALED + PATCHES, prefix=0),
    "dinov3_s": Expected("dinov3", 188, 6 + 12, 12 * SCALED + PATCHES, prefix=0),
    "dinov3_splus": Expected("dinov3", 212, 6 + 12, 12 * (SCALED + 2) + PATCHES, prefix=0),
    # Gates of three layers, and their norm.
    "eva02": Expected("eva02", 262, 7 + 24, 12 * (GATED + 2) + PATCHES + POSITIONS),
    "mae": Expected("mae", 254, 4 + 103),
    "mae_h": Expected("mae", 494, 4 + 103, 32 * PLAIN + PATCHES + POSITIONS),
    "mae_vit": Expected("plain", 152, 5),
    "moco": Expected("plain", 152, 5),
    "moco_small": Expected("plain", 152, 5),
    "moco_full": Expected("mocov3", 342, 342 - BASE),
    "sam": Expected("sam", 314, 314 - 12 * TABLES - 3, 12 * TABLES + 3, prefix=0),
    "hf_vit": Expected("hugging_face_vit", 200, 5),
    "hf_vit_cls": Expected("hugging_face_vit", 200, 5),
    "hf_vit_mim": Expected("hugging_face_vit", 201, 6),
    "hf_vitmae": Expected("hugging_face_vit", 198, 3),
    "hf_vitmae_pre": Expected("hugging_face_vit_mae", 334, 3 + 136),
    "hf_deit_dist": Expected("hugging_face_deit", 203, 8, prefix=2),
    "hf_ijepa": Expected("hugging_face_ijepa", 197, 2, prefix=0),
    "hf_msn": Expected("hugging_face_vit", 198, 3),
    "hf_beit_cls": Expected("hugging_face_beit", 223, 5, BEIT_PER_BLOCK),
    "hf_beit_mim": Expected("hugging_face_beit", 213, 6, BEIT_SHARED),
    "hf_data2vec": Expected("hugging_face_beit", 208, 1, BEIT_SHARED),
    "hf_dinov2": Expected("hugging_face_dinov2", 223, 4, DINOV2),
    "hf_dinov2_reg": Expected("hugging_face_dinov2", 224, 5, DINOV2),
    "hf_dinov2_g": Expected("hugging_face_dinov2", 727, 4, GIANT),
    "hf_dinov3": Expected("hugging_face_dinov3", 211, 5, 12 * SCALED + PATCHES, prefix=0),
    "hf_dinov3_splus": Expected(
        "hugging_face_dinov3", 235, 5, 12 * (SCALED + 2) + PATCHES, prefix=0
    ),
    "hf_clip": Expected("hugging_face_clip", 398, 3 + 199, BASE + 1),
    "hf_clip_vision": Expected("hugging_face_clip", 199, 3, BASE + 1),
    "hf_sam": Expected("hugging_face_sam", 315, 315 - 12 * TABLES - 3, 12 * TABLES + 3, prefix=0),
    "hf_vitdet": Expected("hugging_face_vitdet", 171, 0, 12 * TABLES + 3),
}
REFUSED = {"moco_conv": r"MoCo v3: its patches come from a stem of convolutions"}


def wrapped(name: str, state: dict[str, Tensor]) -> dict[str, Any]:
    """As in the official file, where that is a part of the evidence."""
    return {"model": state} if name == "deit3" else dict(state)


def test_every_list_is_tested() -> None:
    assert sorted([*LISTS, *REFUSED]) == key_lists.names()


@pytest.mark.parametrize("name", LISTS)
def test_every_key_is_accounted_for(name: str) -> None:
    expected, state = LISTS[name], key_lists.read(name)
    assert len(state) == expected.keys
    encoder = encoder_of(name, unwrap(name, wrapped(name, state)))
    assert encoder.source.name == expected.source
    assert len(encoder.dropped) == expected.dropped
    assert len(encoder.tensors) == expected.tensors
    assert encoder.num_prefix == expected.prefix
    assert {tensor.device.type for tensor in encoder.tensors.values()} == {"meta"}


@pytest.mark.parametrize("name", LISTS)
def test_every_tensor_has_a_place_in_the_vit_of_its_size(name: str) -> None:
    expected, content = LISTS[name], wrapped(name, key_lists.read(name))
    with torch.device("meta"):
        vit = ViT(**{"num_heads": 12, **vit_options(content), "img_size": 224})
    report = load(vit, name, content=content)
    assert not report.missing
    assert not report.mismatched
    assert not report.unexpected
    assert not report.folded
    given, total = report.supplied
    assert given == total
    # One table for all blocks is one parameter of ours, too.
    assert len(report.loaded) == expected.tensors


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_by_name(name: str) -> None:
    with pytest.raises(WeightsError, match=REFUSED[name]):
        encoder_of(name, unwrap(name, key_lists.read(name)))


def test_mae_supplies_147_tensors_of_a_detection_backbone() -> None:
    """ViTDet adds two tables in each of twelve blocks."""
    state = key_lists.read("mae")
    with torch.device("meta"):
        vit = ViT(use_rel_pos=True, window_size=14, window_block_indexes=(0, 1, 3, 4, 6, 7, 9, 10))
    report = load(vit, "mae", content=state)
    assert len(vit.state_dict()) == 171
    assert report.supplied == (147, 147)
    assert report.verdict == "all that MAE supplies: 147 of 147"
    assert len(report.initialised) == 24


def test_moco_small_has_other_heads_than_deit_small() -> None:
    state = key_lists.read("moco_small")
    file = unwrap("moco_small", state)
    assert encoder_of("moco_small", file, "mocov3").num_heads == 12
    assert encoder_of("moco_small", file, "deit").num_heads == 6


def test_lists_are_small_and_say_how_they_were_made() -> None:
    for name in key_lists.names():
        path = key_lists.FOLDER / f"{name}.json"
        assert path.stat().st_size < 250_000
        assert len(json.loads(path.read_text())["made_with"]) > 20

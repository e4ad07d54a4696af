# SPDX-License-Identifier: Apache-2.0
"""What timm's plain ViTs are taken for: at full size, without memory, by name of the model.

Nothing of another function may be taken for a ViT that keys alone suggest.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import timm
import torch
from torch import Tensor, nn

from vitdet_d2.backbones.vit import ViT
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained import load, vit_options
from vitdet_d2.pretrained.container import unwrap
from vitdet_d2.pretrained.recognise import encoder_of


class _Taken(NamedTuple):
    source: str
    statistics: str | None  # None: ImageNet's are used, and said
    prefix: int = 0


TAKEN = {
    "vit_tiny_patch16_224": _Taken("plain", None, 1),
    "vit_small_patch14_dinov2": _Taken("plain", None, 1),
    "vit_small_patch14_reg4_dinov2": _Taken("dinov2", "ImageNet"),
    "vit_base_patch14_reg1_tipsv2": _Taken("plain", None),
    "vit_giant_patch14_reg1_tipsv2": _Taken("plain", None),
    "vit_base_patch16_radio_v3": _Taken("plain", None),
    "vit_base_patch16_reg4_gap_256": _Taken("plain", None),
    "vit_wee_patch16_reg1_gap_256": _Taken("plain", None),
    "vit_mediumd_patch16_reg4_gap_256": _Taken("plain", None),
    "vit_so150m2_patch16_reg1_gap_256": _Taken("plain", None, 1),
    "vit_so150m_patch16_reg4_map_256": _Taken("plain", None, 4),
    "vit_medium_patch16_gap_256": _Taken("plain", None),
    "vit_giantopt_patch16_siglip_gap_256": _Taken("plain", None),
    "vit_intern300m_patch14_448": _Taken("plain", None, 1),
    "vit_base_patch16_siglip_224": _Taken("siglip", "0.5"),
    "vit_base_patch16_clip_224": _Taken("openclip", "CLIP", 1),
    "vit_small_patch16_dinov3": _Taken("dinov3", "ImageNet"),
    "vit_small_plus_patch16_dinov3_qkvb": _Taken("dinov3", "ImageNet"),
    "vit_large_patch16_dinov3": _Taken("dinov3", None),
    "flexivit_small": _Taken("plain", None),
    "deit_tiny_patch16_224": _Taken("plain", None, 1),
    "deit_tiny_distilled_patch16_224": _Taken("deit", "ImageNet", 2),
    "deit3_small_patch16_224": _Taken("deit3", "ImageNet"),
    "beit_base_patch16_224": _Taken("beit_or_beit_v2", None, 1),
    "beitv2_base_patch16_224": _Taken("beit_or_beit_v2", None, 1),
    "eva_large_patch14_196": _Taken("plain", None, 1),
    "eva02_tiny_patch14_224": _Taken("eva02", "CLIP", 1),
    "eva02_base_patch14_448": _Taken("eva02", "CLIP", 1),
    "samvit_base_patch16": _Taken("sam", "ImageNet"),
}
REFUSED = {
    "aimv2_large_patch14_224": "a norm behind its patches",
    "beit3_base_patch16_224": "attention has a norm of its own",
    "eva02_base_patch16_clip_224": "attention has a norm of its own",
    "naflexvit_base_patch16_gap": "flat vectors",
    "vitamin_small_224": "a convolutional network",
    "vit_base_patch16_xp_224": "side by side",
    "vit_pwee_patch16_reg1_gap_256": "side by side",
    "vit_dwee_patch16_reg1_gap_256": "differential attention",
    "vit_small_r26_s32_224": "a convolutional network",
    "vit_small_resnet26d_224": "a convolutional network",
    "vit_relpos_small_patch16_224": "relative positions",
    "vit_srelpos_small_patch16_224": "relative positions",
    "vit_small_patch16_rope_224": "rotary",
    "vit_small_patch16_rope_ape_224": "rotary.*name the source deit3",
    "vit_small_patch16_rope_mixed_224": "frequencies of its rotary positions",
    "vit_base_patch16_rope_reg1_gap_256": "rotary",
    "vit_base_patch16_sapiens2": "Sapiens 2",
    "vit_pe_core_tiny_patch16_384": "Perception Encoder",
    "vit_pe_lang_large_patch14_448": "Perception Encoder",
    "vit_pe_spatial_tiny_patch16_512": "Perception Encoder",
}


def _model(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name)


def _state(name: str) -> dict[str, Tensor]:
    return dict(_model(name).state_dict())


@pytest.mark.parametrize("name", TAKEN)
def test_what_a_model_is_taken_for(name: str) -> None:
    model = _model(name)
    state = dict(model.state_dict())
    encoder = encoder_of(name, unwrap(name, state))
    statistics = encoder.normalisation.name if encoder.normalisation else None
    assert _Taken(encoder.source.name, statistics, encoder.num_prefix) == TAKEN[name]
    block = model.get_submodule("blocks")[0]  # type: ignore[index]
    assert encoder.num_heads in (None, block.attn.num_heads)
    with torch.device("meta"):
        vit = ViT(**{"num_heads": block.attn.num_heads, **vit_options(state), "img_size": 224})
    report = load(vit, name, content=state)
    assert not (report.missing)
    assert not (report.mismatched)
    assert not (report.unexpected)
    assert not (report.folded)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why(name: str) -> None:
    with pytest.raises(WeightsError, match=REFUSED[name]):
        encoder_of(name, unwrap(name, _state(name)))


@pytest.mark.parametrize(
    "name", ["vit_pe_spatial_tiny_patch16_512", "vit_relpos_small_patch16_224"]
)
def test_a_name_does_not_help(name: str) -> None:
    state = unwrap(name, _state(name))
    for source in ("openclip", "mae"):
        with pytest.raises(WeightsError, match=REFUSED[name]):
            encoder_of(name, state, source)

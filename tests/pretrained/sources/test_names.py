# SPDX-License-Identifier: Apache-2.0
"""A user who names an origin is served in all its layouts, and told where a file is of another."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tests.pretrained import key_lists
from tests.pretrained.golden import load_golden
from tests.pretrained.pyramid_golden import load_pyramid
from tests.pretrained.sources.hugging_face_models import CASES
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.container import Unwrapped, unwrap
from vitdet_d2.pretrained.normalisation import CLIP, HALF, IMAGENET, SATELLITE, Normalisation
from vitdet_d2.pretrained.recognise import encoder_of, named_source
from vitdet_d2.pretrained.sources import SOURCES

_SMALL: dict[str, Any] = {"img_size": 48, "embed_dim": 24, "depth": 1, "num_heads": 2}

# Origin, layout, statistics of its images. Layouts: "golden:NAME" official files, "keys:NAME"
# official classes at full size, "hf:NAME" transformers, "timm:NAME", "pyramid:NAME" official files
# of pyramid transformers.
SERVED: list[tuple[str, str, Normalisation | None]] = [
    ("mae", "golden:mae", IMAGENET),
    ("mae", "golden:mae_finetuned", IMAGENET),
    ("mae", "hf:vit_mae", IMAGENET),
    ("mae", "hf:vit_mae_pretraining", IMAGENET),
    ("mae", "timm:plain", IMAGENET),
    ("mocov3", "golden:moco_v3", IMAGENET),
    ("mocov3", "keys:moco", IMAGENET),
    ("mocov3", "timm:plain", IMAGENET),
    ("beit", "golden:beit_finetuned", HALF),
    ("beit", "golden:beit_pretrained", HALF),
    ("beit", "hf:beit_shared", HALF),
    ("beit", "hf:beit_per_layer", HALF),
    ("beit_in1k", "hf:beit_shared", IMAGENET),
    ("beit_v2", "golden:beitv2_pretrained", IMAGENET),
    ("beit_v2", "hf:beit_shared", IMAGENET),
    ("deit", "golden:deit", IMAGENET),
    ("deit", "golden:deit_distilled", IMAGENET),
    ("deit", "hf:deit_distilled", IMAGENET),
    ("deit", "hf:vit", IMAGENET),
    ("deit", "timm:plain", IMAGENET),
    ("deit3", "golden:deit3", IMAGENET),
    ("deit3", "timm:deit3", IMAGENET),
    ("augreg", "timm:plain", HALF),
    ("augreg", "hf:vit", HALF),
    ("google", "golden:google", HALF),
    ("google", "timm:plain", HALF),
    ("google", "hf:vit_classifier", HALF),
    ("dino", "golden:dino", IMAGENET),
    ("dino", "hf:vit", IMAGENET),
    ("dino", "timm:plain", IMAGENET),
    ("ibot", "golden:ibot", IMAGENET),
    ("ibot", "golden:ibot_scaled", IMAGENET),
    ("ibot", "hf:vit", IMAGENET),
    ("msn", "golden:msn", IMAGENET),
    ("msn", "hf:vit", IMAGENET),
    ("ijepa", "golden:ijepa", IMAGENET),
    ("ijepa", "hf:ijepa", IMAGENET),
    ("ijepa", "timm:gap", IMAGENET),
    ("dinov2", "golden:dinov2", IMAGENET),
    ("dinov2", "golden:dinov2_giant", IMAGENET),
    ("dinov2", "golden:dinov2_chunks", IMAGENET),
    ("dinov2", "hf:dinov2", IMAGENET),
    ("dinov2", "hf:dinov2_gated", IMAGENET),
    ("dinov2", "timm:dinov2", IMAGENET),
    ("dinov3", "golden:dinov3", IMAGENET),
    ("dinov3", "hf:dinov3", IMAGENET),
    ("dinov3", "timm:dinov3", IMAGENET),
    ("dinov3_sat", "golden:dinov3", SATELLITE),
    ("dinov3_sat", "hf:dinov3", SATELLITE),
    ("dinov3_sat", "timm:dinov3", SATELLITE),
    ("sam", "golden:sam", IMAGENET),
    ("sam", "hf:sam", IMAGENET),
    ("clip", "golden:clip", CLIP),
    ("clip", "hf:clip_vision", CLIP),
    ("clip", "hf:clip_projection", CLIP),
    ("clip", "timm:clip", CLIP),
    ("openclip", "golden:openclip", CLIP),
    ("openclip", "hf:clip_vision", CLIP),
    ("openclip", "timm:clip", CLIP),
    ("siglip", "timm:siglip", HALF),
    ("siglip", "timm:gap", HALF),
    ("eva01", "golden:eva01_pretrained", CLIP),
    ("eva02", "golden:eva02_pretrained", CLIP),
    ("pvt", "pyramid:pvt", IMAGENET),
    ("pvt", "keys:pyramids/pvt_small_det", IMAGENET),
    ("pvt", "keys:pyramids/hf_pvt", IMAGENET),
    ("pvt_v2", "pyramid:pvt_v2", IMAGENET),
    ("pvt_v2", "pyramid:mit", IMAGENET),
    ("pvt_v2", "keys:pyramids/pvt_v2_b5_cls", IMAGENET),
    ("pvt_v2", "keys:pyramids/timm_pvt_v2_b2_li", IMAGENET),
    ("pvt_v2", "keys:pyramids/hf_pvt_v2", IMAGENET),
    ("mit", "pyramid:mit", IMAGENET),
    ("mit", "keys:pyramids/mit_b5", IMAGENET),
    ("mit", "keys:pyramids/hf_segformer", IMAGENET),
    ("mit", "keys:pyramids/hf_segformer_memory", IMAGENET),
]

# Of each family one layout, and origins that it cannot come from.
OTHERS = [
    ("hf:vit", ("beit", "dinov2", "dinov3", "sam", "clip", "eva02", "deit3")),
    ("timm:plain", ("beit", "dinov2", "dinov3", "sam", "clip", "openclip", "eva01", "eva02")),
    ("hf:beit_shared", ("mae", "dinov2", "deit", "hugging_face_dinov2")),
    ("golden:beit_finetuned", ("mae", "deit", "dino", "eva01", "google")),
    ("hf:dinov2", ("dinov3", "mae", "dino")),
    ("hf:dinov3", ("dinov2", "mae")),
    ("timm:dinov3", ("dinov2", "mae", "dino")),
    ("hf:clip_vision", ("mae", "siglip", "eva02")),
    ("timm:clip", ("mae", "deit", "siglip")),
    ("hf:sam", ("mae", "dinov2", "hugging_face_vitdet")),
    ("hf:vitdet", ("mae", "sam")),
    ("golden:mae", ("deit", "dino")),
    ("golden:deit_distilled", ("mae", "augreg")),
    ("golden:eva02_pretrained", ("mae", "eva01", "dinov3")),
    ("golden:sam", ("mae",)),
    ("pyramid:pvt", ("mae", "pvt_v2", "mit", "hugging_face_pvt")),
    ("pyramid:pvt_v2", ("mae", "pvt", "mit", "hugging_face_segformer")),
    ("pyramid:mit", ("pvt", "deit")),
    ("keys:pyramids/timm_pvt_v2_b2", ("pvt", "mit", "mae")),
    ("keys:pyramids/hf_pvt", ("pvt_v2", "mit")),
    ("keys:pyramids/hf_segformer", ("pvt", "pvt_v2")),
]


def _of_timm(name: str) -> dict[str, Tensor]:
    if name == "dinov3":
        model: Any = Eva(
            **_SMALL, num_classes=0, qkv_bias=False, init_values=1.0, rope_type="dinov3",
            use_rot_pos_emb=True, use_abs_pos_emb=False, num_reg_tokens=4, use_fc_norm=False,
        )  # fmt: skip
        return dict(model.state_dict())
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "gap": {"class_token": False, "global_pool": "avg"},
        "siglip": {"class_token": False, "global_pool": "map"},
        "deit3": {"init_values": 1e-5, "no_embed_class": True},
        "dinov2": {"init_values": 1e-5},
        "clip": {"pre_norm": True},
    }
    return dict(VisionTransformer(**_SMALL, num_classes=5, **options[name]).state_dict())


@cache
def file_of(layout: str) -> Unwrapped:
    """Make the state dict of a layout as it comes out of its container."""
    kind, _, name = layout.partition(":")
    if kind == "golden":
        return unwrap(layout, {"model": load_golden(name).state()})
    if kind == "pyramid":
        return unwrap(layout, {"state_dict": load_pyramid(name).state()})
    if kind == "keys":
        return unwrap(layout, key_lists.read(name))
    return unwrap(layout, dict(CASES[name].make().state_dict()) if kind == "hf" else _of_timm(name))


@pytest.mark.parametrize(("origin", "layout", "statistics"), SERVED)
def test_an_origin_is_served_in_all_its_layouts(
    origin: str, layout: str, statistics: Normalisation | None
) -> None:
    encoder = encoder_of(layout, file_of(layout), origin)
    assert encoder.normalisation == statistics
    assert encoder.how.startswith("as named")


def test_every_name_has_a_layout_that_is_tested() -> None:
    names = {source.name for source in SOURCES if not source.name.startswith("hugging_face_")}
    # These stand for what keys cannot tell.
    doubts = {"plain", "timm_tower", "beit_or_beit_v2", "deit3_or_rope", "pvt_v2_or_mit"}
    assert names - doubts == {origin for origin, _, _ in SERVED}
    origins = {name for source in SOURCES for name in source.origins}
    assert all(named_source(name) for name in origins)


@pytest.mark.parametrize(
    ("layout", "origin"),
    [(layout, name) for layout, names in OTHERS for name in names],
)
def test_a_layout_of_another_origin_is_an_error(layout: str, origin: str) -> None:
    message = rf"{layout}: (named {origin}, but its keys are|.*has no such keys)"
    with pytest.raises(WeightsError, match=message):
        encoder_of(layout, file_of(layout), origin)


def test_activation_comes_with_the_name() -> None:
    for layout in ("hf:clip_vision", "timm:clip", "golden:openclip"):
        assert encoder_of(layout, file_of(layout), "clip").needs.act == "quick_gelu"
        assert encoder_of(layout, file_of(layout), "openclip").needs.act == "gelu"
    for name in ("google", "siglip"):
        assert encoder_of("x", file_of("timm:gap"), name).needs.act == "gelu_tanh"
    assert encoder_of("x", file_of("timm:plain"), "augreg").needs.act == "gelu"


def test_heads_come_with_the_name() -> None:
    file = unwrap("x", key_lists.read("moco_small"))
    assert [encoder_of("x", file, name).num_heads for name in ("mocov3", "deit")] == [12, 6]

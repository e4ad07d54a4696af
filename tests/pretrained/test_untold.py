# SPDX-License-Identifier: Apache-2.0
"""What a file cannot tell is taken from the model, and said."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vitdet_d2.backbones import ViT
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained import load

UNTOLD = "no tensor shows its activation and its rotary positions"
NO_ALERT = ""
# Options of a ViT, and what its state dict does not show.
OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({}, NO_ALERT),
    ({"rope": "half"}, "rope=half"),
    ({"rope": "interleaved"}, "rope=interleaved"),
    ({"rope": "half", "use_abs_pos": False, "layer_scale_init": 0.1}, "rope=half"),
    ({"act": "quick_gelu"}, "act=quick_gelu"),
    ({"act": "quick_gelu", "pre_norm": True, "rope": "half"}, "rope=half act=quick_gelu"),
    ({"act_layer": nn.ReLU}, "act=ReLU"),
    ({"act": "gelu_tanh"}, NO_ALERT),
    ({"mlp": "swiglu"}, NO_ALERT),
    ({"mlp": "swiglu", "rope": "half"}, "rope=half"),
    # Its names are those of EVA-02, whose positions are rotary.
    ({"mlp": "swiglu", "qkv_bias": "qv"}, "rope=null"),
    ({"mlp": "swiglu", "qkv_bias": "qv", "pretrain_use_cls_token": False}, "rope=null"),
    ({"mlp": "swiglu", "qkv_bias": "qv", "rope": "half"}, "rope=half"),
    ({"mlp": "swiglu", "qkv_bias": "qv", "rope": "interleaved", "mlp_norm": True}, NO_ALERT),
    ({"qkv_bias": "qv", "rel_pos_bias": "per_block", "layer_scale_init": 0.1}, NO_ALERT),
    ({"qkv_bias": False, "rel_pos_bias": "shared", "rope": "half"}, "rope=half"),
    ({"use_rel_pos": True, "window_size": 2, "cross_window": "conv"}, NO_ALERT),
]


def build(**options: Any) -> ViT:
    vit = ViT(
        **{
            "img_size": 64, "pretrain_img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 3,
            "norm_layer": partial(nn.LayerNorm, eps=1e-6), **options,
        }
    )  # fmt: skip
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.3)
    return vit.eval()


@pytest.mark.parametrize(("options", "expected"), OPTIONS, ids=str)
def test_every_bare_vit_of_ours_can_be_read_again(
    options: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    saved, model = build(**options), build(**options)
    torch.save(saved.state_dict(), tmp_path / "w.pth")
    report = load(model, tmp_path / "w.pth")
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            model(image)["last_feat"], saved(image)["last_feat"], rtol=0, atol=1e-6
        )
    assert [f"({expected})" in alert for alert in report.alerts if UNTOLD in alert] == (
        [True] if expected else []
    )


def test_what_says_more_than_our_names_do_is_still_compared(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    model = build(act="quick_gelu")
    state = build().state_dict()
    torch.save(state, path)
    for source in ("augreg", "plain"):
        with pytest.raises(WeightsError, match="trained with gelu, the model has quick_gelu"):
            load(model, path, source=source)
    torch.save({**state, "cls_token": torch.rand(1, 1, 24)}, path)
    with pytest.raises(WeightsError, match="trained with gelu, the model has quick_gelu"):
        load(model, path)
    torch.save({**state, "norm.weight": torch.rand(24)}, path)
    with pytest.raises(WeightsError, match="it has no rotary positions"):
        load(build(rope="half"), path)


def test_a_vit_of_another_class_is_still_compared(tmp_path: Path) -> None:
    torch.save(build().state_dict(), tmp_path / "w.pth")
    other, ours = nn.Module(), build(act="quick_gelu")
    other.patch_embed, other.blocks = ours.patch_embed, ours.blocks
    other.pos_embed = ours.pos_embed
    assert other.state_dict().keys() == ours.state_dict().keys()
    with pytest.raises(WeightsError, match="trained with gelu, the model has quick_gelu"):
        load(other, tmp_path / "w.pth")


@pytest.mark.parametrize("source", [None, "plain"])
def test_a_size_of_ones_own_may_have_other_heads(source: str | None, tmp_path: Path) -> None:
    size = {"embed_dim": 384, "depth": 1, "num_heads": 8}
    state = {**build(**size).state_dict(), "cls_token": torch.rand(1, 1, 384)}
    torch.save(state, tmp_path / "w.pth")
    report = load(build(**size), tmp_path / "w.pth", source=source)
    assert any("taken are the model's 8" in alert and "have 6" in alert for alert in report.alerts)
    assert not load(build(**{**size, "num_heads": 6}), tmp_path / "w.pth", source=source).alerts


@pytest.mark.parametrize(("num_heads", "source"), [(8, "mae"), (12, None)])
def test_heads_of_a_known_source_are_compared(
    num_heads: int, source: str | None, tmp_path: Path
) -> None:
    size = {"embed_dim": 384, "depth": 1, "num_heads": num_heads}
    torch.save(build(**size).state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=f"6 attention heads there, the model {num_heads}"):
        load(build(**size), tmp_path / "w.pth", source=source)

# SPDX-License-Identifier: Apache-2.0
"""An encoder in a ViT that has more, or less, than it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.closed_form import fill_, tensor
from vitdet_d2.backbones.vit import ViT
from vitdet_d2.errors import WeightsError
from vitdet_d2.layers.activation import QuickGELU
from vitdet_d2.pretrained import LoadReport, load
from vitdet_d2.pretrained.positions import resize_position_grid


def build(**options: Any) -> ViT:
    return ViT(
        **{"img_size": 64, "embed_dim": 32, "depth": 2, "num_heads": 2, "pretrain_img_size": 64}
        | options
    ).eval()  # fmt: skip


def features(vit: ViT) -> Tensor:
    with torch.no_grad():
        return vit(tensor("image", (1, 3, 64, 64)).float())["last_feat"]


def hand_over(trained: ViT, model: ViT, **options: Any) -> LoadReport:
    return load(model, "weights", content=dict(trained.state_dict()), **options)


def test_factors_that_the_file_has_not_are_one() -> None:
    """Those that a model starts with, of 1e-5, would leave nothing of what was learned."""
    trained, model = fill_(build()), build(layer_scale_init=1e-5)
    report = hand_over(trained, model)
    assert torch.equal(features(model), features(trained))
    assert len(report.ones) == 4
    assert "one, as pre-training had none: LayerScale (4)" in report.lines()
    assert report.supplied == (27, 27)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_folding_loses_no_digits_of_half_precision(dtype: torch.dtype) -> None:
    """Products of small factors are below what half precision can tell."""
    trained = fill_(build(layer_scale_init=1.0))
    for block in trained.blocks:
        block.ls1.gamma.data *= 1e-5
        block.ls2.gamma.data *= 1e-5
    trained = trained.to(dtype).float()
    content = {name: value.to(dtype) for name, value in trained.state_dict().items()}
    model = build()
    load(model, "weights", content=content, layer_scale="fold")
    for name, value in trained.state_dict().items():
        if name.endswith(".attn.proj.weight"):
            gamma = trained.state_dict()[name.replace("attn.proj.weight", "ls1.gamma")]
            assert torch.equal(model.state_dict()[name], gamma[:, None] * value)


def test_biases_of_queries_and_values_that_the_file_has_not_are_zero() -> None:
    trained, model = fill_(build(qkv_bias=False)), fill_(build(qkv_bias="qv"))
    report = hand_over(trained, model)
    torch.testing.assert_close(features(model), features(trained))
    assert {name.split(".")[-1] for name in report.zeros} == {"q_bias", "v_bias"}


@pytest.mark.parametrize(
    "part", ["attn.rel_pos_h", "attn.relative_position_bias_table", "ls2.gamma"]
)
def test_what_one_block_of_the_file_lacks_is_missing(part: str) -> None:
    trained = build(use_rel_pos=True, rel_pos_bias="per_block", layer_scale_init=1.0)
    content = dict(trained.state_dict())
    del content[f"blocks.1.{part}"]
    model = build(use_rel_pos=True, rel_pos_bias="per_block", layer_scale_init=1.0)
    assert load(model, "weights", content=content).missing == (f"blocks.1.{part}",)


def test_zeros_do_not_count_as_supplied() -> None:
    trained = build()
    content = {n: v for n, v in trained.state_dict().items() if not n.endswith("bias")}
    lost = [n for n in content if n.startswith("blocks.1.mlp")]
    content = {n: v for n, v in content.items() if n not in lost}
    with pytest.raises(WeightsError, match=r"only \d+% of the backbone.*blocks\.1\.mlp"):
        load(build(), "weights", content=content)


@pytest.mark.parametrize(
    "options",
    [
        {"rel_pos_bias": "per_block", "qkv_bias": "qv"},
        {"rel_pos_bias": "shared", "pre_norm": True},
        {"mlp": "swiglu", "mlp_norm": True},
    ],
)
def test_our_own_options_are_read_again(options: dict[str, Any]) -> None:
    """The state dict of a bare backbone of ours goes into another one like it."""
    options = options | {
        "use_rel_pos": True, "layer_scale_init": 1.0, "window_size": 2, "window_block_indexes": [0],
    }  # fmt: skip
    trained, model = fill_(build(**options)), build(**options)
    report = hand_over(trained, model)
    assert torch.equal(features(model), features(trained))
    assert set(report.loaded) == set(model.state_dict())


@pytest.mark.parametrize(("layer", "name"), [(nn.ReLU, "ReLU"), (QuickGELU, "quick_gelu")])
def test_another_activation_is_refused_however_it_was_set(
    layer: type[nn.Module], name: str
) -> None:
    with pytest.raises(WeightsError, match=f"trained with gelu, the model has {name}.*act=gelu"):
        hand_over(build(), build(act_layer=layer), source="plain")


def test_the_tanh_form_of_gelu_is_a_note() -> None:
    report = hand_over(build(), build(act="gelu_tanh"))
    assert "trained with gelu, the model has gelu_tanh" in report.notes


def test_positions_that_are_reduced_are_an_alert() -> None:
    trained = fill_(build(pretrain_img_size=128))
    report = hand_over(trained, build())
    assert report.alerts == (
        "the 64 positions of the file are reduced to the model's 16, before they are enlarged to "
        "the images' again: model.backbone.net.pretrain_img_size=128 keeps them",
    )
    model = build(pretrain_img_size=128)
    assert not hand_over(trained, model).alerts
    assert torch.equal(features(model), features(trained))
    assert not hand_over(build(), model).alerts


def test_a_grid_tells_the_class_token_of_a_square_of_rows() -> None:
    """1 + 3 * 5 rows are 4 * 4, too."""
    trained = fill_(build())
    content = dict(trained.state_dict())
    rows = content["pos_embed"][:, 1:]
    content["pos_embed"] = rows
    model = build()
    load(model, "weights", content=content, position_grid=(3, 5))
    expected = resize_position_grid(rows[:, 1:], 0, (3, 5), (4, 4))
    assert torch.equal(model.pos_embed, torch.cat([rows[:, :1], expected], dim=1))
    with pytest.raises(WeightsError, match="are no grid of 3 x 4 patches"):
        load(model, "weights", content=content, position_grid=(3, 4))


def test_other_heads_name_the_sources_that_have_them() -> None:
    model = build(embed_dim=384, num_heads=12)
    with pytest.raises(WeightsError, match=r"has 6 attention heads.* name the source: mocov3\)"):
        hand_over(build(embed_dim=384, num_heads=12), model)
    assert hand_over(build(embed_dim=384, num_heads=12), model, source="mocov3").origin == "MoCo v3"

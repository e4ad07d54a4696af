# SPDX-License-Identifier: Apache-2.0
"""Pyramid transformers through `load`: other sizes and versions, partial and hostile files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.pretrained import golden
from tests.pretrained.pyramid_detector import released
from tests.pretrained.pyramid_golden import build, load_pyramid
from vitdet_d2.backbones import PVT, PVTv2, ViT
from vitdet_d2.backbones.pvt_sizes import pvt_arguments, pvt_v2_arguments
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained import load, pyramid_options, vit_options


@pytest.mark.parametrize(("file", "model", "shapes", "advice"), [
    ("pvt_v2:b2", "pvt:tiny", r"patch_embed1\.proj\.weight \(64, 3, 7, 7\) for \(64, 3, 4, 4\)",
     "the shapes are those of pvt_v2_b2"),
    ("pvt:small", "pvt_v2:b2", r"patch_embed1\.proj\.weight \(64, 3, 4, 4\) for \(64, 3, 7, 7\)",
     "the shapes are those of pvt_small"),
    ("pvt:small", "pvt:tiny", r"depths 3/4/6/3, .* in the file, .* depths 2/2/2/2",
     "the shapes are those of pvt_small"),
    ("pvt_v2:b0", "pvt_v2:b1", r"patch_embed1\.proj\.weight \(32, 3, 7, 7\) for \(64, 3, 7, 7\)",
     "the shapes are those of pvt_v2_b0"),
    ("pvt_v2:b2_li", "pvt_v2:b2", r"attn\.sr\.weight \(64, 64, 1, 1\) for \(64, 64, 8, 8\)",
     "the shapes are those of pvt_v2_b2_li"),
])  # fmt: skip
def test_other_versions_and_sizes_are_named_by_shape(
    file: str, model: str, shapes: str, advice: str
) -> None:
    kind, _, rest = model.partition(":")
    with torch.device("meta"):
        cls: Any = PVT if kind == "pvt" else PVTv2
        backbone = cls(**(pvt_arguments if kind == "pvt" else pvt_v2_arguments)(rest))
    with pytest.raises(WeightsError, match=rf"x\.pth: .*{shapes}.*{advice}") as refused:
        load(backbone, "x.pth", content=released(file))
    assert refused.value.exit_code == 3


def test_weights_of_mit_in_a_pvt_v2_are_named_by_their_perceptrons() -> None:
    with pytest.raises(WeightsError, match=r"MLP ratios 4/4/4/4.*mlp\.fc1\.weight \(32, 8\) for"):
        load(build("pvt_v2"), "x.pth", content=load_pyramid("mit").state())


def test_families_do_not_mix() -> None:
    vit = ViT(img_size=32, pretrain_img_size=32, embed_dim=24, depth=1, num_heads=3)
    with pytest.raises(
        WeightsError, match=r"PVT goes into PVT, PVTv2 or MiT, .* model is a plain ViT"
    ):
        load(vit, "x.pth", content=load_pyramid("pvt").state())
    with pytest.raises(
        WeightsError, match=r"goes into ViT, and the backbone .* is a pyramid transf"
    ):
        load(build("pvt"), "x.pth", content=golden.load_golden("mae").state())
    with pytest.raises(WeightsError, match="pyramid_options gives the arguments of PVT"):
        vit_options(load_pyramid("pvt").state())
    with pytest.raises(WeightsError, match="vit_options gives the arguments of ViT"):
        pyramid_options(golden.load_golden("mae").state())


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_names_of_the_toolboxes_own_classes_are_refused(prefix: str) -> None:
    names = ("layers.0.0.projection.weight", "layers.0.1.0.attn.attn.in_proj_weight")
    content = {"state_dict": {prefix + name: torch.zeros(1) for name in names}}
    with pytest.raises(WeightsError, match=r"mmdetection's PVT .* take the file of the authors"):
        load(build("pvt"), "x.pth", content=content)


def test_a_file_that_lost_its_positions_is_refused() -> None:
    state = load_pyramid("pvt").state()
    del state["pos_embed2"]
    with pytest.raises(WeightsError, match=r"x\.pth: PVT: no pos_embed2, .* allow_partial=True"):
        load(build("pvt"), "x.pth", content=state)
    report = load(build("pvt"), "x.pth", content=state, allow_partial=True)
    assert report.missing == ("pos_embed2",)


def test_stages_that_a_model_does_not_build_are_left_out() -> None:
    made = load_pyramid("pvt_v2")
    backbone = build("pvt_v2", out_features=("res2", "res3"))
    report = load(backbone, "x.pth", content=made.state())
    assert report.supplied[0] == report.supplied[1] == len(backbone.state_dict())
    assert "stage 3, 4 is left out: the model's out_features end before it" in report.notes
    assert "block4.0.norm1.weight" in report.dropped
    with torch.no_grad():
        maps = list(backbone(golden.image(64, 64)).values())
    for found, wanted in zip(maps, made.maps[:2], strict=True):
        torch.testing.assert_close(found[0], wanted, atol=golden.TOLERANCE, rtol=0)


def test_heads_that_differ_from_all_known_ones_are_refused() -> None:
    with torch.device("meta"):
        backbone = PVT(**{**pvt_arguments("tiny"), "num_heads": [2, 2, 5, 8]})
    message = r"\[1, 2, 5, 8\] attention heads, the model \[2, 2, 5, 8\].*num_heads=\[1,2,5,8\]"
    with pytest.raises(WeightsError, match=message):
        load(backbone, "x.pth", content=released("pvt:tiny"))


def test_incomplete_files_are_refused_unless_allowed() -> None:
    state = load_pyramid("pvt_v2").state()
    norms = {name: value for name, value in state.items() if not name.startswith("norm")}
    with pytest.raises(WeightsError, match=r"only 94% of the backbone's tensors.*norm1\.weight"):
        load(build("pvt_v2"), "x.pth", content=norms)
    few = {name: v for name, v in state.items() if not name.startswith("block3.1.")}
    with pytest.raises(WeightsError, match=r"depths 1/2/1/1.* in the file, .* depths 1/2/2/1"):
        load(build("pvt_v2"), "x.pth", content=few)
    report = load(build("pvt_v2"), "x.pth", content=few, allow_partial=True)
    assert report.missing
    assert all(name.startswith("block3.1.") for name in report.missing)
    one = {name: v for name, v in state.items() if name != "norm2.bias"}
    report = load(build("pvt_v2"), "x.pth", content=one)
    assert report.missing == ("norm2.bias",)
    assert "not in the file: norm2.bias" in " ".join(report.warnings())
    with pytest.raises(WeightsError, match=r"1 tensors of the model are not in the file"):
        load(build("pvt_v2"), "x.pth", content=one, strict_heads=True)


def test_missing_biases_of_queries_are_zero() -> None:
    state = load_pyramid("pvt_v2").state()
    bare = {n: v for n, v in state.items() if not n.endswith(("attn.q.bias", "attn.kv.bias"))}
    with_zeros = build("pvt_v2")
    report = load(with_zeros, "x.pth", content=bare)
    without = build("pvt_v2", qkv_bias=False)
    load(without, "x.pth", content=bare)
    assert len(report.zeros) == 12
    picture = golden.image(64, 64)
    with torch.no_grad():
        for ours, theirs in zip(with_zeros(picture).values(), without(picture).values(),
                                strict=True):  # fmt: skip
            torch.testing.assert_close(ours, theirs)
    with pytest.raises(WeightsError, match=r"without a place .*attn\.q\.bias"):
        load(build("pvt_v2", qkv_bias=False), "x.pth", content=state)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "scalar": lambda _: torch.tensor(1.0),
    "empty": lambda _: torch.zeros(0),
    "flat": torch.flatten,
    "a row less": lambda tensor: tensor[:-1],
    "five axes": lambda _: torch.ones(1, 2, 1, 2, 2),
    "integers": lambda tensor: tensor.to(torch.int64),
    "one byte": lambda tensor: tensor.to(torch.float8_e4m3fn),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["pvt", "pvt_v2_linear"])
def test_any_tensor_of_another_shape_ends_in_a_clear_error(name: str, change: str) -> None:
    state = load_pyramid(name).state()
    backbone = build(name)
    refused = []
    for key in [key for key in state if ".1." not in key and "3" not in key]:
        try:
            load(backbone, "x.pth", content={**state, key: CHANGES[change](state[key])})
        except WeightsError as error:
            refused.append(str(error))
    assert len(refused) > 3
    assert all(message.startswith("x.pth: ") for message in refused)


def test_model_without_memory_takes_the_tensors_themselves() -> None:
    made = load_pyramid("pvt")
    with torch.device("meta"):
        backbone = build("pvt")
    load(backbone, "x.pth", content=made.state())
    made.assert_maps(backbone)

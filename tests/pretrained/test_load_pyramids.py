# SPDX-License-Identifier: Apache-2.0
"""Pyramid transformers through `load`: detectors, other sizes and versions, resized, partial."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from torch import Tensor, nn

from tests.pretrained import golden
from tests.pretrained.pyramid_golden import OURS, build, load_pyramid
from vitdet_d2.backbones import PVT, PVTv2, ViT
from vitdet_d2.backbones.pvt_sizes import pvt_arguments, pvt_v2_arguments
from vitdet_d2.errors import RecipeError, WeightsError
from vitdet_d2.pretrained import convert, load, pyramid_options, vit_options, write_weights


def detector_part(name: str = "pvt", **options: Any) -> nn.Module:
    """A module with the names of a detector: ``backbone.bottom_up...``, necks and pixels."""
    model = nn.Module()
    bottom_up = build(name, **options)
    model.backbone = FPN(
        bottom_up, list(bottom_up.output_shape()), out_channels=8, top_block=LastLevelMaxPool()
    )
    model.register_buffer("pixel_mean", torch.full((3, 1, 1), 127.5))
    model.register_buffer("pixel_std", torch.full((3, 1, 1), 127.5))
    return model


@pytest.mark.parametrize("name", OURS)
def test_a_detector_takes_an_encoder_and_its_statistics(name: str) -> None:
    made = load_pyramid(name)
    model = detector_part(name)
    report = load(model, "x.pth", content={"state_dict": made.state()})
    made.assert_maps(model.backbone.bottom_up)
    assert all(loaded.startswith("backbone.bottom_up.") for loaded in report.loaded)
    assert len(report.initialised) == 18  # 16 of the neck, and two buffers
    assert not report.missing
    torch.testing.assert_close(
        model.pixel_mean.flatten(), torch.tensor([123.675, 116.28, 103.53]), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("kind", ["whole", "neck", "bottom_up"])
def test_files_of_our_detectors_go_on(kind: str) -> None:
    """A checkpoint goes into an equal detector, and its backbone into a bare one."""
    first, second = detector_part(), detector_part()
    golden.fill_model(first)
    state = first.state_dict()
    wanted: nn.Module = first
    if kind == "neck":
        second, wanted = second.backbone, first.backbone
    elif kind == "bottom_up":
        second, wanted = second.backbone.bottom_up, first.backbone.bottom_up
    report = load(second, "model_final.pth", content={"model": state})
    assert report.kind == "detector"
    assert not report.missing
    for name, value in wanted.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_detector_takes_a_backbone_with_its_neck() -> None:
    first, second = detector_part("mit"), detector_part("mit")
    golden.fill_model(first.backbone)
    report = load(second, "x.pth", content=dict(first.backbone.state_dict()))
    assert report.kind == "detector"
    for name, value in first.backbone.state_dict().items():
        assert torch.equal(second.backbone.state_dict()[name], value), name


def released(size: str) -> dict[str, Tensor]:
    """Return a file of a full size, without memory."""
    kind, _, rest = size.partition(":")
    with torch.device("meta"):
        cls: Any = PVT if kind == "pvt" else PVTv2
        return dict(
            cls(**(pvt_arguments if kind == "pvt" else pvt_v2_arguments)(rest)).state_dict()
        )


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
    with pytest.raises(WeightsError, match=r"PVT is a pyramid transformer, which PVT, PVTv2 or M"):
        load(vit, "x.pth", content=load_pyramid("pvt").state())
    with pytest.raises(WeightsError, match=r"is a plain ViT, which ViT takes, and the backbone of"):
        load(build("pvt"), "x.pth", content=golden.load_golden("mae").state())
    with pytest.raises(WeightsError, match="pyramid_options gives the arguments of PVT"):
        vit_options(load_pyramid("pvt").state())
    with pytest.raises(WeightsError, match="vit_options gives the arguments of ViT"):
        pyramid_options(golden.load_golden("mae").state())


def test_positions_are_resized_in_every_stage() -> None:
    made = load_pyramid("pvt")
    larger = build("pvt", pretrain_img_size=96)
    report = load(larger, "x.pth", content=made.state())
    assert [(name, old[1], new[1]) for name, old, new in report.resized] == [
        ("pos_embed1", 256, 576), ("pos_embed2", 64, 144), ("pos_embed3", 16, 36),
        ("pos_embed4", 5, 10),
    ]  # fmt: skip
    assert report.supplied[0] == report.supplied[1]
    (alert,) = report.alerts
    assert "model.backbone.bottom_up.pretrain_img_size=64 keeps them" in alert
    state, found = made.state(), larger.state_dict()
    for stage, (side, new) in enumerate(((16, 24), (8, 12), (4, 6)), start=1):
        maps = state[f"pos_embed{stage}"].transpose(1, 2).unflatten(2, (side, side))
        wanted = nn.functional.interpolate(maps, size=(new, new), mode="bilinear")
        torch.testing.assert_close(found[f"pos_embed{stage}"], wanted.flatten(2).transpose(1, 2))
    assert torch.equal(found["pos_embed4"][:, 0], state["pos_embed4"][:, 0])
    # At the size of its own positions the model computes what one with the file's own does there.
    picture = golden.image(96, 96)
    same = build("pvt")
    load(same, "x.pth", content=state)
    with torch.no_grad():
        for ours, theirs in zip(larger(picture).values(), same(picture).values(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=golden.TOLERANCE, rtol=0)


def test_positions_of_a_detector_are_resized_bilinearly() -> None:
    first, second = detector_part(), detector_part(pretrain_img_size=96)
    golden.fill_model(first)
    report = load(second, "model_final.pth", content={"model": first.state_dict()})
    assert len(report.resized) == 4
    encoder = build("pvt", pretrain_img_size=96)
    load(encoder, "x.pth", content=dict(first.backbone.bottom_up.state_dict()))
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(second.backbone.bottom_up.state_dict()[name], value)


def test_positions_of_no_square_need_their_grid() -> None:
    state = load_pyramid("pvt").state()
    for stage, (height, width) in enumerate(((8, 32), (4, 16), (2, 8), (1, 4)), start=1):
        rows = height * width + int(stage == 4)
        state[f"pos_embed{stage}"] = torch.randn(1, rows, state[f"pos_embed{stage}"].shape[2])
    backbone = build("pvt")
    load(backbone, "x.pth", content=state, position_grid=(8, 32))
    maps = state["pos_embed1"].transpose(1, 2).unflatten(2, (8, 32))
    wanted = nn.functional.interpolate(maps, size=(16, 16), mode="bilinear")
    torch.testing.assert_close(backbone.pos_embed1, wanted.flatten(2).transpose(1, 2))
    state["pos_embed2"] = torch.randn(1, 63, 12)
    with pytest.raises(WeightsError, match=r"pos_embed2: 63 positions, .* are no grid"):
        load(backbone, "x.pth", content=state)


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


@pytest.mark.parametrize("name", OURS)
def test_a_converted_file_loads_again(name: str, tmp_path: Any) -> None:
    made = load_pyramid(name)
    torch.save(made.state(), tmp_path / "x.pth")
    for ending in (".safetensors", ".pth", ".pkl"):
        converted = convert(tmp_path / "x.pth", to="vitdet", layer_scale="fold")
        path = tmp_path / f"converted{ending}"
        write_weights(path, converted.tensors, converted.entry)
        backbone = build(name)
        report = load(backbone, path)
        made.assert_maps(backbone)
        assert report.origin == converted.origin
        assert report.how == "recognised by what its conversion wrote into it"
        assert report.supplied[0] == report.supplied[1]
        assert any("not for commercial" in note for note in report.notes) == (name == "mit")
        again = convert(path)
        assert again.tensors.keys() == converted.tensors.keys()


def test_what_cannot_be_converted_says_why(tmp_path: Any) -> None:
    torch.save(load_pyramid("pvt").state(), tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"Detectron2 has no pyramid transformer.*--to vitdet"):
        convert(tmp_path / "x.pth", to="detectron2")
    torch.save({"model": detector_part().state_dict()}, tmp_path / "detector.pth")
    with pytest.raises(WeightsError, match=r"has no pyramid transformer, and cannot be the backb"):
        convert(tmp_path / "detector.pth", to="detectron2")
    kept = convert(tmp_path / "detector.pth")
    assert kept.kind == "detector"
    assert kept.tensors.keys() == detector_part().state_dict().keys()
    with pytest.raises(RecipeError, match=r"patch_size=16 is for plain ViTs"):
        convert(tmp_path / "x.pth", patch_size=16)


def test_model_without_memory_takes_the_tensors_themselves() -> None:
    made = load_pyramid("pvt")
    with torch.device("meta"):
        backbone = build("pvt")
    load(backbone, "x.pth", content=made.state())
    made.assert_maps(backbone)

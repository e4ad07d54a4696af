# SPDX-License-Identifier: Apache-2.0
"""Converted files: read again here, and by Detectron2's own checkpointer."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from tests.pretrained.golden import fill, fill_model
from tests.pretrained.sources.hugging_face_models import CASES
from vitdet_d2 import runtime
from vitdet_d2.backbones.vit import ViT
from vitdet_d2.errors import RecipeError, WeightsError
from vitdet_d2.necks.simple_feature_pyramid import SimpleFeaturePyramid
from vitdet_d2.pretrained import Converted, convert, load, read_weights, vit_options, write_weights
from vitdet_d2.pretrained.patch_kernel import resize_patch_kernel

WIDTH = 24


def build_vit(**arguments: Any) -> ViT:
    sizes: dict[str, Any] = {
        "img_size": 64, "pretrain_img_size": 64, "embed_dim": WIDTH, "depth": 2, "num_heads": 3,
        "mlp_ratio": 2, "norm_layer": partial(nn.LayerNorm, eps=1e-6),
    }  # fmt: skip
    return ViT(**{**sizes, **arguments})


class Detector(nn.Module):
    """A pyramid as wide as its ViT, so that ends of names alone would match several tensors."""

    def __init__(self, vit: nn.Module | None = None) -> None:
        super().__init__()
        net = build_vit() if vit is None else vit
        self.backbone = SimpleFeaturePyramid(net, "last_feat", WIDTH, (2.0, 1.0), norm="LN")


def mae_file(folder: Path) -> Path:
    """An encoder with the last norm that fvcore's heuristics give to the pyramid."""
    state = {name: fill(name, value.shape) for name, value in build_vit().state_dict().items()}
    extra = {"cls_token": (1, 1, WIDTH), "norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}
    state |= {name: fill(name, shape) for name, shape in extra.items()}
    path = folder / "mae_pretrain.pth"
    torch.save({"model": state}, path)
    return path


def hugging_face_file(name: str, folder: Path) -> Path:
    CASES[name].make().save_pretrained(folder)
    return folder / "model.safetensors"


def write(path: Path, converted: Converted) -> None:
    write_weights(path, converted.tensors, converted.entry)


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_round_trip_through_safetensors_and_a_pickle_of_detectron2(tmp_path: Path) -> None:
    source = mae_file(tmp_path)
    original = torch.load(source, weights_only=True)["model"]
    write(tmp_path / "encoder.safetensors", convert(source))
    first = Detector()
    fill_model(first)
    load(first, tmp_path / "encoder.safetensors")
    write_weights(tmp_path / "detector.pkl", first.state_dict())
    second = Detector()
    checkpointer = DetectionCheckpointer(second)
    rest = checkpointer.load(str(tmp_path / "detector.pkl"))
    assert not rest.get("matching_heuristics")
    assert_equal(first.state_dict(), second.state_dict())
    for name, value in second.backbone.net.state_dict().items():
        assert torch.equal(value, original[name]), name


def test_detectron2_takes_a_converted_encoder_and_leaves_the_pyramid(tmp_path: Path) -> None:
    """The official file's ``norm.weight`` would go to norms of the pyramid by its end."""
    converted = convert(mae_file(tmp_path), to="detectron2")
    tensors = converted.tensors
    assert all(name.startswith("backbone.net.") for name in tensors)
    write(tmp_path / "encoder.pkl", converted)
    model = Detector()
    pyramid = {n: v.clone() for n, v in model.state_dict().items() if "simfp" in n}
    DetectionCheckpointer(model).load(str(tmp_path / "encoder.pkl"))
    assert_equal({n: v for n, v in model.state_dict().items() if n in tensors}, dict(tensors))
    assert_equal({n: v for n, v in model.state_dict().items() if "simfp" in n}, pyramid)


def test_the_pickle_says_that_its_names_are_whole(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.pkl", {"a": torch.ones(2, dtype=torch.bfloat16)})
    content = pickle.loads((tmp_path / "weights.pkl").read_bytes())
    assert content["__author__"], "without one it would be read as a file of Caffe2"
    assert content["matching_heuristics"] is False
    assert content["model"]["a"].tolist() == [1, 1]
    assert read_weights(tmp_path / "weights.pkl")["model"]["a"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deit_distilled", {}),
        ("ijepa", {"pretrain_use_cls_token": False}),
        ("dinov2", {"layer_scale_init": 1.0}),
        ("dinov2_gated", {"layer_scale_init": 1.0, "mlp": "swiglu"}),
    ],
)
def test_converted_files_load_as_their_sources_do(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    source = hugging_face_file(name, tmp_path)
    write(tmp_path / "ours.safetensors", convert(source))
    first, second = build_vit(**options), build_vit(**options)
    load(first, source)
    report = load(second, tmp_path / "ours.safetensors")
    assert not report.dropped
    assert_equal(first.state_dict(), second.state_dict())


def test_layer_scale_is_folded_for_detectron2(tmp_path: Path) -> None:
    source = hugging_face_file("dinov2", tmp_path)
    write(tmp_path / "encoder.pkl", convert(source, to="detectron2"))
    first, second = Detector(), Detector()
    load(first, source)
    DetectionCheckpointer(second).load(str(tmp_path / "encoder.pkl"))
    assert_equal(first.backbone.net.state_dict(), second.backbone.net.state_dict())


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("beit_shared", r"biases of relative positions \(rel_pos_bias\."),
        ("dinov2_gated", r"gated perceptrons \(blocks\.0\.mlp\.w1"),
        ("dinov3", r"half rotary positions \(rope=half\)"),
        ("clip_vision", r"a norm before the blocks \(norm_pre.*QuickGELU \(act=quick_gelu\)"),
    ],
)
def test_parts_that_detectron2_has_not_are_refused(name: str, part: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"Detectron2's ViT cannot be .* no .*{part}"):
        convert(hugging_face_file(name, tmp_path), to="detectron2")


@pytest.mark.parity
@pytest.mark.skipif(runtime.current().name != "installed", reason="Detectron2 is not installed")
def test_detectron2s_own_vit_takes_the_files(tmp_path: Path) -> None:
    from detectron2.modeling.backbone.vit import ViT as TheirViT

    arguments: dict[str, Any] = {
        "img_size": 64, "pretrain_img_size": 64, "embed_dim": WIDTH, "depth": 2, "num_heads": 3,
        "mlp_ratio": 2, "norm_layer": partial(nn.LayerNorm, eps=1e-6),
    }  # fmt: skip
    source = mae_file(tmp_path)
    write(tmp_path / "encoder.pkl", convert(source, to="detectron2"))
    theirs, ours = Detector(TheirViT(**arguments)), Detector()
    DetectionCheckpointer(theirs).load(str(tmp_path / "encoder.pkl"))
    load(ours, source)
    assert_equal(ours.backbone.net.state_dict(), theirs.backbone.net.state_dict())
    # The door takes Detectron2's own class, too.
    again = Detector(TheirViT(**arguments))
    load(again, source)
    assert_equal(theirs.backbone.net.state_dict(), again.backbone.net.state_dict())


@pytest.mark.parametrize("bare", [True, False])
def test_a_detector_goes_into_a_bare_backbone_without_its_heads(bare: bool, tmp_path: Path) -> None:
    detector = Detector()
    fill_model(detector)
    state = {**detector.state_dict(), "roi_heads.box_predictor.cls_score.weight": torch.ones(3, 2)}
    write_weights(tmp_path / "zoo.pkl", state)
    model = build_vit() if bare else Detector().backbone
    report = load(model, tmp_path / "zoo.pkl")
    prefix = "backbone.net." if bare else "backbone."
    wanted = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
    assert_equal(dict(model.state_dict()), wanted)
    assert "roi_heads.box_predictor.cls_score.weight" in report.dropped


def patch_14_file(folder: Path) -> Path:
    """A file with 5 x 5 patches of 14 pixels."""
    vit = build_vit(patch_size=14, pretrain_img_size=70)
    state = {**fill_model(vit), "cls_token": fill("cls_token", (1, 1, WIDTH))}
    torch.save({"model": state}, folder / "p14.pth")
    return folder / "p14.pth"


@pytest.mark.parametrize("method", ["pinv", "bicubic"])
def test_patch_kernel_is_resized_and_positions_stay(method: Any, tmp_path: Path) -> None:
    source = patch_14_file(tmp_path)
    converted = convert(source, source="mae", patch_size=16, patch_resize=method)
    before = torch.load(source, weights_only=True)["model"]
    wanted = resize_patch_kernel(before["patch_embed.proj.weight"], (16, 16), method)
    assert torch.equal(converted.tensors["patch_embed.proj.weight"], wanted)
    assert torch.equal(converted.tensors["pos_embed"], before["pos_embed"])
    assert converted.vit_options is not None
    assert converted.vit_options["patch_size"] == 16
    assert converted.vit_options["pretrain_img_size"] == 80
    assert converted.notes[-2:] == (
        f"patch kernel: 14 -> 16 pixels ({method})",
        "positions: one for each of 5 x 5 patches, as before; that is an image of 80 pixels now, "
        "and was one of 70: pretrain_img_size=80; loading resizes them for a ViT with another one",
    )
    write(tmp_path / "p16.safetensors", converted)
    assert vit_options(tmp_path / "p16.safetensors").keys() == converted.vit_options.keys()
    # The arguments are those that take it as it is, whatever loads it.
    options = {**converted.vit_options, "num_heads": 3}
    ViT(**options).load_state_dict(converted.tensors)
    theirs = convert(source, source="mae", patch_size=16, to="detectron2")
    assert "Detectron2's loader resizes none" in theirs.notes[-1]


def test_patch_kernel_is_resized_once_and_never_again(tmp_path: Path) -> None:
    source = patch_14_file(tmp_path)
    write(tmp_path / "p16.safetensors", convert(source, source="mae", patch_size=16))
    words = r"resized from 14 to 16 pixels when it was converted.*take the original file"
    with pytest.raises(WeightsError, match=words):
        convert(tmp_path / "p16.safetensors", patch_size=14)
    with pytest.raises(WeightsError, match=words):
        load(build_vit(patch_size=8), tmp_path / "p16.safetensors")
    again = convert(tmp_path / "p16.safetensors", patch_size=16)
    assert again.notes[-1] == "its patches have 16 pixels already: the kernel stays as it was"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patch_size": 0}, "patch_size: expected 1 to 64 pixels, got 0"),
        ({"patch_size": 9999}, "patch_size: expected 1 to 64 pixels, got 9999"),
        ({"to": "caffe"}, "to: expected vitdet or detectron2, got 'caffe'"),
        ({"layer_scale": "auto"}, "layer_scale: expected keep or fold, got 'auto'"),
    ],
)
def test_options_that_do_not_exist(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        convert("nothing.pth", **options)


def test_shared_bias_tables_survive(tmp_path: Path) -> None:
    source = hugging_face_file("beit_shared", tmp_path)
    write(tmp_path / "ours.safetensors", convert(source))
    options = {"rel_pos_bias": "shared", "layer_scale_init": 1.0, "use_abs_pos": False}
    first, second = build_vit(**options), build_vit(**options)
    load(first, source)
    load(second, tmp_path / "ours.safetensors")
    assert_equal(first.state_dict(), second.state_dict())
    assert first.state_dict()["rel_pos_bias_global"].any()


def test_detectron2s_layout_keeps_the_facts_of_its_source(tmp_path: Path) -> None:
    source = hugging_face_file("deit_distilled", tmp_path)
    write(tmp_path / "encoder.pkl", convert(source, to="detectron2"))
    report = load(build_vit(), tmp_path / "encoder.pkl")
    assert (report.origin, report.how) == (
        "DeiT of Hugging Face",
        "recognised by what its conversion wrote into it",
    )

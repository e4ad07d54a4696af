# SPDX-License-Identifier: Apache-2.0
"""Files of PVT, PVT v2 and MiT in every layout give the features of their official classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.pretrained import golden
from tests.pretrained.pyramid_golden import IMAGE, OURS, build, load_pyramid
from tests.pretrained.sources import pyramid_models
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained import load
from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.recognise import encoder_of

TITLES = {"pvt": "PVT", "pvt_v2": "PVT v2", "pvt_v2_linear": "PVT v2", "mit": "MiT"}
COUNTS = {"pvt": 124, "pvt_v2": 140, "pvt_v2_linear": 144, "mit": 140}


def assert_equal_maps(backbone: torch.nn.Module, wanted: list[Tensor]) -> None:
    with torch.no_grad():
        found = backbone(golden.image(*IMAGE))
    for ours, theirs in zip(found.values(), wanted, strict=True):
        assert theirs.std() > 0.1
        torch.testing.assert_close(ours, theirs, atol=golden.TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", OURS)
def test_released_file_gives_the_maps_of_the_official_detector(name: str, tmp_path: Path) -> None:
    made = load_pyramid(name)
    torch.save(made.state(), tmp_path / "x.pth")
    backbone = build(name)
    report = load(backbone, tmp_path / "x.pth")
    made.assert_maps(backbone)
    count = COUNTS[name]
    assert report.verdict == f"all that {TITLES[name]} supplies: {count} of {count}"
    heads = {"cls_token", "norm.weight", "norm.bias"} if name == "pvt" else set()
    if name != "mit":  # as the authors' class for segmentation has none
        heads |= {"head.weight", "head.bias"}
    assert set(report.dropped) == heads
    assert any("ImageNet's" in note for note in report.notes)
    assert any("not for commercial use" in note for note in report.notes) == (name == "mit")


def test_classifier_of_mit_has_a_head() -> None:
    state = load_pyramid("mit").state()
    state |= {"head.weight": torch.zeros(5, 20), "head.bias": torch.zeros(5)}
    assert load(build("mit"), "x.pth", content=state).dropped == ("head.weight", "head.bias")


@pytest.mark.parametrize("name", OURS)
def test_file_of_a_toolbox_gives_its_backbone(name: str, tmp_path: Path) -> None:
    made = load_pyramid(name)
    state = {f"backbone.{key}": value for key, value in made.state().items()}
    other = ["neck.lateral_convs.0.conv.weight", "rpn_head.rpn_conv.weight", "decode_head.x",
             "roi_head.bbox_head.fc_cls.weight", "bbox_head.retina_cls.weight"]  # fmt: skip
    state |= {key: torch.zeros(2) for key in other}
    meta = {"epoch": 12, "iter": 7330, "CLASSES": ("cat", "dog")}
    torch.save({"meta": meta, "state_dict": state, "optimizer": {}}, tmp_path / "epoch_12.pth")
    backbone = build(name)
    report = load(backbone, tmp_path / "epoch_12.pth")
    made.assert_maps(backbone)
    assert report.wrappers == ("state_dict", "backbone.")
    assert set(other) <= set(report.dropped)


@pytest.mark.parametrize("linear", [False, True])
def test_timm_file_gives_the_maps_of_timm(linear: bool, tmp_path: Path) -> None:
    model = pyramid_models.timm_pvt_v2(linear=linear)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    backbone = build("pvt_v2_linear" if linear else "pvt_v2")
    report = load(backbone, tmp_path / "model.safetensors")
    assert report.origin == "PVT v2"
    assert_equal_maps(backbone, pyramid_models.timm_maps(model, golden.image(*IMAGE)))


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("kind", ["pvt", "pvt_v2", "pvt_v2_linear", "mit", "mit_segmentation"])
def test_hugging_face_file_gives_the_maps_of_transformers(
    kind: str, on_disk: bool, tmp_path: Path
) -> None:
    model = pyramid_models.hugging_face(kind)
    path = tmp_path / "model.safetensors"
    if on_disk:
        model.save_pretrained(tmp_path)
    else:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    backbone = build(kind.removesuffix("_segmentation"))
    report = load(backbone, path)
    assert "of Hugging Face" in report.origin
    assert report.supplied[0] == report.supplied[1]
    picture = golden.image(*IMAGE)
    if kind == "pvt":
        wanted = pyramid_models.hugging_face_pvt_maps(model, picture)
    else:
        wanted = pyramid_models.hugging_face_maps(model, picture)
    assert_equal_maps(backbone, wanted)


def test_values_before_keys_would_be_seen() -> None:
    """The order in which a joined matrix holds its parts matters."""
    model = pyramid_models.hugging_face("pvt_v2")
    state = dict(model.state_dict())
    for name in [name for name in state if ".attention.key." in name]:
        other = name.replace(".key.", ".value.")
        state[name], state[other] = state[other], state[name]
    backbone = build("pvt_v2")
    load(backbone, "x.pth", content=state)
    with pytest.raises(AssertionError, match="not close"):
        assert_equal_maps(backbone, pyramid_models.hugging_face_maps(model, golden.image(*IMAGE)))


@pytest.mark.parametrize(("change", "message"), [
    ({"block9.0.norm1.weight": (8,)}, r"no such keys: block9\.0\.norm1\.weight"),
    ({"block1.9.norm1.weight": (8,)}, r"depths 2/2/2/1, .* in the file, .* depths 1/2/2/1,"),
    ({"extra.weight": (3,)}, r"read as PVT v2 .*no such keys: extra\.weight"),
    ({"patch_embed1.proj.weight": (8, 3, 7)}, r"patch_embed1\.proj\.weight: expected 4 axes"),
    ({"block1.0.attn.q.bias": (7,)}, r"q\.bias has 7 numbers for the 8 rows"),
    ({"block1.0.mlp.fc1.weight": (8,)}, r"not their shapes"),
])  # fmt: skip
def test_damaged_files_are_refused(change: dict, message: str) -> None:
    state = load_pyramid("pvt_v2").state()
    for name, shape in change.items():
        state.pop(name, None)
        if shape is not None:
            state[name] = torch.zeros(shape)
    with pytest.raises(WeightsError, match=rf"x\.pth: .*({message})"):
        load(build("pvt_v2"), "x.pth", content=state)


def test_halves_of_keys_and_values_are_both_needed() -> None:
    state = dict(pyramid_models.hugging_face("pvt").state_dict())
    del state["pvt.encoder.block.0.0.attention.self.value.weight"]
    with pytest.raises(WeightsError, match=r"block1\.0\.attn\.kv\.weight: .*no part for the val"):
        load(build("pvt"), "x.pth", content=state)


@pytest.mark.parametrize(("name", "source", "right"), [
    ("pvt", "pvt_v2", "pvt"), ("pvt", "mit", "pvt"), ("pvt", "mae", "pvt"),
    ("pvt_v2", "pvt", "pvt_v2"), ("pvt_v2", "mit", "pvt_v2"), ("mit", "pvt", "mit"),
])  # fmt: skip
def test_named_source_of_another_version_is_refused(name: str, source: str, right: str) -> None:
    file = Unwrapped(state=load_pyramid(name).state())
    with pytest.raises(WeightsError, match=rf"named {source}, but .* name it {right}, or leave"):
        encoder_of("x.pth", file, source)


def test_pvt_v2_with_perceptrons_of_mit_is_believed() -> None:
    encoder = encoder_of("x.pth", Unwrapped(state=load_pyramid("mit").state()), "pvt_v2")
    assert encoder.source.title == "PVT v2"

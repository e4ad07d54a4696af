# SPDX-License-Identifier: Apache-2.0
"""Official pyramid transformers at full size, without memory: every key accounted for, loaded.

The lists in ``keys/pyramids/`` are facts about the official code; each says what it was made with.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from tests.pretrained import key_lists
from vitdet_d2.backbones import PVT, MiT, PVTv2
from vitdet_d2.backbones.pvt_sizes import mit_arguments, pvt_arguments, pvt_v2_arguments
from vitdet_d2.pretrained import convert, load, pyramid_options
from vitdet_d2.pretrained.container import unwrap
from vitdet_d2.pretrained.pyramid_trunk import pyramid_trunk
from vitdet_d2.pretrained.recognise import encoder_of


@dataclass(frozen=True)
class Expected:
    """Of one list.

    Attributes:
        source: that it is recognised as.
        size: of our tables, with the kind before it.
        keys: in the file.
        dropped: of them by name; all others are in one of our tensors.
        joined: of them that go two into one: keys and values.
    """

    source: str
    size: str
    keys: int
    dropped: int
    joined: int = 0


# A classifier has a class token, a norm and a head; from version 2 on its head alone.
LISTS = {
    "pvt_tiny_cls": Expected("pvt", "pvt_tiny", 161, 5),
    "pvt_small_cls": Expected("pvt", "pvt_small", 301, 5),
    "pvt_small_det": Expected("pvt", "pvt_small", 296, 0),
    "pvt_large_cls": Expected("pvt", "pvt_large", 751, 5),
    "pvt_v2_b0_cls": Expected("pvt_v2", "pvt_v2_b0", 178, 2),
    "pvt_v2_b2_cls": Expected("pvt_v2", "pvt_v2_b2", 334, 2),
    "pvt_v2_b2_det": Expected("pvt_v2", "pvt_v2_b2", 332, 0),
    "pvt_v2_b2_li_cls": Expected("pvt_v2", "pvt_v2_b2_li", 346, 2),
    "pvt_v2_b5_cls": Expected("pvt_v2_or_mit", "pvt_v2_b5", 1054, 2),
    "mit_b0": Expected("mit", "mit_b0", 176, 0),
    "mit_b2": Expected("mit", "mit_b2", 332, 0),
    "mit_b5": Expected("pvt_v2_or_mit", "pvt_v2_b5", 1052, 0),
    "timm_pvt_v2_b2": Expected("pvt_v2", "pvt_v2_b2", 334, 2),
    "timm_pvt_v2_b2_li": Expected("pvt_v2", "pvt_v2_b2_li", 346, 2),
    "hf_pvt": Expected("hugging_face_pvt", "pvt_tiny", 177, 5, 16),
    "hf_pvt_v2": Expected("hugging_face_pvt_v2", "pvt_v2_b0", 194, 2, 16),
    "hf_segformer": Expected("hugging_face_segformer", "mit_b0", 208, 16, 16),
    "hf_segformer_memory": Expected("hugging_face_segformer", "mit_b0", 208, 16, 16),
}


def build(size: str) -> PVT | PVTv2 | MiT:
    kind, _, rest = size.rpartition("_") if not size.endswith("_li") else ("pvt_v2", "", "b2_li")
    with torch.device("meta"):
        if kind == "pvt":
            return PVT(**pvt_arguments(rest))
        return PVTv2(**pvt_v2_arguments(rest)) if kind == "pvt_v2" else MiT(**mit_arguments(rest))


def test_every_list_is_tested() -> None:
    names = {path.stem for path in (key_lists.FOLDER / "pyramids").glob("*.json")}
    assert set(LISTS) == names


@pytest.mark.parametrize("name", LISTS)
def test_every_key_is_accounted_for(name: str) -> None:
    expected, state = LISTS[name], key_lists.read(f"pyramids/{name}")
    assert len(state) == expected.keys
    encoder = encoder_of(name, unwrap(name, dict(state)))
    assert encoder.source.name == expected.source
    trunk = pyramid_trunk(encoder.tensors)
    assert trunk is not None
    assert (trunk.size, trunk.closest) == (expected.size, expected.size)
    assert len(encoder.dropped) == expected.dropped
    assert len(encoder.tensors) == expected.keys - expected.dropped - expected.joined


@pytest.mark.parametrize("name", LISTS)
def test_every_tensor_has_a_place_in_the_backbone_of_its_size(name: str) -> None:
    expected, state = LISTS[name], key_lists.read(f"pyramids/{name}")
    model = build(expected.size)
    report = load(model, name, content=dict(state))
    total = len(model.state_dict())
    assert report.supplied == (total, total)
    assert len(report.loaded) == total == expected.keys - expected.dropped - expected.joined
    assert not [*report.missing, *report.mismatched, *report.unexpected, *report.initialised]
    assert not [*report.resized, *report.zeros]


@pytest.mark.parametrize("name", LISTS)
def test_arguments_are_those_of_its_size(name: str) -> None:
    expected, state = LISTS[name], key_lists.read(f"pyramids/{name}")
    found = pyramid_options(dict(state))
    model = build(expected.size)
    with torch.device("meta"):
        same = type(model)(**found)
    assert {n: t.shape for n, t in same.state_dict().items()} == {
        n: t.shape for n, t in model.state_dict().items()
    }
    assert found["num_heads"] == [1, 2, 5, 8]
    assert found.get("pretrain_img_size") == (224 if expected.size.startswith("pvt_") and
                                              "v2" not in expected.size else None)  # fmt: skip


def test_largest_of_both_tables_is_named_by_the_user() -> None:
    state = key_lists.read("pyramids/mit_b5")
    for source, title in (("mit", "MiT"), ("pvt_v2", "PVT v2")):
        encoder = encoder_of("x", unwrap("x", dict(state)), source)
        assert encoder.source.title == title
    doubt = encoder_of("x", unwrap("x", dict(state)))
    assert "name the source pvt_v2 or mit" in doubt.notes[0]
    assert "not for commercial use" in doubt.notes[0]


@pytest.mark.parametrize(("name", "backbone"), [
    ("pvt_small_cls", "PVT"), ("pvt_v2_b2_li_cls", "PVTv2"), ("mit_b2", "MiT"),
    ("hf_segformer", "MiT"), ("timm_pvt_v2_b2", "PVTv2"),
])  # fmt: skip
def test_conversion_names_the_class(name: str, backbone: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "vitdet_d2.pretrained.conversion.read_weights",
        lambda _: key_lists.read(f"pyramids/{name}"),
    )
    converted = convert(name)
    assert converted.backbone == backbone
    assert converted.vit_options is None
    assert converted.tensors.keys() == build(LISTS[name].size).state_dict().keys()

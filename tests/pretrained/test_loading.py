# SPDX-License-Identifier: Apache-2.0
"""Initial weights: what is loaded, what starts anew, and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.closed_form import fill_
from tests.closed_form import tensor as closed_form
from vitdet_d2.backbones.vit import ViT
from vitdet_d2.errors import RecipeError, WeightsError
from vitdet_d2.layers.attention import RelPosBias
from vitdet_d2.layers.residual_block import ConvBlockKind
from vitdet_d2.necks.simple_feature_pyramid import SimpleFeaturePyramid
from vitdet_d2.pretrained import load


def build_vit(dim: int = 32, depth: int = 2, tokens: int = 5, patch: int = 16) -> ViT:
    return ViT(
        img_size=64, patch_size=patch, embed_dim=dim, depth=depth, num_heads=2, use_rel_pos=True,
        window_size=2, window_block_indexes=[0], residual_block_indexes=[1],
        pretrain_img_size=(tokens - 1) * patch,
    )  # fmt: skip


class Detector(nn.Module):
    """A ViT, a pyramid, and a box predictor; the rest of a detector adds nothing here."""

    def __init__(self, num_classes: int = 80, **vit: int) -> None:
        super().__init__()
        self.backbone = SimpleFeaturePyramid(build_vit(**vit), "last_feat", 32, (2.0, 1.0))
        predictor = nn.ModuleDict(
            {
                "cls_score": nn.Linear(8, num_classes + 1),
                "bbox_pred": nn.Linear(8, 4 * num_classes),
            }
        )
        self.roi_heads = nn.ModuleDict({"box_predictor": predictor})


def encoder_weights(**vit: int) -> dict[str, Tensor]:
    """The tensors of a MAE encoder: a ViT's without what detection adds, and a class token."""
    model = fill_(build_vit(**vit))
    state = {
        name: value.clone()
        for name, value in model.state_dict().items()
        if "rel_pos" not in name and "residual" not in name
    }
    dim = state["pos_embed"].shape[-1]
    return {
        **state,
        "cls_token": torch.ones(1, 1, dim),
        "norm.weight": torch.ones(dim),
        "norm.bias": torch.ones(dim),
        "mask_token": torch.ones(1, 1, 8),
        "decoder_pos_embed": torch.ones(1, 17, 8),
        "decoder_blocks.0.norm1.weight": torch.ones(8),
        "head.weight": torch.ones(3, dim),
        "fc_norm.bias": torch.ones(dim),
    }


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Any], str]:
    def write(content: Any) -> str:
        path = tmp_path / "weights.pth"
        torch.save(content, path)
        return str(path)

    return write


def test_encoder_goes_below_the_backbone(
    save: Callable[[Any], str], caplog: pytest.LogCaptureFixture
) -> None:
    weights, model = encoder_weights(), Detector()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with caplog.at_level(logging.INFO):
        report = load(model, save({"model": weights}) + "?matching_heuristics=True")
    after = model.state_dict()
    for name, value in weights.items():
        target = "backbone.net." + name
        if target in after:
            assert torch.equal(after[target], value)
            assert target in report.loaded
        else:
            assert name in report.dropped
    untouched = set(after) - set(report.loaded)
    assert untouched == set(report.initialised)
    for name in untouched:
        assert torch.equal(after[name], before[name])
    assert report.kind == "encoder"
    assert not (report.missing)
    assert not (report.mismatched)
    assert not (report.unexpected)
    lines = "\n".join(report.lines())
    assert "relative-position tables (4)" in lines
    assert "backbone.simfp_3" in lines
    assert "roi_heads.box_predictor (4)" in lines
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_detector_without_convolutional_blocks_goes_into_one_with(
    save: Callable[[Any], str],
) -> None:
    """They are the identity at first: as good a start as for the model that was trained."""
    source, model = fill_(Detector()), Detector()
    weights = {n: v for n, v in source.state_dict().items() if ".residual." not in n}
    report = load(model, save({"model": weights}))
    assert report.kind == "detector"
    assert not report.missing
    assert {name.split(".")[4] for name in report.initialised} == {"residual"}
    assert "newly initialised: convolutional blocks (9) (expected)" in report.lines()
    with pytest.raises(WeightsError, match=r"not in the file: convolutional blocks \(9\)"):
        load(model, save({"model": weights}), strict_heads=True)
    some = {n: v for n, v in source.state_dict().items() if "residual.conv" not in n}
    with pytest.raises(WeightsError, match=r"missing, for example, .*\.residual\.conv1\.weight"):
        load(model, save({"model": some}))


@pytest.mark.parametrize("kind", ["naive", "basic", "bottleneck"])
def test_an_encoder_goes_into_a_vit_with_convolutional_blocks(
    kind: ConvBlockKind, save: Callable[[Any], str]
) -> None:
    weights = encoder_weights()
    model = ViT(
        img_size=64, embed_dim=32, depth=2, num_heads=2, pretrain_img_size=64,
        window_size=2, cross_window="conv", conv_block=kind,
    )  # fmt: skip
    report = load(model, save(weights))
    assert not report.missing
    assert not report.warnings()
    assert all(".residual." in name for name in report.initialised)
    assert f"convolutional blocks ({len(report.initialised)})" in "\n".join(report.lines())


@pytest.mark.parametrize("wrap", ["bare", "module"])
def test_other_wrappers_of_an_encoder(wrap: str, save: Callable[[Any], str]) -> None:
    weights = encoder_weights()
    content = weights if wrap == "bare" else {f"module.{n}": v for n, v in weights.items()}
    report = load(Detector(), save(content))
    assert "backbone.net.blocks.1.mlp.fc2.bias" in report.loaded


def test_a_bare_backbone_takes_an_encoder_too(save: Callable[[Any], str]) -> None:
    model = build_vit()
    report = load(model, save(encoder_weights()))
    assert torch.equal(model.pos_embed, encoder_weights()["pos_embed"])
    assert "pos_embed" in report.loaded


def test_positions_are_resized(save: Callable[[Any], str]) -> None:
    model = Detector(tokens=5)
    report = load(model, save(encoder_weights(tokens=3)))
    assert report.resized == (("backbone.net.pos_embed", (1, 5, 32), (1, 17, 32)),)
    assert any("pos_embed: (1, 5, 32) -> (1, 17, 32) (expected" in line for line in report.lines())


def test_whole_detector_round_trip(save: Callable[[Any], str]) -> None:
    source, model = fill_(Detector()), Detector()
    meta = {"schema": 1, "thing_classes": ["a", "b"]}
    path = save({"model": source.state_dict(), "iteration": 7, "vitdet_d2": meta})
    report = load(model, path, strict_heads=True)
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert report.kind == "detector"
    assert report.thing_classes == ("a", "b")
    assert report.verdict == "all that a detector supplies: 54 of 54"
    assert len(report.lines()) == 2, "nothing else to say"
    assert not report.warnings()


def test_obsolete_buffers_are_dropped(save: Callable[[Any], str]) -> None:
    state = dict(Detector().state_dict())
    state["pixel_mean"] = torch.zeros(3, 1, 1)
    state["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    state["roi_heads.extra.weight"] = torch.zeros(1)
    report = load(Detector(), save(state))
    assert len(report.dropped) == 2
    assert report.unexpected == ("roi_heads.extra.weight",)
    assert "roi_heads.extra" in report.warnings()[0]


def test_other_number_of_classes(save: Callable[[Any], str]) -> None:
    path = save({"model": Detector(num_classes=80).state_dict()})
    report = load(Detector(num_classes=4), path)
    assert report.classes == (80, 4)
    assert "the file has 80 classes, the model 4" in "\n".join(report.lines())
    with pytest.raises(
        WeightsError, match=r"has 80 classes, the recipe 4 classes; .*num_classes=80"
    ):
        load(Detector(num_classes=4), path, strict_heads=True)


def test_evaluation_needs_every_tensor(save: Callable[[Any], str]) -> None:
    model = Detector()
    before = model.backbone.net.pos_embed.clone()
    with pytest.raises(WeightsError, match=r"tensors of the model are not in the file: .*roi_head"):
        load(model, save(encoder_weights()), strict_heads=True)
    assert torch.equal(model.backbone.net.pos_embed, before), "refused weights change nothing"


@pytest.mark.parametrize(
    ("vit", "message"),
    [
        ({"dim": 64}, "width 64, depth 2, patch 16 in the file, ViT of width 32"),
        ({"depth": 1}, "depth 1, patch 16 in the file, ViT of width 32, depth 2"),
        ({"depth": 3}, "depth 3, patch 16 in the file, ViT of width 32, depth 2"),
    ],
)
def test_another_backbone_is_refused(
    vit: dict[str, int], message: str, save: Callable[[Any], str]
) -> None:
    with pytest.raises(WeightsError, match=message):
        load(Detector(), save(encoder_weights(**vit)))


def test_a_file_deeper_than_the_model_is_refused_even_in_part(save: Callable[[Any], str]) -> None:
    with pytest.raises(WeightsError, match=r"without a place in the model: blocks\.2"):
        load(Detector(), save(encoder_weights(depth=3)), allow_partial=True)
    report = load(Detector(), save(encoder_weights(depth=1)), allow_partial=True)
    assert report.verdict == "only 15 of the 27 tensors that MAE supplies"
    assert all(".blocks.1." in name for name in report.missing)


def test_perceptrons_of_another_width_are_refused(save: Callable[[Any], str]) -> None:
    def model(ratio: float) -> ViT:
        return ViT(img_size=64, embed_dim=32, depth=2, num_heads=2, mlp_ratio=ratio)

    path = save({**model(2.0).state_dict(), "cls_token": torch.ones(1, 1, 32)})
    with pytest.raises(
        WeightsError,
        match=r"perceptrons have 64 hidden channels, the model's 128\. .*net\.mlp_ratio=2\.0$",
    ):
        load(model(4.0), path)
    mixed = {n: v for n, v in model(2.0).state_dict().items() if "blocks.1.mlp." in n}
    path = save({**model(4.0).state_dict(), **mixed, "cls_token": torch.ones(1, 1, 32)})
    with pytest.raises(
        WeightsError,
        match=r"3 backbone tensors .* blocks\.1\.mlp\.fc1\.weight \(64, 32\) for \(128, 32\)",
    ):
        load(model(4.0), path)


@pytest.mark.parametrize("kind", ["encoder", "detector"])
@pytest.mark.parametrize("strict_heads", [False, True])
def test_partial_weights_are_offered_only_where_they_help(
    kind: str, strict_heads: bool, save: Callable[[Any], str]
) -> None:
    def file(**vit: int) -> str:
        if kind == "encoder":
            return save(encoder_weights(**vit))
        return save({"model": Detector(**vit).state_dict()})

    def refusal(path: str, **how: bool) -> str:
        with pytest.raises(WeightsError) as caught:
            load(Detector(), path, strict_heads=strict_heads, **how)
        return str(caught.value)

    # Another width, or more blocks: with or without, and no way out is offered that is none.
    for vit in ({"dim": 64}, {"depth": 3}):
        for how in ({}, {"allow_partial": True}):
            message = refusal(file(**vit), **how)
            assert "--allow-partial" not in message
            assert "in the model" in message
    # Fewer blocks, or less of one: it is training's to allow.
    fewer = file(depth=1)
    assert ("--allow-partial" in refusal(fewer)) == (kind == "detector" and not strict_heads)
    less = encoder_weights() if kind == "encoder" else dict(Detector().state_dict())
    part = save({n: v for n, v in less.items() if ".mlp." not in n})
    assert ("--allow-partial" in refusal(part)) == (not strict_heads)
    if strict_heads:
        assert "--allow-partial" not in refusal(part, allow_partial=True)
    else:
        assert load(Detector(), part, allow_partial=True).verdict.startswith("only ")
        assert load(Detector(), file(depth=1), allow_partial=True).verdict.startswith("only ")


def test_unknown_keys_are_refused(save: Callable[[Any], str]) -> None:
    weights = encoder_weights()
    weights["blocks.0.attn.temperature"] = torch.ones(32)
    with pytest.raises(WeightsError, match=r"read as MAE.* no such keys: blocks\.0\.attn\.temp"):
        load(Detector(), save(weights))


def test_a_few_missing_tensors_are_a_warning(
    save: Callable[[Any], str], caplog: pytest.LogCaptureFixture
) -> None:
    weights = encoder_weights()
    del weights["blocks.0.attn.proj.bias"]
    report = load(Detector(), save(weights))
    assert report.missing == ("backbone.net.blocks.0.attn.proj.bias",)
    assert "not in the file: backbone.net.blocks.0.attn.proj.bias" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"visual.conv.weight": torch.zeros(1)}, "of no known source.*such as visual"),
        ({"state_dict": {"a": torch.zeros(1)}}, "1 tensors below 'state_dict', such as a;"),
        ({"a": {"b": torch.zeros(1)}, "epoch": 3}, "got also a, epoch"),
        ({"model": {}}, "expected tensors under 'model', got none"),
    ],
)
def test_unknown_contents_are_told(content: Any, message: str, save: Callable[[Any], str]) -> None:
    with pytest.raises(WeightsError, match=message):
        load(Detector(), save(content))


def test_class_weights_of_the_federated_loss_are_of_use_in_training_only(
    save: Callable[[Any], str],
) -> None:
    def with_weights(num_classes: int, count: int | None) -> Detector:
        model = Detector(num_classes=num_classes)
        if count is not None:
            model.roi_heads.box_predictor.register_buffer(name, torch.full((count,), 2.0))
        return model

    name = "fed_loss_cls_weights"
    full = f"roi_heads.box_predictor.{name}"
    file = save({"model": {**with_weights(6, 6).state_dict(), full: torch.arange(6.0)}})
    training = with_weights(6, 6)
    assert full in load(training, file).loaded
    assert torch.equal(training.state_dict()[full], torch.arange(6.0))
    report = load(with_weights(6, None), file, strict_heads=True)
    assert report.dropped == (full,)
    assert "class weights of the federated loss (1)" in report.lines()[-1]
    other = with_weights(3, 3)
    report = load(other, file)
    assert report.classes == (6, 3)
    assert full not in [found for found, _, _ in report.mismatched]
    assert torch.equal(other.state_dict()[full], torch.full((3,), 2.0)), "those of the new data"
    without = save({"model": with_weights(6, None).state_dict()})
    assert not load(with_weights(6, 6), without, strict_heads=True).missing


@pytest.mark.parametrize("kind", [None, "per_block", "shared"])
def test_a_detector_for_images_of_another_size_keeps_its_relative_positions(
    kind: RelPosBias | None, save: Callable[[Any], str]
) -> None:
    def build(img_size: int) -> Detector:
        model = Detector()
        vit = ViT(
            img_size=img_size, embed_dim=32, depth=2, num_heads=2, use_rel_pos=True, window_size=2,
            window_block_indexes=[0], pretrain_img_size=64, rel_pos_bias=kind,
        )  # fmt: skip
        model.backbone = SimpleFeaturePyramid(vit, "last_feat", 32, (2.0, 1.0))
        return model

    trained, model = fill_(build(64)), build(128)
    report = load(model, save({"model": trained.state_dict()}), strict_heads=True)
    assert not report.mismatched
    assert {name.split(".")[-1] for name, _, _ in report.resized} >= {"rel_pos_h", "rel_pos_w"}
    image = closed_form("image", (1, 3, 128, 128)).float()
    with torch.no_grad():
        wanted, found = (m.eval().backbone.net(image)["last_feat"] for m in (trained, model))
    # 1e-5: the tables are resized by the same formulas, there at every step, here once.
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_detector_with_other_heads_is_refused(save: Callable[[Any], str]) -> None:
    """The size of a head is in the tables of relative positions, and nowhere else."""
    path, model = save({"model": Detector().state_dict()}), Detector()
    model.backbone.net = ViT(
        img_size=64, embed_dim=32, depth=2, num_heads=4, use_rel_pos=True, window_size=2,
        window_block_indexes=[0], residual_block_indexes=[1], pretrain_img_size=64,
    )  # fmt: skip
    with pytest.raises(WeightsError, match=r"another shape.*rel_pos_h \(3, 16\) for \(3, 8\)"):
        load(model, path)


def test_a_detector_on_the_meta_device_lacks_what_no_file_has(save: Callable[[Any], str]) -> None:
    path = save({"model": Detector().state_dict()})
    with torch.device("meta"):
        model = Detector()
        model.register_buffer("pixel_mean", torch.zeros(3, 1, 1), persistent=False)
    assert "no file has its buffers pixel_mean; build it on the CPU" in load(model, path).alerts[0]


def test_other_weights_in_the_file_are_told(save: Callable[[Any], str]) -> None:
    weights = encoder_weights()
    report = load(Detector(), save({"teacher": weights, "student": weights, "epoch": 3}))
    assert report.wrappers == ("teacher",)
    assert report.unused == ("student",)
    assert "taken are the weights below 'teacher'; the file has others below 'student'" in (
        report.lines()
    )


@pytest.mark.parametrize(
    ("name", "value", "known"),
    [
        ("layer_scale", "folded", "auto, keep, fold"),
        ("patch_resize", "linear", "pinv, bicubic"),
        ("normalisation", "imagenet", "source, recipe"),
    ],
)
def test_unknown_values_are_refused(name: str, value: str, known: str) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(RecipeError, match=f"{name}: expected one of {known}, got '{value}'"):
        load(build_vit(), "no file", **options)


def test_a_source_of_a_whole_detector_is_told_to_have_no_effect(save: Callable[[Any], str]) -> None:
    path = save({"model": Detector().state_dict()})
    report = load(Detector(), path, source="mae")
    assert report.alerts == ("source=mae has no effect on a whole detector",)
    with pytest.raises(RecipeError, match=r"source: expected one of .* got 'mea'"):
        load(Detector(), path, source="mea")


def test_a_compiled_model_takes_a_detector(save: Callable[[Any], str]) -> None:
    source, model = fill_(Detector()), Detector()
    # As torch.compile wraps it, which takes seconds.
    compiled = nn.Module()
    compiled._orig_mod = model
    load(compiled, save({"model": source.state_dict()}), strict_heads=True)
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_an_incomplete_file_is_not_taken_for_another_size(save: Callable[[Any], str]) -> None:
    weights = {n: v for n, v in encoder_weights().items() if not n.startswith("blocks.1.mlp")}
    with pytest.raises(
        WeightsError, match=r"only 85%.* the sizes are the same, so the file is inc"
    ):
        load(Detector(), save(weights))


def test_refusals_know_the_size_under_any_names() -> None:
    """transformers' names of blocks are others."""
    model = ViT(img_size=32, embed_dim=32, depth=1, num_heads=2, pretrain_img_size=32)
    content = {
        "embeddings.patch_embeddings.projection.weight": torch.zeros(32, 3, 16, 16),
        "embeddings.cls_token": torch.zeros(1, 1, 32),
        "embeddings.position_embeddings": torch.zeros(1, 5, 32),
        "encoder.layer.0.layernorm_before.weight": torch.zeros(32),
    }
    with pytest.raises(WeightsError, match=r"ViT of width 32, depth 1, patch 16 in the file"):
        load(model, "weights", content=content)


def test_a_backbone_with_its_neck_goes_everywhere(save: Callable[[Any], str]) -> None:
    trained = fill_(Detector()).backbone
    path = save({"model": trained.state_dict()})
    pyramid, detector, vit = Detector().backbone, Detector(), build_vit()
    assert (
        load(pyramid, path, strict_heads=True).verdict == "all that a detector supplies: 54 of 54"
    )
    report = load(detector, path)
    assert report.initialised == tuple(f"roi_heads.{n}" for n in detector.roi_heads.state_dict())
    assert {name.split(".")[0] for name in load(vit, path).dropped} == {"simfp_3", "simfp_4"}
    for model in (pyramid, detector.backbone):
        for name, value in trained.state_dict().items():
            assert torch.equal(model.state_dict()[name], value)
    assert torch.equal(vit.blocks[1].mlp.fc1.weight, trained.net.blocks[1].mlp.fc1.weight)

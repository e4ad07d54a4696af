# SPDX-License-Identifier: Apache-2.0
"""Detections without pasted masks, against the model's own post-processing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances
from torch import nn

from tests.engine.tiny_detector import recipe
from vitdet_d2.engine.build import build_model
from vitdet_d2.evaluation.detect import RegionDetector, gives_regions, pasted
from vitdet_d2.evaluation.result_rows import instances_to_rows
from vitdet_d2.geometry.region_masks import RegionMasks


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(1)
    return build_model(recipe(), torch.device("cpu")).eval()


def _inputs() -> list[dict[str, Any]]:
    torch.manual_seed(2)
    sizes = [(64, 48, 91, 70), (40, 64, 40, 64), (64, 64, 33, 33)]
    return [
        {"image": torch.randint(0, 256, (3, h, w)).float(), "height": height, "width": width}
        for h, w, height, width in sizes
    ]


@torch.no_grad()
def test_detections_and_rows_are_those_of_the_model(model):
    assert gives_regions(model)
    expected = model(_inputs())
    found = RegionDetector(model)(_inputs())
    assert [len(f["instances"]) for f in found] == [len(e["instances"]) for e in expected]
    for ours, theirs in zip(found, expected, strict=True):
        ours, theirs = ours["instances"], theirs["instances"]
        assert isinstance(ours.pred_masks, RegionMasks)
        assert ours.image_size == theirs.image_size
        assert instances_to_rows(ours, 7) == instances_to_coco_json(theirs, 7)
        assert instances_to_rows(theirs, 7) == instances_to_coco_json(theirs, 7)
        bitmaps = pasted(ours)
        for name, value in theirs.get_fields().items():
            value, given = (
                v.tensor if isinstance(v, Boxes) else v for v in (value, bitmaps.get(name))
            )
            torch.testing.assert_close(given, value, rtol=0, atol=0)
    assert sum(len(e["instances"]) for e in expected) > 20


@torch.no_grad()
def test_autocast_is_on_where_it_is_asked_for(model):
    seen = []
    handle = model.backbone.register_forward_hook(
        lambda *_: seen.append(torch.is_autocast_enabled("cpu"))
    )
    RegionDetector(model, torch.bfloat16)(_inputs()[:1])
    RegionDetector(model)(_inputs()[:1])
    handle.remove()
    assert seen == [True, False]


def test_a_model_with_post_processing_of_its_own_gives_what_it_gives(model):
    class Own(type(model)):
        def inference(self, batched_inputs, *_, **__):
            found = Instances((4, 4), scores=torch.tensor([0.5]))
            return [{"instances": found, "more": 3} for _ in batched_inputs]

    own = Own.__new__(Own)
    nn.Module.__init__(own)
    own.eval()
    assert not gives_regions(own)
    (output,) = RegionDetector(own)(_inputs()[:1])
    assert output["more"] == 3
    assert output["instances"].scores.tolist() == [0.5]


def test_the_mode_of_the_model_is_kept(model):
    assert not RegionDetector(model).training
    model.train()
    assert RegionDetector(model).training
    model.eval()


@torch.no_grad()
def test_hooks_of_the_model_run_and_nothing_stays_behind(model):
    calls = []
    handle = model.register_forward_pre_hook(lambda *_: calls.append(1))
    RegionDetector(model)(_inputs()[:1])
    handle.remove()
    assert calls == [1]
    assert "inference" not in vars(model)


@torch.no_grad()
def test_an_exchanged_method_of_the_object_stays(model):
    calls = []
    inference = model.inference

    def counted(inputs, *given, **named):
        calls.append(len(inputs))
        return inference(inputs, *given, **named)

    object.__setattr__(model, "inference", counted)
    try:
        assert not gives_regions(model)
        (output,) = RegionDetector(model)(_inputs()[:1])
        assert vars(model)["inference"] is counted
    finally:
        object.__delattr__(model, "inference")
    assert calls == [1]
    assert not isinstance(output["instances"].pred_masks, RegionMasks)


@torch.no_grad()
def test_a_forward_hook_gets_what_the_model_gives_to_everyone(model):
    seen = []
    handle = model.register_forward_hook(lambda *given: seen.append(given[2][0]["instances"]))
    RegionDetector(model)(_inputs()[:1])
    handle.remove()
    assert isinstance(seen[0].pred_masks, torch.Tensor)

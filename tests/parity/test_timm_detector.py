# SPDX-License-Identifier: Apache-2.0
"""A released file's tensors predict the same in Detectron2's detector and in our recipe's.

    PYTHONPATH=DETECTRON2_CHECKOUT VITDET_D2_RUNTIME=installed \\
        pytest -m parity tests/parity/test_timm_detector.py
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2 import modeling
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from torch import nn

from tests.backbones.timm_parity import THEIRS, ours
from tests.closed_form import image
from vitdet_d2 import runtime
from vitdet_d2.pretrained import load
from vitdet_d2.zoo import for_inference, get_config

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(
        runtime.current().name != "installed", reason="Detectron2's Swin and MViT are not bundled"
    ),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning"),
]
CASES = {
    "cascade_swin_b": ("swin", "SwinTransformer", ["p0", "p1", "p2", "p3"]),
    "lvis_cascade_mvitv2_b": ("mvit", "MViT", ["scale2", "scale3", "scale4", "scale5"]),
}


def recipe(name: str) -> Any:
    model = for_inference(get_config(name).model)
    model.backbone.square_pad = 224
    model.proposal_generator.post_nms_topk = (100, 100)
    for predictor in model.roi_heads.box_predictors:
        predictor.test_score_thresh = 0.0
        predictor.test_topk_per_image = 20
    return model


@pytest.mark.parametrize("name", CASES)
def test_predictions_from_one_file(name: str) -> None:
    kind, cls, maps = CASES[name]
    torch.manual_seed(0)
    node = recipe(name)
    node.backbone.bottom_up = L(getattr(modeling, cls))(**THEIRS[kind])
    node.backbone.in_features = maps
    theirs = instantiate(node).eval()
    for parameter in theirs.backbone.parameters():
        nn.init.normal_(parameter, std=0.1)
    for key, value in theirs.state_dict().items():
        if key.endswith("cls_score.weight"):
            nn.init.normal_(value, std=0.2)
    node = recipe(name)
    node.backbone.bottom_up = {**node.backbone.bottom_up, "name": ours(kind).name}
    mine = instantiate(node).eval()
    file = {"model": dict(theirs.state_dict()), "__author__": "Detectron2 Model Zoo"}
    report = load(mine, "model_final.pkl", content=file, strict_heads=True)
    assert set(report.loaded) == set(mine.state_dict())
    assert not report.unexpected
    assert all("relative_position_index" in key for key in report.dropped)
    batch = [{"image": image("street", 200, 150)}]
    with torch.no_grad():
        expected, got = (model(batch)[0]["instances"] for model in (theirs, mine))
    assert len(expected) == 20
    assert got.pred_classes.tolist() == expected.pred_classes.tolist()
    # float32: rounding of the backbone, through three box heads; boxes in pixels.
    torch.testing.assert_close(got.scores, expected.scores, rtol=1e-4, atol=1e-6)
    boxes = (got.pred_boxes.tensor, expected.pred_boxes.tensor)
    torch.testing.assert_close(*boxes, rtol=0, atol=1e-2)
    assert (got.pred_masks != expected.pred_masks).float().mean() < 1e-3

# SPDX-License-Identifier: Apache-2.0
"""Soft-NMS in the heads of a detector; runs on whichever Detectron2 is active."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import FastRCNNConvFCHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from vitdet_d2.heads import (
    CascadeROIHeads,
    FastRCNNOutputLayers,
    SoftNMSCascadeROIHeads,
    SoftNMSFastRCNNOutputLayers,
    soft_nms,
)

SIZE = (64, 64)


def _predictor(kind: type[FastRCNNOutputLayers], **options: Any) -> FastRCNNOutputLayers:
    torch.manual_seed(1)
    predictor = kind(
        ShapeSpec(channels=8),
        box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
        num_classes=3,
        cls_agnostic_bbox_reg=True,
        **options,
    )
    torch.nn.init.normal_(predictor.cls_score.weight)
    return predictor


def _proposals(count: int) -> Instances:
    corner = torch.rand(count, 2) * 30
    boxes = Boxes(torch.cat([corner, corner + 10 + 20 * torch.rand(count, 2)], dim=1))
    return Instances(SIZE, proposal_boxes=boxes, objectness_logits=torch.rand(count))


def _heads(kind: type[CascadeROIHeads], last: FastRCNNOutputLayers) -> CascadeROIHeads:
    torch.manual_seed(2)
    shape = ShapeSpec(channels=4, height=2, width=2)
    return kind(
        num_classes=3,
        batch_size_per_image=16,
        positive_fraction=0.25,
        box_in_features=["p2"],
        box_pooler=ROIPooler(2, [1 / 4], 0, "ROIAlignV2"),
        box_heads=[FastRCNNConvFCHead(shape, conv_dims=[], fc_dims=[8]) for _ in range(2)],
        box_predictors=[_predictor(FastRCNNOutputLayers), last],
        proposal_matchers=[Matcher([0.5], [0, 1]), Matcher([0.6], [0, 1])],
    )


def _rows(found: Instances) -> list[list[float]]:
    columns = (found.pred_boxes.tensor, found.scores[:, None], found.pred_classes[:, None])
    return sorted(torch.cat(columns, dim=1).tolist())


def test_predictor_lowers_what_its_base_class_would_return() -> None:
    options = {"test_score_thresh": 0.2, "test_nms_thresh": 0.3, "test_topk_per_image": 12}
    soft = _predictor(SoftNMSFastRCNNOutputLayers, soft_nms_method="gaussian", **options)
    options.update(test_nms_thresh=2.0, test_topk_per_image=-1)
    plain = _predictor(FastRCNNOutputLayers, **options)
    assert list(soft.state_dict()) == list(plain.state_dict())
    proposals = [_proposals(40), _proposals(0), _proposals(7)]
    predictions = soft(torch.randn(47, 8))
    found, regions = soft.inference(predictions, proposals)
    candidates, every_region = plain.inference(predictions, proposals)
    for i in range(3):
        keep, scores = soft_nms(
            candidates[i].pred_boxes.tensor,
            candidates[i].scores,
            candidates[i].pred_classes,
            method="gaussian",
            max_detections=12,
        )
        assert torch.equal(found[i].pred_boxes.tensor, candidates[i].pred_boxes.tensor[keep])
        assert torch.equal(found[i].scores, scores)
        assert torch.equal(found[i].pred_classes, candidates[i].pred_classes[keep])
        assert torch.equal(regions[i], every_region[i][keep])
    assert [len(x) for x in found][:2] == [12, 0]
    assert len(candidates[0]) > 12
    assert (soft.test_nms_thresh, soft.test_topk_per_image) == (0.3, 12)


def test_hard_predictor_is_the_base_class() -> None:
    options = {"test_score_thresh": 0.2, "test_topk_per_image": 9}
    soft = _predictor(
        SoftNMSFastRCNNOutputLayers, soft_nms_method="hard", soft_nms_min_score=0.0, **options
    )
    plain = _predictor(FastRCNNOutputLayers, **options)
    proposals = [_proposals(40)]
    predictions = plain(torch.randn(40, 8))
    (found,), (regions,) = soft.inference(predictions, proposals)
    (expected,), (expected_regions,) = plain.inference(predictions, proposals)
    assert _rows(found) == _rows(expected)
    assert torch.equal(regions, expected_regions)


@pytest.mark.parametrize("method", ["hard", "linear"])
def test_cascade_takes_the_soft_nms_of_its_last_predictor(method: str) -> None:
    last = _predictor(
        SoftNMSFastRCNNOutputLayers,
        soft_nms_method=method,
        soft_nms_min_score=0.0,
        test_score_thresh=0.1,
    )
    soft = _heads(SoftNMSCascadeROIHeads, last).eval()
    plain = _heads(CascadeROIHeads, _predictor(FastRCNNOutputLayers, test_score_thresh=0.1)).eval()
    plain.load_state_dict(soft.state_dict())
    features = {"p2": torch.randn(1, 4, 16, 16)}
    proposals = _proposals(30)
    with torch.no_grad():
        (found,), _ = soft(None, features, [proposals])
        (expected,), _ = plain(None, features, [proposals])
    assert 3 < len(expected) <= len(found)
    if method == "hard":
        assert _rows(found) == _rows(expected)
    else:
        assert len(found) > len(expected)
        assert set(expected.scores.tolist()) & set(found.scores.tolist())


def test_training_is_that_of_the_cascade() -> None:
    soft = _heads(SoftNMSCascadeROIHeads, _predictor(SoftNMSFastRCNNOutputLayers))
    plain = _heads(CascadeROIHeads, _predictor(FastRCNNOutputLayers))
    plain.load_state_dict(soft.state_dict())
    targets = Instances(
        SIZE, gt_boxes=Boxes(torch.tensor([[10.0, 10, 40, 30]])), gt_classes=torch.tensor([2])
    )
    features, proposals = {"p2": torch.randn(1, 4, 16, 16)}, _proposals(20)
    losses = []
    for heads in (soft, plain):
        torch.manual_seed(0)
        with EventStorage():
            losses.append(heads(None, features, [proposals], [targets])[1])
    assert losses[0] == losses[1]


def test_wrong_parts() -> None:
    heads = _heads(SoftNMSCascadeROIHeads, _predictor(FastRCNNOutputLayers))
    with pytest.raises(TypeError, match=r"model\.roi_heads\.box_predictors\.1\._target_"):
        heads.eval()(None, {"p2": torch.randn(1, 4, 16, 16)}, [_proposals(3)])
    with pytest.raises(ValueError, match="soft-NMS method: expected one of linear"):
        _predictor(SoftNMSFastRCNNOutputLayers, soft_nms_method="softer")

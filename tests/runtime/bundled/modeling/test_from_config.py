# SPDX-License-Identifier: Apache-2.0
"""Models built from a yacs configuration: each key arrives, absent parts are named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    Backbone,
    BaseMaskRCNNHead,
    StandardROIHeads,
    build_backbone,
    build_model,
)
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf
from torch import Tensor, nn

CHANNELS = 8


class Strides(Backbone):
    """One convolution per stride, 4 and 8."""

    def __init__(self, cfg: Any, input_shape: ShapeSpec) -> None:
        super().__init__()
        self._out_features = ["p2", "p3"]
        self._out_feature_channels = dict.fromkeys(self._out_features, CHANNELS)
        self._out_feature_strides = {"p2": 4, "p3": 8}
        self.convs = nn.ModuleDict(
            {
                name: nn.Conv2d(input_shape.channels or 0, CHANNELS, stride, stride)
                for name, stride in self._out_feature_strides.items()
            }
        )

    @property
    def size_divisibility(self) -> int:
        return 8

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: conv(x) for name, conv in self.convs.items()}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    BACKBONE_REGISTRY._obj_map["strides"] = Strides
    BACKBONE_REGISTRY._obj_map["no_backbone"] = lambda cfg, shape: nn.Identity()
    yield
    del BACKBONE_REGISTRY._obj_map["strides"], BACKBONE_REGISTRY._obj_map["no_backbone"]


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    model = cfg.MODEL
    model.DEVICE = "cpu"
    model.MASK_ON = True
    model.BACKBONE.NAME = "strides"
    model.ANCHOR_GENERATOR.SIZES = [[8, 16], [32, 64]]
    model.ANCHOR_GENERATOR.OFFSET = 0.5
    model.RPN.IN_FEATURES = model.ROI_HEADS.IN_FEATURES = ["p2", "p3"]
    model.RPN.CONV_DIMS = [6, -1]
    model.RPN.POST_NMS_TOPK_TEST = 20
    model.RPN.LOSS_WEIGHT = 2.0
    model.RPN.BBOX_REG_LOSS_WEIGHT = 3.0
    model.ROI_HEADS.NAME = "StandardROIHeads"
    model.ROI_HEADS.NUM_CLASSES = 3
    model.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    model.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    model.ROI_BOX_HEAD.NUM_CONV, model.ROI_BOX_HEAD.CONV_DIM = 2, 5
    model.ROI_BOX_HEAD.NUM_FC, model.ROI_BOX_HEAD.FC_DIM = 1, 7
    model.ROI_BOX_HEAD.POOLER_RESOLUTION = 4
    model.ROI_BOX_HEAD.NORM = "LN"
    model.ROI_MASK_HEAD.NUM_CONV, model.ROI_MASK_HEAD.CONV_DIM = 1, 5
    return cfg


def inputs() -> list[dict[str, Any]]:
    image = torch.rand(3, 30, 40) * 255
    triangle = [torch.tensor([2.0, 2.0, 20.0, 2.0, 2.0, 20.0]).numpy()]
    instances = Instances(
        (30, 40),
        gt_boxes=Boxes(torch.tensor([[2.0, 2.0, 20.0, 20.0]])),
        gt_classes=torch.tensor([1]),
        gt_masks=PolygonMasks([triangle]),
    )
    return [{"image": image, "instances": instances, "height": 60, "width": 80}]


def test_every_key_arrives(cfg: CfgNode) -> None:
    cfg.INPUT.FORMAT = "RGB"
    cfg.TEST.DETECTIONS_PER_IMAGE = 11
    cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE = 2
    cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES = True
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = True
    model: Any = build_model(cfg)
    rpn, heads = model.proposal_generator, model.roi_heads
    assert model.pixel_mean.flatten().tolist() == pytest.approx(cfg.MODEL.PIXEL_MEAN)
    assert (model.input_format, model.vis_period) == ("RGB", 0)
    assert rpn.anchor_generator.strides == [4, 8]
    assert rpn.anchor_generator.num_anchors == [6, 6]
    assert rpn.anchor_generator.offset == 0.5
    assert rpn.loss_weight == {"loss_rpn_cls": 2.0, "loss_rpn_loc": 6.0}
    assert rpn.pre_nms_topk == {True: 12000, False: 6000}
    assert rpn.post_nms_topk == {True: 2000, False: 20}
    assert rpn.min_box_size == 2
    assert [conv.out_channels for conv in rpn.rpn_head.conv] == [6, 6]
    assert heads.box_pooler.output_size == (4, 4)
    assert heads.mask_pooler.output_size == (14, 14)
    assert heads.train_on_pred_boxes
    assert heads.batch_size_per_image == 512
    assert heads.box_predictor.test_topk_per_image == 11
    assert heads.box_predictor.loss_weight == {"loss_box_reg": 1.0}
    shapes = {name: tuple(value.shape) for name, value in heads.state_dict().items()}
    assert shapes["box_head.conv1.weight"] == (5, CHANNELS, 3, 3)
    assert shapes["box_head.conv2.norm.weight"] == (5,)
    assert shapes["box_head.fc1.weight"] == (7, 5 * 4 * 4)
    assert shapes["box_predictor.bbox_pred.weight"] == (4 * 3, 7)
    assert shapes["mask_head.mask_fcn1.weight"] == (5, CHANNELS, 3, 3)
    assert shapes["mask_head.predictor.weight"] == (1, 5, 1, 1)


def test_it_trains_and_detects(cfg: CfgNode) -> None:
    model: Any = build_model(cfg)
    with EventStorage():
        losses = model(inputs())
    assert set(losses) == {
        "loss_rpn_cls",
        "loss_rpn_loc",
        "loss_cls",
        "loss_box_reg",
        "loss_mask",
    }
    model.eval()
    (found,) = model(inputs())
    assert found["instances"].image_size == (60, 80)
    assert found["instances"].pred_masks.shape[1:] == (60, 80)


def test_proposal_network(cfg: CfgNode) -> None:
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    model: Any = build_model(cfg)
    with EventStorage():
        assert set(model(inputs())) == {"loss_rpn_cls", "loss_rpn_loc"}
    model.eval()
    (found,) = model(inputs())
    proposals = found["proposals"]
    assert 0 < len(proposals) <= 20
    assert proposals.image_size == (60, 80)
    assert proposals.proposal_boxes.tensor[:, 2:].max() > 40  # in the wanted size


def test_cascade(cfg: CfgNode) -> None:
    cfg.MODEL.ROI_HEADS.NAME = "CascadeROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS = (0.5, 0.8)
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS = ((1.0, 1.0, 1.0, 1.0), (2.0, 2.0, 2.0, 2.0))
    heads: Any = build_model(cfg).roi_heads
    assert heads.num_cascade_stages == 2
    assert [m.thresholds[1:-1] for m in heads.proposal_matchers] == [[0.5], [0.8]]
    assert [p.box2box_transform.weights[0] for p in heads.box_predictor] == [1.0, 2.0]
    assert [p.bbox_pred.out_features for p in heads.box_predictor] == [4, 4]


def test_retinanet(cfg: CfgNode) -> None:
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    node = cfg.MODEL.RETINANET
    node.IN_FEATURES, node.NUM_CLASSES, node.NUM_CONVS = ["p2", "p3"], 3, 2
    node.NORM, node.PRIOR_PROB, node.BBOX_REG_LOSS_TYPE = "BN", 0.2, "giou"
    node.IOU_THRESHOLDS, node.SMOOTH_L1_LOSS_BETA = [0.3, 0.6], 0.3
    node.BBOX_REG_WEIGHTS = (1.0, 1.0, 2.0, 2.0)
    node.FOCAL_LOSS_ALPHA, node.FOCAL_LOSS_GAMMA = 0.3, 1.5
    node.SCORE_THRESH_TEST, node.TOPK_CANDIDATES_TEST, node.NMS_THRESH_TEST = 0.01, 50, 0.4
    cfg.TEST.DETECTIONS_PER_IMAGE, cfg.INPUT.FORMAT = 11, "RGB"
    model: Any = build_model(cfg)
    assert model.anchor_generator.num_anchors == [6, 6]
    assert (model.num_classes, model.head_in_features) == (3, ["p2", "p3"])
    assert model.anchor_matcher.thresholds[1:-1] == [0.3, 0.6]
    assert model.anchor_matcher.allow_low_quality_matches
    assert model.box2box_transform.weights == (1.0, 1.0, 2.0, 2.0)
    assert (model.focal_loss_alpha, model.focal_loss_gamma) == (0.3, 1.5)
    assert (model.smooth_l1_beta, model.box_reg_loss_type) == (0.3, "giou")
    found = (model.test_score_thresh, model.test_topk_candidates, model.test_nms_thresh)
    assert found == (0.01, 50, 0.4)
    assert (model.max_detections_per_image, model.input_format, model.vis_period) == (11, "RGB", 0)
    shapes = {name: tuple(value.shape) for name, value in model.head.state_dict().items()}
    assert shapes["cls_subnet.3.weight"] == (CHANNELS, CHANNELS, 3, 3)
    assert shapes["cls_subnet.1.1.running_mean"] == (CHANNELS,)
    assert shapes["cls_score.weight"] == (18, CHANNELS, 3, 3)
    assert float(model.head.cls_score.bias[0].detach().sigmoid()) == pytest.approx(0.2)
    with EventStorage():
        assert set(model(inputs())) == {"loss_cls", "loss_box_reg"}
    (detections,) = model.eval()(inputs())
    assert detections["instances"].image_size == (60, 80)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("RETINANET.IN_FEATURES", ["p2", "p6"], r"RETINANET\.IN_FEATURES: expected .* p2, p3, got"),
        (
            "ANCHOR_GENERATOR.SIZES",
            [[8], [8, 9]],
            r"ANCHOR_GENERATOR: expected as many .* \[3, 6\]",
        ),
    ],
)
def test_wrong_retinanets(cfg: CfgNode, key: str, value: Any, message: str) -> None:
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.RETINANET.IN_FEATURES = "RetinaNet", ["p2", "p3"]
    cfg.merge_from_list([f"MODEL.{key}", value])
    with pytest.raises(ValueError, match=message):
        build_model(cfg)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "CLS_AGNOSTIC_BBOX_REG: expected True"),
        (["ROI_HEADS.IOU_THRESHOLDS", [0.4]], "expected the first to be"),
        (["ROI_BOX_CASCADE_HEAD.IOUS", (0.5,)], r"one entry per stage .* got 1 and 3"),
    ],
)
def test_wrong_cascades(cfg: CfgNode, changes: list[Any], message: str) -> None:
    cfg.MODEL.ROI_HEADS.NAME = "CascadeROIHeads"
    cfg.merge_from_list([f"MODEL.{c}" if i % 2 == 0 else c for i, c in enumerate(changes)])
    with pytest.raises(ValueError, match=message):
        build_model(cfg)


def test_federated_loss(cfg: CfgNode) -> None:
    counts = [{"id": i + 1, "image_count": n} for i, n in enumerate((4, 9, 1))]
    MetadataCatalog.get("federated").set(class_image_count=counts)
    cfg.DATASETS.TRAIN = ("federated",)
    cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS = cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE = True
    cfg.MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES = 2
    predictor: Any = build_model(cfg).roi_heads.box_predictor
    MetadataCatalog.remove("federated")
    assert predictor.fed_loss_cls_weights.tolist() == [2.0, 3.0, 1.0]  # to the power 0.5
    assert (predictor.fed_loss_num_classes, predictor.use_sigmoid_ce) == (2, True)


def test_heads_that_take_the_configuration_themselves(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OldHeads(StandardROIHeads):
        def __init__(self, cfg: Any, input_shape: Any) -> None:
            super().__init__(cfg, input_shape)
            self.is_old = True

        @classmethod
        def _init_mask_head(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
            assert input_shape["p2"].stride == 4
            return {}

    monkeypatch.setitem(ROI_HEADS_REGISTRY._obj_map, "OldHeads", OldHeads)
    cfg.MODEL.ROI_HEADS.NAME = "OldHeads"
    heads: Any = build_model(cfg).roi_heads
    assert heads.is_old
    assert not heads.mask_on


def test_omegaconf_instead_of_yacs(cfg: CfgNode) -> None:
    plain = OmegaConf.create(cfg.dump())
    keys = build_model(plain).state_dict().keys()
    assert keys == build_model(cfg).state_dict().keys()


def test_proposals_of_the_inputs(cfg: CfgNode) -> None:
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    model: Any = build_model(cfg)
    assert model.proposal_generator is None


def test_mask_head_on_whole_maps(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    class WholeMaps(BaseMaskRCNNHead):
        @classmethod
        def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
            shapes.append(input_shape)
            return super().from_config(cfg, input_shape)

    shapes: list[Any] = []
    monkeypatch.setitem(ROI_MASK_HEAD_REGISTRY._obj_map, "WholeMaps", WholeMaps)
    cfg.MODEL.ROI_MASK_HEAD.NAME, cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = "WholeMaps", ""
    cfg.VIS_PERIOD = 5
    model: Any = build_model(cfg)
    assert model.roi_heads.mask_pooler is None
    assert model.roi_heads.mask_head.vis_period == 5
    assert {name: shape.stride for name, shape in shapes[0].items()} == {"p2": 4, "p3": 8}


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("BACKBONE.NAME", "build_resnet_fpn_backbone", KeyError, r"BACKBONE\.NAME: no 'build_res"),
        ("BACKBONE.NAME", "no_backbone", TypeError, "must build a Backbone, got Identity"),
        ("META_ARCHITECTURE", "PanopticFPN", KeyError, r"MODEL\.META_ARCHITECTURE: no 'PanopticF"),
        ("PROPOSAL_GENERATOR.NAME", "RRPN", KeyError, r"PROPOSAL_GENERATOR\.NAME: no 'RRPN'"),
        ("RPN.HEAD_NAME", "Mine", KeyError, r"MODEL\.RPN\.HEAD_NAME: no 'Mine'"),
        ("ROI_HEADS.NAME", "Res5ROIHeads", KeyError, "there is .*StandardROIHeads"),
        ("ROI_BOX_HEAD.NAME", "", KeyError, r"ROI_BOX_HEAD\.NAME: no ''"),
        ("ROI_MASK_HEAD.NAME", "Point", KeyError, r"ROI_MASK_HEAD\.NAME: no 'Point'"),
        ("KEYPOINT_ON", True, ValueError, r"MODEL\.KEYPOINT_ON: expected False"),
        ("RPN.IN_FEATURES", ["res4"], ValueError, r"RPN\.IN_FEATURES: expected names out of p2"),
        ("ROI_HEADS.IN_FEATURES", ["res4"], ValueError, r"ROI_HEADS\.IN_FEATURES: expected names"),
        ("ANCHOR_GENERATOR.SIZES", [[8], [8, 9]], ValueError, "same channels and anchors"),
    ],
)
def test_wrong_keys(
    cfg: CfgNode, key: str, value: Any, error: type[Exception], message: str
) -> None:
    cfg.merge_from_list([f"MODEL.{key}", value])
    with pytest.raises(error, match=message):
        build_model(cfg)


def test_backbone_gets_the_channels_of_the_images(cfg: CfgNode) -> None:
    cfg.MODEL.PIXEL_MEAN = [0.0]
    assert build_backbone(cfg).state_dict()["convs.p2.weight"].shape[1] == 1
    shape = ShapeSpec(channels=5)
    assert build_backbone(cfg, shape).state_dict()["convs.p2.weight"].shape[1] == 5

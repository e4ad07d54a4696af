# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import (
    BaseMaskRCNNHead,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    ROIHeads,
    StandardROIHeads,
    select_foreground_proposals,
)
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference, mask_rcnn_loss
from detectron2.modeling.roi_heads.sampled_masks import SampledBitMasks
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import Tensor
from torch.nn import functional as F

# pycocotools 2.0.11 decodes with an `__array__` that numpy 2 finds outdated.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = (64, 64)
TRANSFORM = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))


@pytest.fixture(autouse=True)
def storage() -> Iterator[EventStorage]:
    with EventStorage() as storage:
        yield storage


def _latest(storage: EventStorage) -> dict[str, float]:
    return {name: value for name, (value, _) in storage.latest().items()}


def _predictor(num_classes: int = 3, **options: object) -> FastRCNNOutputLayers:
    return FastRCNNOutputLayers(
        ShapeSpec(channels=8), box2box_transform=TRANSFORM, num_classes=num_classes, **options
    )


def _boxes(*rows: list[float]) -> Boxes:
    return Boxes(torch.tensor(rows, dtype=torch.float32).reshape(-1, 4))


def _sampled(classes: list[int], *, with_gt_boxes: bool = True) -> Instances:
    boxes = torch.tensor(
        [[4.0 * i, 2.0 * i, 4.0 * i + 20, 2.0 * i + 10] for i in range(len(classes))]
    )
    boxes = Boxes(boxes.reshape(-1, 4))
    sampled = Instances(SIZE, proposal_boxes=boxes, gt_classes=torch.tensor(classes).long())
    if with_gt_boxes:
        sampled.gt_boxes = Boxes(boxes.tensor + torch.tensor([1.0, 2, 3, 4]))
    return sampled


def test_predictor_keys_and_initialisation() -> None:
    predictor = FastRCNNOutputLayers(
        ShapeSpec(channels=32, height=2, width=2), box2box_transform=TRANSFORM, num_classes=80
    )
    shapes = {name: tuple(value.shape) for name, value in predictor.state_dict().items()}
    assert shapes == {
        "cls_score.weight": (81, 128),
        "cls_score.bias": (81,),
        "bbox_pred.weight": (320, 128),
        "bbox_pred.bias": (320,),
    }
    assert float(predictor.cls_score.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    assert float(predictor.bbox_pred.weight.detach().std()) == pytest.approx(0.001, rel=0.05)
    assert _predictor(cls_agnostic_bbox_reg=True).bbox_pred.out_features == 4
    logits, deltas = predictor(torch.randn(5, 32, 2, 2))
    assert (logits.shape, deltas.shape) == ((5, 81), (5, 320))


@pytest.mark.parametrize("agnostic", [False, True])
def test_box_head_losses_equal_their_definition(storage: EventStorage, agnostic: bool) -> None:
    predictor = _predictor(cls_agnostic_bbox_reg=agnostic, loss_weight={"loss_box_reg": 3.0})
    classes = [0, 3, 2, -1, 1, 3]
    # The second image has no objects, hence no boxes of objects.
    proposals = [_sampled(classes[:4]), _sampled([3, 3], with_gt_boxes=False)]
    classes[4:] = [3, 3]
    logits, deltas = torch.randn(6, 4), torch.randn(6, 4 if agnostic else 12)
    proposals[0].gt_classes[3] = 3  # the softmax has no place for ignored regions
    classes[3] = 3
    losses = predictor.losses((logits, deltas), proposals)

    loss_cls = loss_box = 0.0
    for i, label in enumerate(classes):
        loss_cls += math.log(sum(math.exp(v) for v in logits[i].tolist())) - float(logits[i, label])
        if label < 3:
            target = TRANSFORM.get_deltas(
                proposals[0].proposal_boxes.tensor[i, None], proposals[0].gt_boxes.tensor[i, None]
            )
            found = deltas[i] if agnostic else deltas[i, 4 * label : 4 * label + 4]
            loss_box += float((found - target[0]).abs().sum())
    assert float(losses["loss_cls"]) == pytest.approx(loss_cls / 6, rel=1e-5)
    assert float(losses["loss_box_reg"]) == pytest.approx(3 * loss_box / 6, rel=1e-5)

    predicted = logits.argmax(1)
    truth = torch.tensor(classes)
    logged = _latest(storage)
    assert logged["fast_rcnn/cls_accuracy"] == pytest.approx(
        float((predicted == truth).float().mean())
    )
    foreground = truth < 3
    assert logged["fast_rcnn/false_negative"] == pytest.approx(
        float((predicted[foreground] == 3).float().mean())
    )
    assert logged["fast_rcnn/fg_cls_accuracy"] == pytest.approx(
        float((predicted == truth)[foreground].float().mean())
    )


def test_box_head_losses_without_regions_keep_a_graph() -> None:
    predictor = _predictor()
    for proposals in ([], [_sampled([])]):
        losses = predictor.losses(predictor(torch.zeros(0, 8)), proposals)
        sum(losses.values()).backward()
        assert [float(v.detach()) for v in losses.values()] == [0, 0]
    assert predictor.cls_score.weight.grad is not None
    assert predictor.bbox_pred.weight.grad is not None


def test_sigmoid_and_federated_losses() -> None:
    classes = [0, 3, 2]
    logits = torch.randn(3, 4)
    predictions = (logits, torch.zeros(3, 12))
    target = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 1]])
    each = F.binary_cross_entropy_with_logits(logits[:, :3], target, reduction="none")
    plain = _predictor(use_sigmoid_ce=True).losses(predictions, [_sampled(classes)])
    torch.testing.assert_close(plain["loss_cls"], each.sum() / 3)

    def federated(num: int, weights: list[float]) -> Tensor:
        predictor = _predictor(
            use_sigmoid_ce=True,
            use_fed_loss=True,
            fed_loss_num_classes=num,
            get_fed_loss_cls_weights=lambda: torch.tensor(weights),
        )
        assert predictor.state_dict()["fed_loss_cls_weights"].tolist() == pytest.approx(weights)
        return predictor.losses(predictions, [_sampled(classes)])["loss_cls"]

    # Classes 0, 2 and background are present; class 1 joins when a fourth is asked for.
    torch.testing.assert_close(federated(3, [1, 1, 1]), each[:, [0, 2]].sum() / 3)
    torch.testing.assert_close(federated(4, [0.1, 0.2, 0.3]), each.sum() / 3)
    with pytest.raises(ValueError, match="use_fed_loss: expected use_sigmoid_ce=True"):
        _predictor(use_fed_loss=True)
    with pytest.raises(ValueError, match="expected 3 weights, one per class, got 2"):
        federated(4, [1, 1])


def test_proposals_with_gradient_are_an_error() -> None:
    proposals = _sampled([0])
    proposals.proposal_boxes.tensor.requires_grad_()
    with pytest.raises(ValueError, match="proposals: expected boxes without gradient"):
        _predictor().losses((torch.zeros(1, 4), torch.zeros(1, 12)), [proposals])


def test_inference_by_hand() -> None:
    # Three regions, two classes, a box per class; the scores of background do not matter.
    boxes = torch.tensor(
        [
            [0.0, 0, 10, 10, 30, 30, 40, 40],
            [0, 0, 10, 9, 30, 30, 40, 39],
            [-9, 50, 80, 80, math.nan, 0, 1, 1],
        ]
    )
    scores = torch.tensor([[0.9, 0.3, 0], [0.8, 0.6, 0], [0.7, 0.7, 0]])
    (found,), (region,) = fast_rcnn_inference([boxes], [scores], [SIZE], 0.25, 0.5, 10)
    # The third region is dropped for its NaN; of the others, each class keeps its best.
    assert found.pred_classes.tolist() == [0, 1]
    assert region.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.6])
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 10, 10], [30, 30, 40, 39]]
    boxes[2, 4] = 0
    (found,), (region,) = fast_rcnn_inference([boxes], [scores], [SIZE], 0.65, 0.5, -1)
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 10, 10], [0, 50, 64, 64], [0, 0, 1, 1]]
    (found,), _ = fast_rcnn_inference([boxes], [scores], [SIZE], 0.25, 0.5, 1)
    assert len(found) == 1
    (found,), _ = fast_rcnn_inference([boxes], [scores], [SIZE], 0.95, 0.5, 9)
    assert len(found) == 0
    (found,), _ = fast_rcnn_inference([boxes[:, :4]], [scores], [SIZE], 0.25, 0.9, 9)
    assert len(found) == 6


def test_boxes_of_ground_truth_classes() -> None:
    predictor = _predictor()
    proposals = [_sampled([2, 3]), _sampled([0])]
    predictions = (torch.zeros(3, 4), torch.randn(3, 12))
    every = torch.cat(list(predictor.predict_boxes(predictions, proposals))).view(3, 3, 4)
    first, second = predictor.predict_boxes_for_gt_classes(predictions, proposals)
    assert torch.equal(torch.cat([first, second]), every[[0, 1, 2], [2, 2, 0]])
    assert proposals[0].gt_classes.tolist() == [2, 3]  # left as they were


def test_box_head_layers() -> None:
    head = FastRCNNConvFCHead(
        ShapeSpec(channels=4, height=3, width=3), conv_dims=[5], fc_dims=[6, 7], conv_norm="LN"
    )
    shapes = {name: tuple(value.shape) for name, value in head.state_dict().items()}
    assert shapes == {
        "conv1.weight": (5, 4, 3, 3),
        "conv1.norm.weight": (5,),
        "conv1.norm.bias": (5,),
        "fc1.weight": (6, 45),
        "fc1.bias": (6,),
        "fc2.weight": (7, 6),
        "fc2.bias": (7,),
    }
    assert head.output_shape == ShapeSpec(channels=7)
    output = head(torch.randn(2, 4, 3, 3))
    assert output.shape == (2, 7)
    assert (output >= 0).all()
    assert head(torch.zeros(0, 4, 3, 3)).shape == (0, 7)
    convs = FastRCNNConvFCHead(ShapeSpec(channels=4, height=3, width=2), conv_dims=[5], fc_dims=[])
    assert convs.output_shape == ShapeSpec(channels=5, height=3, width=2)
    assert "conv1.bias" in convs.state_dict()
    with pytest.raises(ValueError, match="expected at least one layer"):
        FastRCNNConvFCHead(ShapeSpec(channels=4), conv_dims=[], fc_dims=[])
    with pytest.raises(ValueError, match="input_shape: expected a height and a width"):
        FastRCNNConvFCHead(ShapeSpec(channels=4), conv_dims=[], fc_dims=[3])


def _bitmaps() -> BitMasks:
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, 10:30, 10:40] = True
    masks[1, 40:, :20] = True
    return BitMasks(masks)


def test_sampled_bitmaps_equal_copied_bitmaps() -> None:
    masks, index = _bitmaps(), torch.tensor([1, 0, 0, 1])
    sampled, copied = SampledBitMasks(masks, index), masks[index]
    assert isinstance(sampled, BitMasks)
    assert len(sampled) == 4
    assert torch.equal(sampled.tensor, copied.tensor)
    assert torch.equal(sampled[2].tensor, copied[2].tensor)
    chosen = torch.tensor([True, False, True, False])
    assert torch.equal(sampled[chosen].tensor, copied[chosen].tensor)
    assert torch.equal(sampled.nonempty(), copied.nonempty())
    assert sampled.to("cpu").device == masks.device
    boxes = torch.tensor([[0.0, 30, 30, 60], [5, 5, 50, 35], [12, 8, 20, 31], [0, 0, 64, 64]])
    with patch.object(SampledBitMasks, "tensor", property(lambda _: pytest.fail("copied"))):
        crops = sampled.crop_and_resize(boxes, 7)
        assert torch.equal(crops, copied.crop_and_resize(boxes, 7))
        assert 0 < int(crops.sum()) < crops.numel()
    with pytest.raises(ValueError, match="boxes: expected 4, one per mask, got 3"):
        sampled.crop_and_resize(boxes[:3], 7)


def _mask_instances() -> list[Instances]:
    first = _sampled([1, 0])
    first.proposal_boxes = _boxes([5, 5, 45, 35], [0, 30, 30, 64])
    first.gt_masks = _bitmaps()
    second = _sampled([2])
    second.proposal_boxes = _boxes([0, 0, 20, 20])
    second.gt_masks = PolygonMasks([[np.array([0.0, 0, 20, 0, 20, 20])]])
    return [first, _sampled([]), second]


@pytest.mark.parametrize("agnostic", [False, True])
def test_mask_loss_equals_its_definition(storage: EventStorage, agnostic: bool) -> None:
    logits = torch.randn(3, 1 if agnostic else 3, 4, 4)
    instances = _mask_instances()
    loss = mask_rcnn_loss(logits, instances)
    targets = torch.cat(
        [
            x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, 4)
            for x in (instances[0], instances[2])
        ]
    )
    total, wrong = 0.0, []
    for i, label in enumerate([0, 0, 0] if agnostic else [1, 0, 2]):
        for value, target in zip(logits[i, label].flatten(), targets[i].flatten(), strict=True):
            total += math.log1p(math.exp(-float(value) if target else float(value)))
            wrong.append((bool(value > 0) != bool(target), bool(target)))
    assert float(loss) == pytest.approx(total / 48, rel=1e-5)
    logged = _latest(storage)
    positive = sum(target for _, target in wrong)
    assert 0 < positive < 48
    assert logged["mask_rcnn/accuracy"] == pytest.approx(1 - sum(w for w, _ in wrong) / 48)
    assert logged["mask_rcnn/false_negative"] == pytest.approx(
        sum(w for w, t in wrong if t) / positive
    )
    assert logged["mask_rcnn/false_positive"] == pytest.approx(
        sum(w for w, t in wrong if not t) / (48 - positive)
    )


def test_mask_loss_of_nothing_and_of_wrong_input() -> None:
    logits = torch.zeros(0, 3, 4, 4, requires_grad=True)
    loss = mask_rcnn_loss(logits, [_sampled([])])
    loss.backward()
    assert loss == 0
    with pytest.raises(ValueError, match="gt_masks: expected masks in the ground truth, got none"):
        mask_rcnn_loss(torch.zeros(1, 3, 4, 4), [_sampled([0])])
    with pytest.raises(ValueError, match="pred_mask_logits: expected square masks"):
        mask_rcnn_loss(torch.zeros(1, 3, 4, 5), [_sampled([0])])


def test_mask_loss_draws_pictures_on_request() -> None:
    with EventStorage() as storage, patch.object(storage, "put_image") as put_image:
        mask_rcnn_loss(torch.randn(3, 3, 4, 4), _mask_instances(), vis_period=1)
        storage.step()
        mask_rcnn_loss(torch.randn(3, 3, 4, 4), _mask_instances(), vis_period=2)
    assert put_image.call_count == 3
    name, picture = put_image.call_args.args
    assert name == "mask 2: prediction (left), ground truth (right)"
    assert picture.shape == (3, 4, 8)


def test_mask_inference_takes_the_mask_of_the_class() -> None:
    logits = torch.randn(3, 3, 4, 4)
    found = [
        Instances(SIZE, pred_classes=torch.tensor(classes).long()) for classes in ([2, 0], [], [1])
    ]
    mask_rcnn_inference(logits, found)
    assert [tuple(x.pred_masks.shape) for x in found] == [(2, 1, 4, 4), (0, 1, 4, 4), (1, 1, 4, 4)]
    torch.testing.assert_close(found[0].pred_masks[:, 0], logits[[0, 1], [2, 0]].sigmoid())
    torch.testing.assert_close(found[2].pred_masks[0, 0], logits[2, 1].sigmoid())
    mask_rcnn_inference(logits[:, :1], found)
    torch.testing.assert_close(found[2].pred_masks[0, 0], logits[2, 0].sigmoid())


def test_mask_head_layers() -> None:
    head = MaskRCNNConvUpsampleHead(
        ShapeSpec(channels=4, height=3, width=3), num_classes=5, conv_dims=[6, 7], loss_weight=2.0
    )
    assert list(head.state_dict()) == [
        f"{name}.{leaf}"
        for name in ("mask_fcn1", "deconv", "predictor")
        for leaf in ("weight", "bias")
    ]
    assert float(head.predictor.weight.detach().std()) == pytest.approx(0.001, rel=0.5)
    assert head.layers(torch.randn(2, 4, 3, 3)).shape == (2, 5, 6, 6)
    assert isinstance(head, BaseMaskRCNNHead)
    instances = _mask_instances()
    x = torch.randn(3, 4, 3, 3)
    torch.testing.assert_close(
        head(x, instances)["loss_mask"], 2 * mask_rcnn_loss(head.layers(x), instances)
    )
    with pytest.raises(ValueError, match="conv_dims: expected at least"):
        MaskRCNNConvUpsampleHead(ShapeSpec(channels=4), num_classes=5, conv_dims=[])
    with pytest.raises(NotImplementedError, match=r"must define layers\(\)"):
        BaseMaskRCNNHead()(x, instances)


def _roi_heads(**options: object) -> StandardROIHeads:
    arguments = {
        "num_classes": 3,
        "batch_size_per_image": 16,
        "positive_fraction": 0.25,
        "proposal_matcher": Matcher([0.5], [0, 1]),
        "box_in_features": ["p2"],
        "box_pooler": ROIPooler(2, [1 / 4], 0, "ROIAlignV2"),
        "box_head": FastRCNNConvFCHead(
            ShapeSpec(channels=4, height=2, width=2), conv_dims=[], fc_dims=[8]
        ),
        "box_predictor": _predictor(),
        "mask_in_features": ["p2"],
        "mask_pooler": ROIPooler(4, [1 / 4], 0, "ROIAlignV2"),
        "mask_head": MaskRCNNConvUpsampleHead(
            ShapeSpec(channels=4, height=4, width=4), num_classes=3, conv_dims=[4]
        ),
        **options,
    }
    return StandardROIHeads(**arguments)


def _proposals(count: int) -> Instances:
    corner = torch.rand(count, 2) * 40
    boxes = Boxes(torch.cat([corner, corner + 4 + 20 * torch.rand(count, 2)], dim=1))
    return Instances(SIZE, proposal_boxes=boxes, objectness_logits=torch.rand(count))


def _targets() -> Instances:
    return Instances(
        SIZE,
        gt_boxes=_boxes([10, 10, 40, 30], [0, 40, 20, 64]),
        gt_classes=torch.tensor([2, 0]),
        gt_masks=_bitmaps(),
        other=torch.zeros(2),
    )


def _no_targets() -> Instances:
    return _targets()[torch.zeros(2, dtype=torch.bool)]


def test_sampling_gives_proposals_the_fields_of_their_objects(storage: EventStorage) -> None:
    heads = _roi_heads()
    near = _boxes([11, 11, 40, 30], [9, 10, 41, 31], [0, 41, 20, 64])
    proposals = Instances(SIZE, proposal_boxes=near, objectness_logits=torch.zeros(3))
    proposals = Instances.cat([proposals, _proposals(40)])
    first, second = heads.label_and_sample_proposals(
        [proposals, _proposals(3)], [_targets(), _no_targets()]
    )
    assert len(first) == 16
    # A quarter is foreground, and comes first.
    assert (first.gt_classes[:4] < 3).all()
    assert (first.gt_classes[4:] == 3).all()
    fields = {"proposal_boxes", "objectness_logits", "gt_classes", "gt_boxes", "gt_masks"}
    assert set(first.get_fields()) == fields
    for i in range(4):
        label = int(first.gt_classes[i])
        j = [2, 0].index(label)
        assert torch.equal(first.gt_boxes.tensor[i], _targets().gt_boxes.tensor[j])
        assert torch.equal(first.gt_masks[i].tensor[0], _bitmaps().tensor[j])
    assert isinstance(first.gt_masks, SampledBitMasks)
    assert second.gt_classes.tolist() == [3, 3, 3]
    assert set(second.get_fields()) == {"proposal_boxes", "objectness_logits", "gt_classes"}
    assert _latest(storage)["roi_head/num_fg_samples"] == 2
    assert _latest(storage)["roi_head/num_bg_samples"] == 7.5


def test_ignored_proposals_are_not_sampled() -> None:
    heads = _roi_heads(proposal_matcher=Matcher([0.3, 0.7], [0, -1, 1]), proposal_append_gt=False)
    boxes = _boxes([10, 10, 40, 30], [10, 10, 40, 20], [60, 60, 64, 64])
    proposals = Instances(SIZE, proposal_boxes=boxes, objectness_logits=torch.zeros(3))
    (sampled,) = heads.label_and_sample_proposals([proposals], [_targets()])
    assert sampled.gt_classes.tolist() == [2, 3]
    assert sampled.proposal_boxes.tensor.tolist() == [[10, 10, 40, 30], [60, 60, 64, 64]]


def test_foreground_is_selected() -> None:
    chosen, masks = select_foreground_proposals([_sampled([0, -1, 3, 2]), _sampled([3])], 3)
    assert [x.gt_classes.tolist() for x in chosen] == [[0, 2], []]
    assert [m.tolist() for m in masks] == [[True, False, False, True], [False]]


@pytest.mark.parametrize("objects", ["some", "none", "one image without"])
@pytest.mark.parametrize("num_proposals", [0, 30])
def test_training_with_few_or_no_objects_and_proposals(objects: str, num_proposals: int) -> None:
    heads = _roi_heads(train_on_pred_boxes=True)
    targets = {
        "some": [_targets(), _targets()],
        "none": [_no_targets(), _no_targets()],
        "one image without": [_targets(), _no_targets()],
    }[objects]
    features = {"p2": torch.randn(2, 4, 16, 16, requires_grad=True)}
    proposals = [_proposals(num_proposals), _proposals(num_proposals)]
    sampled, losses = heads(None, features, proposals, targets)
    assert list(losses) == ["loss_cls", "loss_box_reg", "loss_mask"]
    assert all(bool(loss.isfinite()) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in heads.parameters())
    assert not sampled[0].proposal_boxes.tensor.requires_grad
    if objects == "none":
        assert losses["loss_box_reg"] == losses["loss_mask"] == 0


def test_training_with_one_class() -> None:
    heads = _roi_heads(
        num_classes=1,
        box_predictor=_predictor(1),
        mask_head=MaskRCNNConvUpsampleHead(
            ShapeSpec(channels=4, height=4, width=4), num_classes=1, conv_dims=[4]
        ),
    )
    targets = _targets()
    targets.gt_classes = torch.zeros(2, dtype=torch.int64)
    features = {"p2": torch.randn(1, 4, 16, 16)}
    _, losses = heads(None, features, [_proposals(9)], [targets])
    # Two classes with even scores.
    assert float(losses["loss_cls"].detach()) == pytest.approx(math.log(2), rel=0.1)
    assert float(losses["loss_mask"].detach()) == pytest.approx(math.log(2), rel=0.1)


def test_inference_with_and_without_masks() -> None:
    features = {"p2": torch.randn(2, 4, 16, 16)}
    proposals = [_proposals(8), _proposals(0)]
    heads = _roi_heads().eval()
    (first, second), losses = heads(None, features, proposals)
    assert losses == {}
    assert len(first) > 0 == len(second)
    assert first.pred_masks.shape == (len(first), 1, 8, 8)
    again = Instances(SIZE, pred_boxes=first.pred_boxes, pred_classes=first.pred_classes)
    heads.forward_with_given_boxes({"p2": features["p2"][:1]}, [again])
    assert torch.equal(again.pred_masks, first.pred_masks)
    without = _roi_heads(mask_in_features=None, mask_pooler=None, mask_head=None).eval()
    assert not without(None, features, proposals)[0][0].has("pred_masks")


def test_wrong_use_of_the_heads() -> None:
    heads = _roi_heads()
    with pytest.raises(ValueError, match="targets: expected ground truth in training"):
        heads(None, {}, [])
    with pytest.raises(ValueError, match=r"call eval\(\) first"):
        heads.forward_with_given_boxes({}, [])
    with pytest.raises(ValueError, match="expected the fields pred_boxes and pred_classes"):
        heads.eval().forward_with_given_boxes({}, [Instances(SIZE)])
    with pytest.raises(ValueError, match="mask_head: expected a head for mask_in_features"):
        _roi_heads(mask_head=None)
    with pytest.raises(ValueError, match="keypoints are not part of the bundled runtime"):
        _roi_heads(keypoint_in_features=["p2"])
    base = ROIHeads(
        num_classes=1, batch_size_per_image=1, positive_fraction=1, proposal_matcher=None
    )
    with pytest.raises(NotImplementedError, match=r"must define forward\(\)"):
        base(None, {}, [])

# SPDX-License-Identifier: Apache-2.0
"""Region heads that do not wait, against those of whichever Detectron2 is active."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import poolers, roi_heads
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.structures import BitMasks, Boxes, ImageList, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from tests import closed_form
from vitdet_d2 import heads
from vitdet_d2.analysis.host_syncs import count_host_syncs
from vitdet_d2.heads.late_scalars import collected

LEVELS = ("p2", "p3", "p4", "p5")
SIZES = ((128, 160), (96, 128), (128, 128))
WIDTH, NUM_CLASSES = 8, 5
WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))


def build(parts, pooler, *, cascade=False, masks=True, federated=False, samples=100_000):
    """The heads of a module, of tiny widths, with closed-form weights in float64."""
    pooler = partial(
        pooler, scales=[1 / 4, 1 / 8, 1 / 16, 1 / 32], sampling_ratio=0, pooler_type="ROIAlignV2"
    )
    options = {}
    if federated:
        options = {
            "use_sigmoid_ce": True,
            "use_fed_loss": True,
            "fed_loss_num_classes": 4,
            "get_fed_loss_cls_weights": lambda: torch.arange(1.0, NUM_CLASSES + 1),
        }
    predictors = [
        parts.FastRCNNOutputLayers(
            ShapeSpec(channels=16),
            box2box_transform=Box2BoxTransform(weights=weights),
            num_classes=NUM_CLASSES,
            cls_agnostic_bbox_reg=cascade,
            **options,
        )
        for weights in WEIGHTS[: 3 if cascade else 1]
    ]
    box_heads = [
        roi_heads.FastRCNNConvFCHead(
            ShapeSpec(channels=WIDTH, height=7, width=7), conv_dims=[], fc_dims=[16]
        )
        for _ in predictors
    ]
    matchers = [
        Matcher([iou], [0, 1], allow_low_quality_matches=False)
        for iou in (0.5, 0.6, 0.7)[: len(predictors)]
    ]
    arguments = {
        "num_classes": NUM_CLASSES,
        "batch_size_per_image": samples,
        "positive_fraction": 0.25,
        "box_in_features": LEVELS,
        "box_pooler": pooler(output_size=7),
    }
    if masks:
        arguments.update(
            mask_in_features=LEVELS,
            mask_pooler=pooler(output_size=14),
            mask_head=parts.MaskRCNNConvUpsampleHead(
                ShapeSpec(channels=WIDTH, height=14, width=14),
                num_classes=NUM_CLASSES,
                conv_dims=[WIDTH] * 2,
            ),
        )
    if cascade:
        result = parts.CascadeROIHeads(
            box_heads=box_heads,
            box_predictors=predictors,
            proposal_matchers=matchers,
            **arguments,
        )
    else:
        result = parts.StandardROIHeads(
            box_head=box_heads[0],
            box_predictor=predictors[0],
            proposal_matcher=matchers[0],
            **arguments,
        )
    closed_form.fill_(result)
    for predictor in predictors:
        if federated:
            predictor.fed_loss_cls_weights.abs_()
    return result.double().train()


def objects(number, size, generator, kind):
    """Ground truth of one image: triangles in boxes, some of two parts."""
    height, width = size
    corner = torch.rand(number, 2, generator=generator) * torch.tensor([width, height]) * 0.6
    side = torch.rand(number, 2, generator=generator) * torch.tensor([width, height]) * 0.35 + 6
    boxes = torch.cat([corner, corner + side], dim=1)
    truth = Instances(size)
    truth.gt_boxes = Boxes(boxes)
    truth.gt_classes = torch.randint(0, NUM_CLASSES, (number,), generator=generator)
    polygons = []
    for i, (x0, y0, x1, y1) in enumerate(boxes.double().tolist()):
        parts = [[x0, y0, x1, y0, x0, y1], [x1, y1, x1, y0 + 3, x0 + 3, y1]]
        polygons.append([torch.tensor(p).double().numpy() for p in parts[: 1 + i % 2]])
    if kind is not None:
        masks = PolygonMasks(polygons)
        bitmaps = kind == "bitmaps"
        truth.gt_masks = BitMasks.from_polygon_masks(masks, *size) if bitmaps else masks
    return truth


def case(kinds=("polygons", "bitmaps", "polygons"), numbers=(4, 3, 0)):
    """Features, proposals and ground truth of three images."""
    generator = torch.Generator().manual_seed(0)
    features = {
        name: torch.randn(3, WIDTH, 128 // s, 160 // s, generator=generator).double()
        for name, s in zip(LEVELS, (4, 8, 16, 32), strict=True)
    }
    truth = [
        objects(number, size, generator, kind)
        for number, size, kind in zip(numbers, SIZES, kinds, strict=True)
    ]
    proposals = []
    for image in truth:
        height, width = image.image_size
        near = image.gt_boxes.tensor.repeat(6, 1)
        near = near + torch.randn(near.shape, generator=generator) * 3
        corner = torch.rand(30, 2, generator=generator) * torch.tensor([width, height]) * 0.7
        far = torch.cat([corner, corner + 2 + 25 * torch.rand(30, 2, generator=generator)], dim=1)
        boxes = Boxes(torch.cat([near, far]))
        boxes.clip(image.image_size)
        boxes = boxes[boxes.nonempty()]
        proposal = Instances(image.image_size)
        proposal.proposal_boxes = boxes
        proposal.objectness_logits = torch.randn(len(boxes), generator=generator)
        proposals.append(proposal)
    return features, proposals, truth


def run(module, features, proposals, truth):
    """Losses, gradients of weights and features, and what was logged."""
    features = {name: value.clone().requires_grad_() for name, value in features.items()}
    images = ImageList(torch.zeros(3, 3, 128, 160), list(SIZES))
    torch.manual_seed(0)
    with EventStorage() as storage:
        _, losses = module(images, features, proposals, truth)
        sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in module.named_parameters()}
    gradients.update({name: value.grad for name, value in features.items()})
    return losses, gradients, {name: value for name, (value, _) in storage.latest().items()}


def assert_same(ours, theirs):
    # Sums of hundreds of float64 numbers in another order; boxes are float32 on both sides.
    close = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-9)
    for own, other in zip(ours, theirs, strict=True):
        assert own.keys() == other.keys()
        for name, value in other.items():
            if value is None:
                assert own[name] is None or not own[name].any()
            else:
                close(own[name], value, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("federated", [False, True])
@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("cascade", [False, True])
def test_losses_gradients_and_metrics_are_those_of_detectron2(cascade, masks, federated):
    options = {"cascade": cascade, "masks": masks, "federated": federated}
    data = case()
    assert_same(
        run(build(heads, heads.ROIPooler, **options), *data),
        run(build(roi_heads, poolers.ROIPooler, **options), *data),
    )


@pytest.mark.parametrize("kind", ["polygons", "bitmaps"])
def test_one_kind_of_masks(kind):
    data = case(kinds=(kind,) * 3, numbers=(3, 0, 5))
    assert_same(
        run(build(heads, heads.ROIPooler), *data),
        run(build(roi_heads, poolers.ROIPooler), *data),
    )


@pytest.mark.parametrize("cascade", [False, True])
def test_images_without_objects(cascade):
    data = case(numbers=(0, 0, 0))
    assert_same(
        run(build(heads, heads.ROIPooler, cascade=cascade), *data),
        run(build(roi_heads, poolers.ROIPooler, cascade=cascade), *data),
    )


def padded(proposals, number):
    """The proposals with empty places behind them, as `RPN(pad_proposals=True)` gives them."""
    results = []
    for image in proposals:
        result = Instances(image.image_size)
        result.proposal_boxes = Boxes(
            torch.cat([image.proposal_boxes.tensor, torch.zeros(number, 4)])
        )
        result.objectness_logits = torch.cat(
            [image.objectness_logits, torch.full((number,), -torch.inf)]
        )
        results.append(result)
    return results


@pytest.mark.parametrize("cascade", [False, True])
def test_empty_places_among_proposals_change_nothing(cascade):
    features, proposals, truth = case()
    module = build(heads, heads.ROIPooler, cascade=cascade)
    expected = run(module, features, proposals, truth)
    module.zero_grad()
    assert_same(run(module, features, padded(proposals, 9), truth), expected)


def test_a_sample_has_its_size_and_share_of_foreground():
    _, proposals, truth = case(numbers=(4, 3, 1))
    module = build(heads, heads.ROIPooler, samples=16)
    with EventStorage() as storage:
        sampled = module.label_and_sample_proposals(padded(proposals, 5), truth)
    assert [len(image) for image in sampled] == [16] * 3
    for image, count in zip(sampled, sampled.num_foreground, strict=True):
        assert 0 < count <= 4
        assert (image.gt_classes[:count] < NUM_CLASSES).all()
        assert (image.gt_classes[count:] == NUM_CLASSES).all()
        assert (image.objectness_logits != -torch.inf).all()
        assert len(image.proposal_boxes.tensor.unique(dim=0)) == 16
    logged = storage.latest()
    assert logged["roi_head/num_fg_samples"][0] == sum(sampled.num_foreground) / 3
    assert logged["roi_head/num_bg_samples"][0] == 16 - sum(sampled.num_foreground) / 3


def test_fewer_proposals_than_the_sample_takes():
    _, proposals, truth = case(numbers=(4, 3, 1))
    module = build(heads, heads.ROIPooler, samples=60)
    with EventStorage():
        sampled = module.label_and_sample_proposals(padded(proposals, 40), truth)
    for image, before, objects_ in zip(sampled, proposals, truth, strict=True):
        assert len(image) <= len(before) + len(objects_)
        assert (image.objectness_logits != -torch.inf).all()


@pytest.mark.parametrize("cascade", [False, True])
@pytest.mark.parametrize("kind", ["polygons", "bitmaps"])
def test_one_wait_in_a_training_step(cascade, kind):
    features, proposals, truth = case(kinds=(kind,) * 3)
    module = build(heads, heads.ROIPooler, cascade=cascade)
    with EventStorage(), collected():
        run_once = partial(module, None, features, proposals, truth)
        syncs = count_host_syncs(lambda: sum(run_once()[1].values()).backward())
    assert syncs.total == 1, str(syncs)


def test_masks_are_missed_where_objects_have_none():
    data = case(kinds=(None,) * 3)
    with pytest.raises(ValueError, match="gt_masks: expected masks in the ground truth"):
        run(build(heads, heads.ROIPooler), *data)


def test_other_predictors_and_heads_still_work():
    class Mixed:
        StandardROIHeads = heads.StandardROIHeads
        CascadeROIHeads = heads.CascadeROIHeads
        FastRCNNOutputLayers = roi_heads.FastRCNNOutputLayers
        MaskRCNNConvUpsampleHead = roi_heads.MaskRCNNConvUpsampleHead

    data = case(numbers=(4, 3, 2))
    for cascade in (False, True):
        assert_same(
            run(build(Mixed, poolers.ROIPooler, cascade=cascade), *data),
            run(build(roi_heads, poolers.ROIPooler, cascade=cascade), *data),
        )

# SPDX-License-Identifier: Apache-2.0
"""One Mask R-CNN with closed-form weights, run in whichever Detectron2 is active.

Both runtimes are called ``detectron2``, so each runs in a process of its own:

    VITDET_D2_RUNTIME=bundled python -m tests.parity.mask_rcnn_case ti bundled.pt --dtype float64

The model is that of Detectron2's ``configs/common/models/mask_rcnn_vitdet.py``, built by hand from
``detectron2.modeling``: the same file, the same names, whatever stands behind them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import vitdet_d2  # isort: skip  (decides which Detectron2 this process uses)
import torch
import torchvision
from detectron2.modeling import SimpleFeaturePyramid, ViT
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from tests import closed_form
from tests.parity.roi_heads_case import HeadsCase, build_roi_heads
from vitdet_d2 import runtime

assert vitdet_d2.__version__, "the package under test has no version"

PIXEL_MEAN = [123.675, 116.28, 103.53]
PIXEL_STD = [58.395, 57.12, 57.375]


@dataclass(frozen=True, kw_only=True)
class Case(HeadsCase):
    """Sizes of one comparison; those of the heads are in the base.

    Attributes:
        embed_dim, depth, num_heads: of the ViT.
        window_blocks: indices of the windowed blocks.
        image_sizes: ``(height, width)`` of the images of the batch.
        square_pad: as in ``SimpleFeaturePyramid``.
        num_proposals: that reach the RoI heads.
    """

    embed_dim: int
    depth: int
    num_heads: int
    window_blocks: tuple[int, ...]
    image_sizes: tuple[tuple[int, int], ...]
    square_pad: int = 0
    num_proposals: int = 1000


_BASE_WINDOWS = (0, 1, 3, 4, 6, 7, 9, 10)
# Small enough for every test run.
_TINY = Case(
    embed_dim=48,
    depth=2,
    num_heads=3,
    window_blocks=(0,),
    image_sizes=((128, 192), (112, 160)),
    channels=32,
    fc_dim=64,
    num_classes=5,
    num_proposals=60,
)
_TI = Case(
    embed_dim=192,
    depth=12,
    num_heads=3,
    window_blocks=_BASE_WINDOWS,
    image_sizes=((256, 320), (240, 300)),
    num_proposals=200,
)
CASES = {
    "tiny": _TINY,
    "tiny_boxes": replace(_TINY, masks=False),
    "tiny_lvis": replace(_TINY, federated=True, num_classes=40),
    "tiny_cascade": replace(_TINY, cascade=True),
    "tiny_cascade_boxes": replace(_TINY, cascade=True, masks=False),
    "tiny_cascade_lvis": replace(_TINY, cascade=True, federated=True, num_classes=40),
    "ti": _TI,
    "ti_cascade": replace(_TI, cascade=True),
    "b": Case(
        embed_dim=768,
        depth=12,
        num_heads=12,
        window_blocks=_BASE_WINDOWS,
        image_sizes=((1024, 1024),),
        square_pad=1024,
    ),
}


def build(
    case: Case, mode: Literal["eval", "train"], *, seed: int | None = None
) -> GeneralizedRCNN:
    """Build the model with closed-form weights, or with its own initialisation from a seed."""
    if seed is not None:
        torch.manual_seed(seed)
    c, p = case.channels, case.num_proposals
    backbone = SimpleFeaturePyramid(
        net=ViT(
            img_size=1024,
            patch_size=16,
            embed_dim=case.embed_dim,
            depth=case.depth,
            num_heads=case.num_heads,
            drop_path_rate=0.0,
            window_size=14,
            mlp_ratio=4,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            window_block_indexes=list(case.window_blocks),
            residual_block_indexes=[],
            use_rel_pos=True,
            out_feature="last_feat",
        ),
        in_feature="last_feat",
        out_channels=c,
        scale_factors=(4.0, 2.0, 1.0, 0.5),
        top_block=LastLevelMaxPool(),
        norm="LN",
        square_pad=case.square_pad,
    )
    height, width = (max(sides) for sides in zip(*case.image_sizes, strict=True))
    # More than there are anchors, of which half may be positive: nothing is drawn at random.
    sample_size = 2 * 3 * (height // 4) * (width // 4)
    levels = ["p2", "p3", "p4", "p5"]
    pooler = partial(
        ROIPooler, scales=[1 / 4, 1 / 8, 1 / 16, 1 / 32], sampling_ratio=0, pooler_type="ROIAlignV2"
    )
    proposal_generator = RPN(
        in_features=[*levels, "p6"],
        head=StandardRPNHead(in_channels=c, num_anchors=3, conv_dims=[-1, -1]),
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[32], [64], [128], [256], [512]],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
            offset=0.0,
        ),
        anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=sample_size,
        positive_fraction=0.5,
        pre_nms_topk=(2 * p, p),
        post_nms_topk=(p, p),
        nms_thresh=0.7,
    )
    roi_heads = build_roi_heads(case, levels, pooler)
    model = GeneralizedRCNN(
        backbone=backbone,
        proposal_generator=proposal_generator,
        roi_heads=roi_heads,
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
        input_format="RGB",
    )
    if seed is None:
        closed_form.fill_(model)
        _condition(model, mode)
    return model


@torch.no_grad()
def _condition(model: GeneralizedRCNN, mode: Literal["eval", "train"]) -> None:
    """Adjust the closed-form weights, so that a comparison in float32 says something.

    In inference, detections of several classes are wanted: the features of all regions are much
    alike, and what they have in common would give all of them one class. Rows of mean zero take
    some of that out of the scores.

    In training, gradients are wanted that do not hang on rounding: a hidden unit within rounding
    distance of 0 is on in one run and off in the other, and one in a million of those makes 1e-3
    of the gradient. Larger biases keep most units on.
    """
    heads = model.roi_heads
    rpn_head = model.proposal_generator.rpn_head
    rpn_head.anchor_deltas.weight.mul_(0.3)  # boxes that stay near their anchors
    cascade = isinstance(heads.box_predictor, nn.ModuleList)
    for predictor in heads.box_predictor if cascade else [heads.box_predictor]:
        score = predictor.cls_score
        score.weight.sub_(score.weight.mean(dim=1, keepdim=True))
        if predictor.use_fed_loss:
            predictor.fed_loss_cls_weights.abs_()  # chances
        if mode == "eval":
            # Each stage of a cascade rounds once more: smaller scores, and boxes that move less.
            score.weight.mul_(1.0 if cascade else 2.0)
            predictor.bbox_pred.weight.mul_(0.3 if cascade else 1.0)
    if mode == "eval":
        return
    convolutional = list(heads.box_head) if cascade else [heads.box_head]
    if heads.mask_on:
        convolutional.append(heads.mask_head)
    for head in convolutional:
        for conv in head.conv_norm_relus:
            conv.norm.bias.add_(2.0)
    for conv in rpn_head.conv:
        conv.bias.add_(2.0)


def inputs(case: Case) -> list[dict[str, Any]]:
    """Return the batch, with ground truth as polygons and as bitmaps in turn."""
    batch = []
    for i, (height, width) in enumerate(case.image_sizes):
        boxes, polygons, classes = [], [], []
        for j in range(6):
            # Objects of 1/8 to 1/2 of the image, spread over it.
            w, h = width * (0.125 + 0.06 * j), height * (0.5 - 0.06 * j)
            x = (width - w) * (0.37 * (j + 1) + 0.21 * i) % (width - w)
            y = (height - h) * (0.59 * (j + 1) + 0.33 * i) % (height - h)
            boxes.append([x, y, x + w, y + h])
            # A hexagon that touches its box on all sides.
            corners = [(0.3, 0), (1, 0.2), (0.9, 0.8), (0.6, 1), (0.1, 0.9), (0, 0.4)]
            polygons.append([torch.tensor([v for a, b in corners for v in (x + a * w, y + b * h)])])
            classes.append((j * 7 + i) % case.num_classes)
        gt = Instances((height, width))
        gt.gt_boxes = Boxes(torch.tensor(boxes))
        gt.gt_classes = torch.tensor(classes)
        if case.masks:
            masks = PolygonMasks([[p.numpy() for p in polygon] for polygon in polygons])
            gt.gt_masks = masks if i % 2 == 0 else BitMasks.from_polygon_masks(masks, height, width)
        batch.append(
            {
                "image": closed_form.image(f"image{i}", height, width),
                "instances": gt,
                # Detections are wanted in another size than the network sees.
                "height": height * 3 // 2,
                "width": width * 5 // 4,
            }
        )
    return batch


@contextmanager
def _nms_of_any_dtype() -> Iterator[None]:
    """Let non-maximum suppression take float32 boxes with float64 scores, as a float64 model has.

    torchvision refuses the mix, and so Detectron2 has no float64 models without this; the bundled
    runtime has.
    """
    if runtime.current().name == "bundled":
        yield
        return
    original = torchvision.ops.boxes.nms

    def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
        return original(boxes.to(scores.dtype), scores, iou_threshold)

    torchvision.ops.boxes.nms = nms
    try:
        yield
    finally:
        torchvision.ops.boxes.nms = original


def run_eval(model: GeneralizedRCNN, batch: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
    """Return the detections of every image as plain tensors."""
    model.eval()
    with torch.no_grad(), _nms_of_any_dtype():
        outputs = [x["instances"] for x in model(batch)]
    return [
        {
            "boxes": x.pred_boxes.tensor,
            "scores": x.scores,
            "classes": x.pred_classes,
            **({"masks": x.pred_masks} if x.has("pred_masks") else {}),
        }
        for x in outputs
    ]


def run_train(model: GeneralizedRCNN, batch: list[dict[str, Any]]) -> dict[str, Any]:
    """Return losses, gradients and the logged statistics of one step."""
    model.train()
    torch.manual_seed(0)  # the order of the sampled regions
    with EventStorage() as storage, _nms_of_any_dtype():
        losses = model(batch)
        sum(losses.values()).backward()
    return {
        "losses": {name: loss.detach() for name, loss in losses.items()},
        "gradients": {
            name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
        },
        "logged": {name: value for name, (value, _) in storage.latest().items()},
    }


def run(case: Case, dtype: torch.dtype, *, train: bool = True) -> dict[str, Any]:
    """Return everything that is compared."""
    batch = inputs(case)
    model = build(case, "eval").to(dtype)
    results: dict[str, Any] = {
        "keys": {name: tuple(value.shape) for name, value in model.state_dict().items()},
        "eval": run_eval(model, batch),
    }
    if train:
        results["train"] = run_train(build(case, "train").to(dtype), batch)
    return results


def initial_state(case: Case) -> dict[str, Tensor]:
    """Return the weights that a seeded construction gives."""
    return build(case, "eval", seed=0).state_dict()


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """Return what a golden keeps: few numbers, each of which depends on a whole tensor."""

    def digest(name: str, value: Tensor) -> list[float]:
        value = value.double()
        weights = closed_form.tensor(name, tuple(value.shape))
        return [float(value.abs().max()), float((value * weights).sum())]

    return {
        "eval": [
            {
                "boxes": x["boxes"].tolist(),
                "scores": x["scores"].tolist(),
                "classes": x["classes"].tolist(),
                "mask_pixels": x["masks"].sum(dim=(1, 2)).tolist(),
            }
            for x in results["eval"]
        ],
        "losses": {name: float(v) for name, v in results["train"]["losses"].items()},
        "gradients": {name: digest(name, v) for name, v in results["train"]["gradients"].items()},
        "logged": results["train"]["logged"],
    }


def main() -> None:
    """Run one case and keep its results."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("output", type=Path)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--eval-only", action="store_true")
    parser.add_argument("--golden", action="store_true", help="keep a summary, as JSON")
    args = parser.parse_args()
    case = CASES[args.case]
    results = run(case, getattr(torch, args.dtype), train=not args.eval_only)
    if args.golden:
        args.output.write_text(json.dumps(summary(results), indent=0) + "\n")
        return
    results["initial"] = initial_state(case)
    torch.save(results, args.output)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The axes ``inference`` (images to detections with pasted masks) and ``backbone`` (with neck)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from vitdet_d2.analysis.bench.case import Case, Evidence, Side, Subject
from vitdet_d2.analysis.bench.models import build, load_weights
from vitdet_d2.analysis.bench.precision import autocast, autocast_dtype
from vitdet_d2.analysis.synthetic import noise_images

# Images of COCO are so much smaller than what the model sees.
_ORIGINAL_SHARE = 0.625
_NUM_BOXES = 50  # that the heads are compared on


def inference(case: Case, side: Side, weights: Path) -> Subject:
    """Prepare a side to detect.

    Args:
        case: its sizes.
        side: who detects.
        weights: of `write_weights`.
    """
    model, dtype = _ready(case, side, weights), autocast_dtype(case, side)
    inputs = noise_images(case.batch, (case.image_size, case.image_size))
    for sample in inputs:
        sample["height"] = sample["width"] = round(case.image_size * _ORIGINAL_SHARE)

    @torch.no_grad()
    def run() -> Any:
        with autocast(case.device, dtype):
            return model(inputs)

    def outputs(precision: torch.dtype | None) -> Evidence:
        images = [sample["image"] for sample in inputs[:1]]
        with torch.no_grad(), autocast(case.device, precision):
            return {**_parts(model, images)}

    def count() -> dict[str, float]:
        return {"detections": float(sum(len(output["instances"]) for output in run()))}

    return Subject(
        run=run,
        units=case.batch,
        evidence=lambda: _evidence(outputs, dtype, side),
        count=count,
    )


def backbone(case: Case, side: Side, weights: Path) -> Subject:
    """Prepare a side to compute the maps of backbone and neck.

    Args:
        case: its sizes.
        side: whose backbone.
        weights: of `write_weights`.
    """
    model, dtype = _ready(case, side, weights), autocast_dtype(case, side)
    body = model.get_submodule("backbone")
    samples = noise_images(case.batch, (case.image_size, case.image_size))
    images = torch.stack([sample["image"] for sample in samples]).to(case.device).float() / 64 - 2

    @torch.no_grad()
    def run() -> Any:
        with autocast(case.device, dtype):
            return body(images)

    def outputs(precision: torch.dtype | None) -> Evidence:
        with torch.no_grad(), autocast(case.device, precision):
            return {name: value.float().cpu() for name, value in body(images).items()}

    return Subject(run=run, units=case.batch, evidence=lambda: _evidence(outputs, dtype, side))


def _evidence(outputs: Any, dtype: torch.dtype | None, side: Side) -> Evidence:
    """Return the outputs in float32, and as they are measured where that is something else."""
    found: Evidence = {}
    if side != "tuned":
        found |= {f"output {name}": value for name, value in outputs(None).items()}
    if dtype is not None:
        found |= {f"rounded {name}": value for name, value in outputs(dtype).items()}
    return found


def _ready(case: Case, side: Side, weights: Path) -> nn.Module:
    model = build(case, side)
    load_weights(model, weights)
    return model.eval()


def _parts(model: Any, images: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return what the networks compute; no list of boxes, which rounding may put in new order."""
    batch: ImageList = model.preprocess_image([{"image": image} for image in images])
    features = model.backbone(batch.tensor)
    found = dict(features)
    if getattr(model, "proposal_generator", None) is not None:
        rpn = model.proposal_generator
        logits, deltas = rpn.rpn_head([features[name] for name in rpn.in_features])
        found |= {f"logits {i}": value for i, value in enumerate(logits)}
        found |= {f"deltas {i}": value for i, value in enumerate(deltas)}
        found |= _of_regions(model.roi_heads, features, batch.image_sizes[0])
    elif isinstance(getattr(model, "head", None), nn.Module):
        maps = [features[name] for name in model.head_in_features]
        for kind, values in zip(("logits", "deltas"), model.head(maps), strict=True):
            found |= {f"{kind} {i}": value for i, value in enumerate(values)}
    return {name: value.float().cpu() for name, value in found.items()}


def _of_regions(
    heads: Any, features: dict[str, Tensor], size: tuple[int, int]
) -> dict[str, Tensor]:
    """Return what the heads say of boxes that are given."""
    boxes = Boxes(_boxes(size).to(next(iter(features.values())).device))
    crops = heads.box_pooler([features[name] for name in heads.box_in_features], [boxes])
    found: dict[str, Tensor] = {}
    stages = heads.box_head if isinstance(heads.box_head, nn.ModuleList) else [heads.box_head]
    predictor = heads.box_predictor
    predictors = predictor if isinstance(predictor, nn.ModuleList) else [predictor]
    for number, (head, last) in enumerate(zip(stages, predictors, strict=True)):
        scores, moves = last(head(crops))
        found |= {f"scores {number}": scores, f"moves {number}": moves}
    if getattr(heads, "mask_head", None) is not None:
        given = Instances(size)
        given.pred_boxes = boxes
        given.pred_classes = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        (given,) = heads.forward_with_given_boxes(features, [given])
        found["masks"] = given.pred_masks
    return found


def _boxes(size: tuple[int, int]) -> Tensor:
    """Return boxes of many sizes and places, ``(N, 4)`` XYXY in pixels."""
    turn = torch.arange(_NUM_BOXES, dtype=torch.float32)
    scale = torch.tensor([size[1], size[0]], dtype=torch.float32)
    sides = (0.05 + 0.5 * (0.37 * turn % 1)[:, None]) * scale
    corner = torch.stack([0.61 * turn % 1, 0.29 * turn % 1], dim=1) * (scale - sides)
    return torch.cat([corner, corner + sides], dim=1)

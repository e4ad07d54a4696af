# SPDX-License-Identifier: Apache-2.0
"""Count parameters and work of a whole detector without running it on data.

The backbone, its neck and the RPN run on an image of the given size; the heads on *nominal* numbers
of regions, since how many there are depends on the data: in training as many proposals as are
sampled, and as many masks as may be positive among them; at test as many proposals and detections
as are kept. On the meta device none of it takes memory or time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitdet_d2.analysis.counter import WorkCounter
from vitdet_d2.analysis.parts import (
    BACKBONE,
    BOX_HEAD,
    DENSE_HEAD,
    MASK_HEAD,
    NECK,
    RPN,
    count_parameters,
    find_body,
)
from vitdet_d2.analysis.work import Work
from vitdet_d2.errors import RecipeError

# What is understood of a detector; work of anything else with parameters is said to be missing.
_KNOWN = ("backbone", "proposal_generator", "roi_heads", "head")
_KNOWN_HEADS = ("box_", "mask_")


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Nominal numbers of regions per image.

    Attributes:
        boxes: that go through the box head.
        masks: that go through the mask head; 0 where there is none.
    """

    boxes: int
    masks: int


@dataclass(frozen=True, kw_only=True)
class DetectorCount:
    """What a detector costs for one image.

    Attributes:
        image_size: ``(H, W)`` that went into the backbone, in pixels.
        parameters: by part.
        test: work of a forward pass at test, by part.
        train: work of a forward pass in training, by part.
        test_regions: what the heads were counted for at test; None without such heads.
        train_regions: the same in training.
        notes: what could not be counted.
    """

    image_size: tuple[int, int]
    parameters: Mapping[str, int]
    test: Mapping[str, Work]
    train: Mapping[str, Work]
    test_regions: Regions | None
    train_regions: Regions | None
    notes: tuple[str, ...] = ()


def total(parts: Mapping[str, Work]) -> Work:
    """Return the work of all parts together.

    Args:
        parts: work by part.
    """
    return sum(parts.values(), Work())


@torch.no_grad()
def count_detector(model: nn.Module, image_size: tuple[int, int]) -> DetectorCount:
    """Count a detector in Detectron2's format, or its backbone alone.

    Args:
        model: with ``backbone``, and as far as it has them ``proposal_generator``, ``roi_heads``
            (with heads for boxes and masks, cascaded or not) and ``head`` (dense, as RetinaNet's).
            Put into eval mode.
        image_size: wanted ``(H, W)`` in pixels; enlarged to what the backbone divides by.

    Raises:
        RecipeError: heads of a kind that is not understood.
    """
    model.eval()
    size = divisible_size(model, image_size)
    device = next(model.parameters()).device
    channels = len(getattr(model, "pixel_mean", (0, 0, 0)))
    shared = WorkCounter()
    with shared.counting(model):
        features = _count_backbone(shared, model, torch.empty(1, channels, *size, device=device))
        _count_dense(shared, model, features)
    counters, regions = {}, {}
    for phase in ("test", "train"):
        counters[phase] = WorkCounter()
        regions[phase] = nominal_regions(model, training=phase == "train")
        with counters[phase].counting(model):
            _count_heads(counters[phase], model, features, regions[phase])
    uncounted = set().union(*(c.uncounted for c in (shared, *counters.values())))
    notes = [f"not counted: operator {name}" for name in sorted(uncounted)]
    notes += [f"not counted: {name}" for name in _unknown_parts(model)]
    return DetectorCount(
        image_size=size,
        parameters=count_parameters(model),
        test={**shared.parts, **counters["test"].parts},
        train={**shared.parts, **counters["train"].parts},
        test_regions=regions["test"],
        train_regions=regions["train"],
        notes=tuple(notes),
    )


def divisible_size(model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Return the size that images of a size are padded to, in pixels.

    Args:
        model: whose ``backbone`` says what sides must be multiples of.
        size: ``(H, W)``.
    """
    step = max(1, int(getattr(model.backbone, "size_divisibility", 1)))
    return (-(-size[0] // step) * step, -(-size[1] // step) * step)


def nominal_regions(model: nn.Module, *, training: bool) -> Regions | None:
    """Return how many regions of an image go through the heads.

    Args:
        model: a detector; reads what its parts were built with.
        training: whether in training.

    Returns:
        None where there are no such heads.

    Raises:
        RecipeError: the heads are of a kind that is not understood.
    """
    heads: Any = getattr(model, "roi_heads", None)
    if heads is None:
        return None
    needed = ("box_pooler", "box_head", "box_predictor", "batch_size_per_image")
    missing = [name for name in needed if getattr(heads, name, None) is None]
    if missing:
        raise RecipeError(
            f"roi_heads: {type(heads).__name__} has no {', '.join(missing)}, and heads of this "
            "kind cannot be counted; --part backbone counts the rest"
        )
    has_masks = getattr(heads, "mask_head", None) is not None
    if training:
        boxes = int(heads.batch_size_per_image)
        masks = int(boxes * heads.positive_fraction)
    else:
        boxes = int(model.proposal_generator.post_nms_topk[False])  # type: ignore[union-attr,index]
        masks = int(_stages(heads.box_predictor)[-1].test_topk_per_image)
    return Regions(boxes=boxes, masks=masks if has_masks else 0)


def _count_backbone(counter: WorkCounter, model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    backbone = model.get_submodule("backbone")
    body = find_body(backbone)
    if body is None:
        with counter.part(BACKBONE):
            return backbone(image)
    with counter.part(NECK), counter.part_of(body, BACKBONE):
        return backbone(image)


def _count_dense(counter: WorkCounter, model: Any, features: Mapping[str, Tensor]) -> None:
    """Count what runs on whole maps: the RPN, and dense heads."""
    rpn = getattr(model, "proposal_generator", None)
    if rpn is not None:
        with counter.part(RPN):
            rpn.rpn_head([features[name] for name in rpn.in_features])
    if isinstance(getattr(model, "head", None), nn.Module):
        with counter.part(DENSE_HEAD):
            model.head([features[name] for name in model.head_in_features])


def _count_heads(
    counter: WorkCounter, model: Any, features: Mapping[str, Tensor], regions: Regions | None
) -> None:
    """Count what runs on regions."""
    if regions is None:
        return
    heads = model.roi_heads
    crops = _crops(regions.boxes, features[heads.box_in_features[0]], heads.box_pooler.output_size)
    with counter.part(BOX_HEAD):
        stages = zip(_stages(heads.box_head), _stages(heads.box_predictor), strict=True)
        for head, predictor in stages:
            predictor(head(crops))
    if regions.masks:
        feature = features[heads.mask_in_features[0]]
        crops = _crops(regions.masks, feature, heads.mask_pooler.output_size)
        with counter.part(MASK_HEAD):
            heads.mask_head.layers(crops)


def _crops(count: int, feature: Tensor, output_size: tuple[int, int]) -> Tensor:
    return feature.new_empty(count, feature.shape[1], *output_size)


def _stages(head: nn.Module) -> list[Any]:
    """Return the stages of a cascade, or the one head."""
    return list(head) if isinstance(head, nn.ModuleList) else [head]


def _unknown_parts(model: nn.Module) -> Iterable[str]:
    """Yield the names of parts with parameters whose work is not counted."""
    for name, module in model.named_children():
        if any(True for _ in module.parameters()) and name not in _KNOWN:
            yield name
    heads = getattr(model, "roi_heads", None)
    for name, module in heads.named_children() if heads is not None else ():
        has_parameters = any(True for _ in module.parameters())
        if has_parameters and not name.startswith(_KNOWN_HEADS):
            yield f"roi_heads.{name}"

# SPDX-License-Identifier: Apache-2.0
"""The axes ``training`` and ``syncs``: a whole step of the trainer, on the same objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf
from torch import Tensor, nn

from vitdet_d2.analysis.bench.case import Case, Evidence, Side, Subject
from vitdet_d2.analysis.bench.models import build, load_weights, recipe_of
from vitdet_d2.analysis.bench.precision import autocast_dtype
from vitdet_d2.analysis.bench.trainers import Batches, detectron2_step, our_step
from vitdet_d2.analysis.host_syncs import count_host_syncs, observe_host_syncs
from vitdet_d2.analysis.synthetic import noise_batch

_MASKS = "dataloader.train.mapper.instance_mask_format"
_NUM_BATCHES = 2
# Proposals near objects, as after some training: as many as fill the share of positive regions.
_NEAR = 90
_JITTER = 0.1


def training(case: Case, side: Side, weights: Path) -> Subject:
    """Prepare a side to train.

    Args:
        case: its sizes.
        side: who trains.
        weights: of `write_weights`.
    """
    step, _ = _step(case, side, weights)
    return Subject(run=step, units=case.batch, evidence=lambda: _evidence(case, side, weights))


def syncs(case: Case, side: Side, weights: Path) -> Subject:
    """Prepare a side to have the host synchronisations of a training step counted.

    On CUDA PyTorch itself counts; elsewhere a model of it.

    Args:
        case: its sizes.
        side: who trains.
        weights: of `write_weights`.
    """
    step, batches = _step(case, side, weights)

    def count() -> Mapping[str, float]:
        step()  # what waits only once is not counted
        if torch.device(case.device).type == "cuda":
            return {"host_syncs": observe_host_syncs(step).total}
        # Our loader's batches are on the device before the step; Detectron2's are not.
        return {"host_syncs": count_host_syncs(step, host=() if side == "ours" else batches).total}

    return Subject(
        run=step, units=case.batch, evidence=lambda: _evidence(case, side, weights), count=count
    )


def _step(case: Case, side: Side, weights: Path) -> tuple[Callable[[], None], Batches]:
    """Return a step of a side's trainer, and the batches that it takes in turn."""
    cfg = recipe_of(case, side)
    model = build(case, side)
    load_weights(model, weights)
    give_good_proposals(model)
    batches = batches_of(case, side, model)
    dtype = autocast_dtype(case, side)
    if side == "ours":
        return our_step(cfg, model, batches, dtype), batches
    return detectron2_step(model, batches, dtype), batches


def batches_of(case: Case, side: Side, model: nn.Module) -> Batches:
    """Return what the trainer gets in turn: polygons, on the tuned side bitmaps.

    Args:
        case: its sizes.
        side: whose recipe says in which form masks come.
        model: whose heads say whether there are masks, and how many classes.
    """
    heads: Any = getattr(model, "roi_heads", None)
    has_masks = getattr(heads, "mask_head", None) is not None
    form = "bitmask" if side == "tuned" else OmegaConf.select(recipe_of(case, side), _MASKS)
    whole = noise_batch(
        case.batch * _NUM_BATCHES,
        (case.image_size, case.image_size),
        num_objects=case.num_objects,
        num_classes=int(getattr(heads if heads is not None else model, "num_classes", 1)),
        masks=(str(form) if form else "polygon") if has_masks else None,
    )
    return [whole[i::_NUM_BATCHES] for i in range(_NUM_BATCHES)]


def give_good_proposals(model: nn.Module) -> None:
    """Put boxes around the objects among the proposals of training, on every side the same ones.

    Random weights propose none, and the mask head would have next to nothing to do.

    Args:
        model: a detector; one without regions is left alone.
    """
    heads = getattr(model, "roi_heads", None)
    if isinstance(heads, nn.Module):
        heads.register_forward_pre_hook(_add_near_objects)


@torch.no_grad()
def _add_near_objects(heads: nn.Module, arguments: tuple[Any, ...]) -> None:
    if not heads.training or len(arguments) < 4 or arguments[3] is None:
        return
    for proposals, targets in zip(arguments[2], arguments[3], strict=True):
        boxes = targets.gt_boxes.tensor
        count = min(_NEAR, len(proposals))
        if len(boxes) and count:
            whole = boxes.repeat(-(-count // len(boxes)), 1)[:count]
            near = whole + _moves(whole)
            rest = proposals.proposal_boxes.tensor[count:]
            proposals.proposal_boxes = Boxes(torch.cat([near, rest]))


def _moves(boxes: Tensor) -> Tensor:
    """Return by how much each box moves, different for each and without drawing anything."""
    turn = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)[:, None]
    phase = torch.arange(1, 5, device=boxes.device, dtype=boxes.dtype)
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return _JITTER * sides * torch.sin(turn * phase)


def _evidence(case: Case, side: Side, weights: Path) -> Evidence:
    """Return losses and all gradients in float32, of a step in which nothing is left to chance."""
    if side == "tuned":
        return {}  # the shipped one's model, and the same mathematics
    model = build(case, side, without_chance=True)
    load_weights(model, weights)
    give_good_proposals(model)
    batch = batches_of(case, side, model)[0]
    model.train()
    torch.manual_seed(0)
    with EventStorage(0):
        losses = model(batch)
        sum(losses.values()).backward()
    found: Evidence = {f"loss {name}": loss.detach().cpu() for name, loss in losses.items()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[f"gradient {name}"] = parameter.grad.cpu()
    return found

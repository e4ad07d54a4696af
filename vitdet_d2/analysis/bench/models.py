# SPDX-License-Identifier: Apache-2.0
"""The model of a case on a side, with weights that all sides share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from vitdet_d2.analysis.bench.case import Case, Side
from vitdet_d2.analysis.bench.translate import resolved, to_detectron2
from vitdet_d2.analysis.runs import detect_much
from vitdet_d2.engine.build import build_model
from vitdet_d2.engine.overrides import apply_overrides
from vitdet_d2.engine.recipes import load_recipe

_DROP_PATH = "model.backbone.net.drop_path_rate"
# Scores of random weights are all alike, and then rounding alone decides which come first.
_SPREAD = 20.0


def recipe_of(case: Case, side: Side, *extra: str) -> DictConfig:
    """Return the recipe of a case at its image size.

    Args:
        case: what is measured.
        side: ours has further changes.
        *extra: more changes, of keys that are left out where the recipe has none.
    """
    own = case.own_overrides if side == "ours" else ()
    cfg = load_recipe(case.model, (*case.overrides, *own))
    known = [f"data.image_size={case.image_size}", *extra]
    present = [text for text in known if OmegaConf.select(cfg, text.partition("=")[0]) is not None]
    apply_overrides(cfg, present)
    return cfg


def build(case: Case, side: Side, *, without_chance: bool = False) -> nn.Module:
    """Build the model of a side on the case's device, with weights of its own initialisation.

    Args:
        case: what is measured.
        side: whose classes are used.
        without_chance: train without drop path, and on all regions in place of a random sample.
    """
    extra = (f"{_DROP_PATH}=0.0",) if without_chance else ()
    cfg = recipe_of(case, side, *extra)
    device = torch.device(case.device)
    if side == "ours":
        model = build_model(cfg, device)
    else:
        model = instantiate(to_detectron2(resolved(cfg.model))).to(device)
    if without_chance:
        _take_all_regions(model, case)
    return model


def write_weights(case: Case, path: Path) -> None:
    """Write the weights that all sides load.

    Args:
        case: whose ``weights`` are loaded; without them they are random, and made to detect much.
        path: of the file.
    """
    torch.manual_seed(0)
    model = build(case, "ours")
    if case.weights is not None:
        from vitdet_d2.pretrained import load

        load(model, case.weights)
    else:
        _spread_scores(model)
        detect_much(model)
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    torch.save(state, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load what `write_weights` wrote; every key must be there on both sides.

    Args:
        model: of any side.
        path: of the file.
    """
    model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"), strict=True)


@torch.no_grad()
def _spread_scores(model: nn.Module) -> None:
    heads = getattr(model, "roi_heads", None)
    predictor = getattr(heads, "box_predictor", None)
    stages = list(predictor) if isinstance(predictor, nn.ModuleList) else [predictor]
    layers = [getattr(stage, "cls_score", None) for stage in stages]
    rpn = getattr(getattr(model, "proposal_generator", None), "rpn_head", None)
    for layer in [*layers, getattr(rpn, "objectness_logits", None)]:
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Tensor):
            weight.mul_(_SPREAD)


def _take_all_regions(model: nn.Module, case: Case) -> None:
    """Let samples be as large as what they are drawn from: then nothing is left to chance."""
    rpn: Any = getattr(model, "proposal_generator", None)
    heads: Any = getattr(model, "roi_heads", None)
    if rpn is not None:
        # More than all anchors, of which half may be positive; losses are divided by it.
        count = 2 * _anchors(rpn, case.image_size)
        share = count / rpn.batch_size_per_image
        rpn.batch_size_per_image = count
        rpn.loss_weight = {name: weight * share for name, weight in rpn.loss_weight.items()}
    if heads is not None:
        heads.batch_size_per_image = int(rpn.post_nms_topk[True]) + case.num_objects
        heads.positive_fraction = 1.0


def _anchors(rpn: Any, side: int) -> int:
    generator = rpn.anchor_generator
    cells = zip(generator.strides, generator.num_cell_anchors, strict=True)
    return sum((-(-side // stride)) ** 2 * count for stride, count in cells)

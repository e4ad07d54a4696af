# SPDX-License-Identifier: Apache-2.0
"""AdamW with layer-wise learning-rate decay for ``DefaultTrainer``, from a yacs configuration.

class Trainer(DefaultTrainer):
    @classmethod
    def build_optimizer(cls, cfg, model):
        return vitdet_d2.solver.build_optimizer(cfg, model)
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

from vitdet_d2.errors import RecipeError
from vitdet_d2.solver.layer_decay import count_layers, layer_decay
from vitdet_d2.solver.weight_decay import BIAS_LIKE, NORM_LIKE, POSITION_LIKE

OPTIMIZERS = ("ADAMW", "SGD")


def build_optimizer(cfg: Any, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer ``SOLVER.OPTIMIZER``.

    ``ADAMW``: learning rate ``BASE_LR``, decayed by ``LAYER_DECAY`` towards the image; ``BETAS``;
    ``WEIGHT_DECAY``, for parameters of torch's norm classes and of LayerScale
    ``WEIGHT_DECAY_NORM``, for position embeddings and tables of position biases
    ``WEIGHT_DECAY_POS_EMBED``, for biases ``WEIGHT_DECAY_BIAS`` (None: as the weights). ``SGD`` is
    Detectron2's own. ``CLIP_GRADIENTS`` holds for both.

    Args:
        cfg: a configuration that `add_vitdet_config` has seen.
        model: its trainable parameters are optimized.

    Raises:
        RecipeError: the keys are missing, an unknown optimizer, or layer decay for a model without
            a ViT.
    """
    node = cfg.SOLVER
    missing = [key for key in ("OPTIMIZER", "LAYER_DECAY", "BETAS") if key not in node]
    if missing:
        raise RecipeError(
            f"SOLVER: {', '.join(missing)} missing; call "
            "vitdet_d2.backbones.add_vitdet_config(cfg) after get_cfg()"
        )
    name = str(node.OPTIMIZER).upper()
    if name not in OPTIMIZERS:
        raise RecipeError(
            f"SOLVER.OPTIMIZER: expected one of {', '.join(OPTIMIZERS)}, got {node.OPTIMIZER!r}"
        )
    if name == "SGD":
        return build_sgd(cfg, model)
    groups = get_default_optimizer_params(
        model,
        base_lr=node.BASE_LR,
        weight_decay=node.WEIGHT_DECAY,
        weight_decay_norm=node.WEIGHT_DECAY_NORM,
        bias_lr_factor=node.BIAS_LR_FACTOR,
        weight_decay_bias=node.WEIGHT_DECAY_BIAS,
        lr_factor_func=_lr_factor(node.LAYER_DECAY, model),
        overrides=_overrides(node),
    )
    optimizer = torch.optim.AdamW(
        groups, lr=node.BASE_LR, betas=tuple(node.BETAS), weight_decay=node.WEIGHT_DECAY
    )
    return maybe_add_gradient_clipping(cfg, optimizer)


def _overrides(node: Any) -> dict[str, dict[str, float]]:
    """Return what `SOLVER` says about parameters that Detectron2's groups do not know."""
    rules = (
        (POSITION_LIKE, node.WEIGHT_DECAY_POS_EMBED),
        (NORM_LIKE, node.WEIGHT_DECAY_NORM),
        (BIAS_LIKE, node.WEIGHT_DECAY_BIAS),
    )
    overrides: dict[str, dict[str, float]] = {
        name: {"weight_decay": decay}
        for names, decay in rules
        if decay is not None
        for name in names
    }
    # As Detectron2 for ``bias``: the factor replaces that of the layer.
    if node.BIAS_LR_FACTOR is not None and node.BIAS_LR_FACTOR != 1.0:
        for name in BIAS_LIKE:
            overrides.setdefault(name, {})["lr"] = node.BASE_LR * node.BIAS_LR_FACTOR
    return overrides


def _lr_factor(rate: float, model: nn.Module) -> Any:
    """Return the factor by parameter name; None where all learn at one rate.

    Raises:
        RecipeError: there are no layers to count, or a rate outside its range.
    """
    if rate == 1.0:
        return None
    num_layers = count_layers(name for name, _ in model.named_parameters())
    if num_layers == 0:
        raise RecipeError(
            f"SOLVER.LAYER_DECAY: expected 1.0 for a model without a ViT as its `backbone`, got "
            f"{rate}"
        )
    try:
        return layer_decay(rate, num_layers)
    except ValueError as error:
        raise RecipeError(f"SOLVER.LAYER_DECAY: {error}") from error

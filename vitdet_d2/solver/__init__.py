# SPDX-License-Identifier: Apache-2.0
"""What optimisers of the recipes need beyond Detectron2's own parts."""

from vitdet_d2.solver.layer_decay import get_vit_lr_decay_rate, layer_decay
from vitdet_d2.solver.scaling import ScaledKey, format_scaling, scale_recipe
from vitdet_d2.solver.weight_decay import without_decay
from vitdet_d2.solver.yacs import build_optimizer

__all__ = [
    "ScaledKey",
    "build_optimizer",
    "format_scaling",
    "get_vit_lr_decay_rate",
    "layer_decay",
    "scale_recipe",
    "without_decay",
]

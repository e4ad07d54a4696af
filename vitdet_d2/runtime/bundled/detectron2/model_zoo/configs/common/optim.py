# SPDX-License-Identifier: Apache-2.0
"""Optimisers. Values of Detectron2's ``common/optim.py``; ``params.model`` is set by the engine."""

from __future__ import annotations

from detectron2.config import LazyCall
from detectron2.solver.build import get_default_optimizer_params
from torch import optim

SGD = LazyCall(optim.SGD)(
    params=LazyCall(get_default_optimizer_params)(weight_decay_norm=0.0),
    lr=0.02,
    momentum=0.9,
    weight_decay=1e-4,
)

AdamW = LazyCall(optim.AdamW)(
    params=LazyCall(get_default_optimizer_params)(base_lr="${..lr}", weight_decay_norm=0.0),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.1,
)

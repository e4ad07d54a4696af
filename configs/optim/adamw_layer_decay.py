# SPDX-License-Identifier: Apache-2.0
"""AdamW with layer-wise learning-rate decay.

No weight decay on position embeddings, on tables of position biases, on the norms of torch's own
classes and on the factors of LayerScale. Decomposed relative position tables are decayed, and so
are the channel norms of neck and heads, which are no `nn.LayerNorm`: so does Detectron2.
"""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params

from vitdet_d2.solver import layer_decay, without_decay

optimizer = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(
        base_lr="${..lr}",
        weight_decay_norm=0.0,
        lr_factor_func=L(layer_decay)(lr_decay_rate=0.7, num_layers=12),
        overrides=without_decay(),
    ),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.1,
)

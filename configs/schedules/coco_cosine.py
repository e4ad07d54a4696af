# SPDX-License-Identifier: Apache-2.0
"""Half a period of a cosine down to zero, after a quarter of an epoch of linear warm-up.

For 100 epochs; `train.epochs` with `train.warmup_epochs=0.25` makes it another number.

Source: 2111.11429, section 2.4.
"""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
    warmup_length=0.25 / 100,
    warmup_factor=0.001,
)

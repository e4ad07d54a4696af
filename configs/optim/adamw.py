# SPDX-License-Identifier: Apache-2.0
"""AdamW with one learning rate for all; a delta of adamw_layer_decay."""

from .adamw_layer_decay import optimizer

__all__ = ["optimizer"]

optimizer.params.lr_factor_func = None

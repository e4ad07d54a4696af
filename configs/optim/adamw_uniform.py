# SPDX-License-Identifier: Apache-2.0
"""AdamW with one learning rate and one weight decay for all, norms, biases and positions too."""

from .adamw import optimizer

__all__ = ["optimizer"]

optimizer.params.update(weight_decay_norm=None, overrides={})
optimizer.weight_decay = 1e-4

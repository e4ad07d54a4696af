# SPDX-License-Identifier: Apache-2.0
"""Compute blocks a second time in the backward pass, in place of keeping what is inside.

Vocabulary:
    full: nothing of a block is kept but its input; costs another forward pass of it.
    selective: results of linear layers, convolutions and attention are kept, and only what is cheap
        is computed again: norms, activations, drop path, copies, casts.

Both draw random numbers again as the first time, and change no gradient.

Source: "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174; "Reducing Activation
Recomputation in Large Transformer Models", arXiv 2205.05198, section 5.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from vitdet_d2.errors import RecipeError

Recompute = bool | Literal["selective"]

# Beginnings of operators below autograd: torch's, for any device, and ours.
_KEPT = {
    "aten": (
        *("addmm", "mm", "convolution"),
        *("_scaled_dot_product_", "_flash_attention", "_efficient_attention"),
    ),
    "vitdet_d2": ("attend",),
}


def check_recompute(name: str, value: object) -> Recompute:
    """Return the value if it is one.

    Args:
        name: key or argument, for the message.
        value: given by the user.

    Raises:
        RecipeError: it is not.
    """
    if isinstance(value, bool) or value == "selective":
        return value
    raise RecipeError(f"{name}: expected true, false or selective, got {value!r}")


def recomputed(function: Callable[..., Tensor], *inputs: Tensor, how: Recompute) -> Tensor:
    """Call a block so that its backward pass computes it again; without gradients just call it.

    Args:
        function: a block, or what stands for its forward pass.
        inputs: of the block.
        how: "selective"; True: full; False: not at all.
    """
    if not how or not torch.is_grad_enabled():
        return function(*inputs)
    if how == "selective":
        contexts = functools.partial(create_selective_checkpoint_contexts, _keep_what_is_dear)
        return checkpoint(function, *inputs, use_reentrant=False, context_fn=contexts)
    return checkpoint(function, *inputs, use_reentrant=False)


def _keep_what_is_dear(_: object, operator: Any, *args: Any, **options: Any) -> CheckpointPolicy:  # noqa: ARG001
    """Decide for one operator of a block."""
    namespace, _, name = operator.name().partition("::")
    keep = name.startswith(_KEPT.get(namespace, ())) and "backward" not in name
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

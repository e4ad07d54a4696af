# SPDX-License-Identifier: Apache-2.0
"""Importing official model files as they are, on current versions of what they import.

The scripts beside this file are run as ``python -m tests.pretrained.goldens.make_mae CHECKOUT``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def checkout(argument: int = 1) -> Path:
    """Return the folder of the official code that the command line names."""
    folder = Path(sys.argv[argument]).resolve()
    sys.path.insert(0, str(folder))
    return folder


def prepare_timm() -> None:
    """Give the installed timm what files written for its versions 0.3 and 0.4 import."""
    import timm.layers
    from timm.models import vision_transformer

    sys.modules.setdefault("timm.models.layers", timm.layers)
    helpers = ModuleType("timm.models.layers.helpers")
    helpers.__dict__["to_2tuple"] = timm.layers.to_2tuple
    sys.modules["timm.models.layers.helpers"] = helpers
    # The number of prefix tokens, once an attribute of the class.
    vision_transformer.VisionTransformer.num_tokens = 1
    block = vision_transformer.Block

    class WithoutScale(block):
        def __init__(self, *args: Any, qk_scale: float | None = None, **kwargs: Any) -> None:
            assert qk_scale is None, "no official model sets it"
            super().__init__(*args, **kwargs)

    vision_transformer.Block = WithoutScale
    np.float = float  # removed from NumPy 1.24


def load(module: str) -> ModuleType:
    """Import a module of the checkout."""
    return importlib.import_module(module)


@torch.no_grad()
def patch_only(model: nn.Module, picture: Tensor, num_prefix: int) -> Tensor:
    """Run the patch tokens alone through an official encoder: ``(1, h*w, C)``, before its norm."""
    x = model.patch_embed(picture)
    if x.ndim == 4:
        x = x.flatten(2).transpose(1, 2)
    x = x + model.pos_embed[:, num_prefix:]
    for block in model.blocks:
        x = block(x)
    return x


@torch.no_grad()
def all_tokens(model: nn.Module, run: Callable[[], Any]) -> Tensor:
    """Return what the last block gives in the official forward pass: ``(1, P + h*w, C)``."""
    outputs: list[Tensor] = []
    hook = model.blocks[-1].register_forward_hook(lambda _m, _i, output: outputs.append(output))
    run()
    hook.remove()
    (tokens,) = outputs
    return tokens

# SPDX-License-Identifier: Apache-2.0
"""Keeps what is frozen in evaluation mode."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.engine import HookBase
from torch import nn


class FrozenHook(HookBase):
    """Without drop path and the like, frozen blocks give the same features in every iteration.

    Trainer and evaluation put the whole model into a mode; this puts these modules back.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        """Remember the modules.

        Args:
            modules: none of their parameters is trained.
        """
        self._modules = modules

    def before_step(self) -> None:
        """Set the mode where it is not right."""
        for module in self._modules:
            if module.training:
                module.eval()

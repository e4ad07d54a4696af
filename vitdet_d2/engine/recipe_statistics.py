# SPDX-License-Identifier: Apache-2.0
"""The pixel statistics that a model uses, written back into its recipe.

First weights may bring their own, and a resumed run keeps those of its checkpoint; what is saved
of the recipe must build the same model again.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from vitdet_d2.pretrained.model_statistics import statistics_of

KEYS = ("pixel_mean", "pixel_std")


def use_statistics(cfg: DictConfig, model: nn.Module) -> None:
    """Set ``model.pixel_mean`` and ``model.pixel_std`` to the values in use.

    Args:
        cfg: the recipe; changed in place, where it has these keys with other values.
        model: built from it.
    """
    found = statistics_of(model)
    for key in KEYS:
        name = f"model.{key}"
        # float32 in the model: a value that is the same there stays as it was written.
        if key in found and _differs(OmegaConf.select(cfg, name), found[key]):
            OmegaConf.update(cfg, name, [round(value, 6) for value in found[key]], merge=False)


def _differs(written: Any, used: list[float]) -> bool:
    if not OmegaConf.is_list(written) or len(written) != len(used):
        return False
    return any(abs(float(a) - b) > 1e-3 for a, b in zip(written, used, strict=True))

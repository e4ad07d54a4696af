# SPDX-License-Identifier: Apache-2.0
"""The running averages that dense detectors divide their losses by, over a stop and a resumption.

Detectron2's dense detectors (RetinaNet, FCOS) keep the average number of objects as the attribute
``loss_normalizer``, a plain number beside the weights and in no state dict, on every rank its own.
A run that started it anew would weigh its losses otherwise than one that was not stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

_ATTRIBUTE = "loss_normalizer"


def capture(model: nn.Module) -> dict[str, float]:
    """Return the average of every module that has one; none before the first step.

    Args:
        model: not wrapped for data parallelism.

    Returns:
        Averages by the module's name, "" for the model itself.
    """
    return {
        name: float(vars(module)[_ATTRIBUTE])
        for name, module in model.named_modules()
        if _ATTRIBUTE in vars(module)
    }


def restore(model: nn.Module, saved: Sequence[Mapping[str, float]], rank: int, size: int) -> None:
    """Give every module its average back.

    Args:
        model: not wrapped for data parallelism.
        saved: what every rank had captured.
        rank: of this process.
        size: number of processes. Where it is another than that of ``saved``, all get the mean.
    """
    own = [saved[rank]] if len(saved) == size else saved
    for name, module in model.named_modules():
        values = [averages[name] for averages in own if name in averages]
        if values:
            setattr(module, _ATTRIBUTE, sum(values) / len(values))

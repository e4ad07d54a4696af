# SPDX-License-Identifier: Apache-2.0
"""Optimizer groups with their own learning rate and weight decay.

A group is a dictionary for ``torch.optim``: ``params`` and hyperparameters, and optionally
``param_names``.

Source: the behaviour of detectron2 ``solver/build.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

Group = dict[str, Any]

# The channel LayerNorm of detectron2.layers is not torch's, hence decayed like any weight.
NORM_TYPES = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[Group]:
    """Group the trainable parameters of a model by their hyperparameters.

    What is not given here is left to the optimizer's own defaults. Of two rules for one parameter
    the later one wins: defaults, norms, the factor by name, overrides (biases are one).

    Args:
        model: each of its parameters is taken once, however often it is shared.
        base_lr: learning rate.
        weight_decay: weight decay.
        weight_decay_norm: weight decay of the parameters of torch's norm layers.
        bias_lr_factor: multiplier of the learning rate of parameters named ``bias``.
        weight_decay_bias: weight decay of parameters named ``bias``.
        lr_factor_func: multiplier of the learning rate by the parameter's full name.
        overrides: hyperparameters by the last part of a parameter's name, for example
            ``{"pos_embed": {"weight_decay": 0.0}}``.

    Returns:
        Groups in the order in which the model first has a parameter of theirs.

    Raises:
        ValueError: a multiplier without ``base_lr``, or two rules for biases.
    """
    if lr_factor_func is not None and base_lr is None:
        raise ValueError("lr_factor_func multiplies base_lr: give base_lr too")
    rules = {name: dict(values) for name, values in (overrides or {}).items()}
    bias_rule = _bias_rule(base_lr, bias_lr_factor, weight_decay_bias)
    if bias_rule:
        if "bias" in rules:
            raise ValueError(
                "overrides['bias'] contradicts bias_lr_factor / weight_decay_bias: give only one"
            )
        rules["bias"] = bias_rule
    defaults = {
        name: value
        for name, value in (("lr", base_lr), ("weight_decay", weight_decay))
        if value is not None
    }
    groups = []
    for prefix, module, name, parameter in _trainable(model):
        group: Group = {"params": [parameter], **defaults}
        if weight_decay_norm is not None and isinstance(module, NORM_TYPES):
            group["weight_decay"] = weight_decay_norm
        if lr_factor_func is not None:
            group["lr"] *= lr_factor_func(f"{prefix}.{name}" if prefix else name)
        group.update(rules.get(name, {}))
        groups.append(group)
    return reduce_param_groups(groups)


def _bias_rule(
    base_lr: float | None, lr_factor: float | None, weight_decay: float | None
) -> dict[str, float]:
    rule = {}
    if lr_factor is not None and lr_factor != 1.0:
        if base_lr is None:
            raise ValueError("bias_lr_factor multiplies base_lr: give base_lr too")
        rule["lr"] = base_lr * lr_factor
    if weight_decay is not None:
        rule["weight_decay"] = weight_decay
    return rule


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """Yield (module name, module, parameter name, parameter), each parameter once."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield prefix, module, name, parameter


def reduce_param_groups(params: list[Group]) -> list[Group]:
    """Merge groups with the same hyperparameters; optimizers are faster with few groups.

    Args:
        params: groups; a later one overrules an earlier one for the parameters they share.

    Returns:
        As few groups as possible, in the order of their first parameter.
    """
    merged: dict[tuple[tuple[str, Any], ...], Group] = {}
    for single in _expand_param_groups(params):
        members = {key: single[key] for key in ("params", "param_names") if key in single}
        hyperparameters = tuple((key, single[key]) for key in single if key not in members)
        group = merged.setdefault(
            hyperparameters, {**dict(hyperparameters), **{key: [] for key in members}}
        )
        for key, values in members.items():
            group[key].extend(values)
    return list(merged.values())


def _expand_param_groups(params: list[Group]) -> list[Group]:
    """Return one group per parameter, with all that is said about it."""
    singles: dict[int, Group] = {}
    for group in params:
        shared = {k: v for k, v in group.items() if k not in ("params", "param_names")}
        names = group.get("param_names", [])
        for index, parameter in enumerate(group["params"]):
            single = singles.setdefault(id(parameter), {})
            single.update({"params": [parameter], **shared})
            if names:
                single["param_names"] = [names[index]]
    return list(singles.values())

# SPDX-License-Identifier: Apache-2.0
"""The keys of ``train.fsdp``: whether and how weights are sharded over processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from omegaconf import DictConfig, OmegaConf

from vitdet_d2.errors import RecipeError

KEY = "train.fsdp"
Checkpoints = Literal["whole", "sharded"]
_DTYPES = {"bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """``train.fsdp``, checked.

    Attributes:
        shard_size: over how many processes, with neighbouring ranks, weights are sharded; groups
            of so many hold copies of each other (HSDP). None: over all processes.
        reshard_after_forward: whether a block's weights are freed between its forward and backward
            pass, and gathered again.
        param_dtype: in which blocks get their weights and compute; None: as they are stored.
        checkpoints: "whole": files as of any other run; "sharded": each process writes its own,
            in the formats of `torch.distributed.checkpoint`.
    """

    shard_size: int | None = None
    reshard_after_forward: bool = True
    param_dtype: torch.dtype | None = None
    checkpoints: Checkpoints = "whole"


def read_shard_settings(cfg: DictConfig) -> ShardSettings | None:
    """Read ``train.fsdp``; None where it is absent or not enabled.

    Args:
        cfg: a recipe.

    Raises:
        RecipeError: a key is unknown, or has a wrong value.
    """
    node = OmegaConf.select(cfg, KEY)
    given = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    if given is None or given is False:
        return None
    if not isinstance(given, dict):
        raise RecipeError(f"{KEY}: expected keys such as enabled and shard_size, got {given!r}")
    values = {str(key): value for key, value in given.items()}
    enabled = values.pop("enabled", True)
    unknown = sorted(set(values) - set(ShardSettings.__dataclass_fields__))
    if unknown:
        raise RecipeError(
            f"{KEY}: unknown {', '.join(unknown)}; there are enabled, "
            f"{', '.join(ShardSettings.__dataclass_fields__)}"
        )
    for name in ("enabled", "reshard_after_forward"):
        value = enabled if name == "enabled" else values.get(name, True)
        if not isinstance(value, bool):
            raise RecipeError(f"{KEY}.{name}: expected true or false, got {value!r}")
    if not enabled:
        return None
    if str(OmegaConf.select(cfg, "train.amp.dtype")) == "fp16" and OmegaConf.select(
        cfg, "train.amp.enabled"
    ):
        raise RecipeError(
            f"{KEY}: float16 needs a scaler that looks at gradients as a whole, which are sharded; "
            "use train.amp.dtype=bf16"
        )
    return _settings(values)


def _settings(values: dict[str, Any]) -> ShardSettings:
    size = values.get("shard_size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise RecipeError(
            f"{KEY}.shard_size: expected a number of processes, or null (all), got {size!r}"
        )
    dtype = values.get("param_dtype")
    if dtype is not None and dtype not in _DTYPES:
        raise RecipeError(f"{KEY}.param_dtype: expected bf16, or null (as stored), got {dtype!r}")
    kind = values.get("checkpoints", "whole")
    if kind not in get_args(Checkpoints):
        raise RecipeError(f"{KEY}.checkpoints: expected whole or sharded, got {kind!r}")
    return ShardSettings(
        shard_size=size,
        reshard_after_forward=values.get("reshard_after_forward", True),
        param_dtype=None if dtype is None else _DTYPES[dtype],
        checkpoints=kind,
    )

# SPDX-License-Identifier: Apache-2.0
"""How the images of one iteration are divided: over loader batches, and over processes.

Vocabulary:
    micro batch: what all processes together take through the model at once
        (``dataloader.train.total_batch_size``).
    global batch: images per iteration, that is per step of the optimizer: micro batch times
        ``train.accumulate``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

from vitdet_d2.errors import RecipeError

MICRO_KEY = "dataloader.train.total_batch_size"
ACCUMULATE_KEY = "train.accumulate"


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Images per iteration.

    Attributes:
        micro_batch: images in one loader batch, over all processes.
        accumulate: loader batches per iteration.
    """

    micro_batch: int
    accumulate: int

    @property
    def global_batch(self) -> int:
        """Images per iteration."""
        return self.micro_batch * self.accumulate


def read_batch(cfg: DictConfig) -> BatchPlan:
    """Return what a recipe says.

    Args:
        cfg: a recipe.

    Raises:
        RecipeError: it does not say how large its batches are.
    """
    micro = OmegaConf.select(cfg, MICRO_KEY)
    accumulate = OmegaConf.select(cfg, ACCUMULATE_KEY)
    accumulate = 1 if accumulate is None else accumulate
    for key, value in ((MICRO_KEY, micro), (ACCUMULATE_KEY, accumulate)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise RecipeError(f"{key}: expected a whole number of at least 1, got {value!r}")
    return BatchPlan(micro_batch=micro, accumulate=accumulate)


def plan_batch(
    cfg: DictConfig, global_batch: int, *, given: Collection[str] = (), num_processes: int = 1
) -> BatchPlan:
    """Divide a global batch.

    Of micro batch and accumulation the one that the user gave stands, and the other follows. Where
    none was given, the recipe's accumulation stands.

    Args:
        cfg: a recipe.
        global_batch: images per iteration, at least 1.
        given: keys that the user set, dotted.
        num_processes: each takes an equal share of a micro batch.

    Raises:
        RecipeError: it does not come out even.
    """
    current = read_batch(cfg)
    if MICRO_KEY in given and ACCUMULATE_KEY in given and current.global_batch != global_batch:
        raise RecipeError(
            f"train.global_batch={global_batch} contradicts {MICRO_KEY}={current.micro_batch} "
            f"with {ACCUMULATE_KEY}={current.accumulate}, which make {current.global_batch}; "
            "leave one of the three out"
        )
    name, divisor = ACCUMULATE_KEY, current.accumulate
    if MICRO_KEY in given:
        name, divisor = MICRO_KEY, current.micro_batch
    quotient, rest = divmod(global_batch, divisor)
    if rest or not quotient:
        raise RecipeError(
            f"train.global_batch={global_batch} is no multiple of {name}={divisor}; "
            f"take train.global_batch={max(quotient, 1) * divisor}, or another {name}"
        )
    micro, accumulate = (divisor, quotient) if MICRO_KEY in given else (quotient, divisor)
    plan = BatchPlan(micro_batch=micro, accumulate=accumulate)
    require_divisible(plan, num_processes)
    return plan


def require_divisible(plan: BatchPlan, num_processes: int) -> None:
    """Refuse a micro batch that the processes cannot share.

    Args:
        plan: the batches.
        num_processes: each takes an equal share.

    Raises:
        RecipeError: they cannot.
    """
    if plan.micro_batch % num_processes == 0:
        return
    total = plan.global_batch
    fitting = [n for n in range(1, total + 1) if total % (n * num_processes) == 0]
    cures = [f"{ACCUMULATE_KEY}={nearest}" for nearest in _nearest(fitting, plan.accumulate)]
    step = num_processes * plan.accumulate
    batch = max(total // step, 1) * step
    cures.append(f"a batch of {batch} images per iteration")
    raise RecipeError(
        f"{MICRO_KEY}={plan.micro_batch} cannot be divided among {num_processes} processes "
        f"({total} images per iteration, {ACCUMULATE_KEY}={plan.accumulate}); take "
        f"{' or '.join(cures)}, or another number of GPUs"
    )


def _nearest(numbers: list[int], wanted: int) -> list[int]:
    return sorted(numbers, key=lambda number: abs(number - wanted))[:1]

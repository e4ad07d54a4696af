# SPDX-License-Identifier: Apache-2.0
"""A recipe for another batch size than the one it was written for.

The learning rate is proportional to the batch, and everything that counts iterations inversely so:
the model sees as many images, in as many epochs, as before. Milestones and warm-up are fractions of
the run and follow it.

Source: the linear rule, "Accurate, Large Minibatch SGD", arXiv 1706.02677, section 2.1, as
Detectron2's `DefaultTrainer.auto_scale_workers` applies it; for the average of the weights, the
rule of "How to Scale Your EMA", arXiv 2307.13813.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vitdet_d2.errors import RecipeError
from vitdet_d2.solver.batch_plan import ACCUMULATE_KEY, MICRO_KEY, plan_batch, read_batch

_PERIODS = ("train.eval_period", "train.checkpointer.period")
_RATES = ("optimizer.lr", "optimizer.params.base_lr")
_RATE_OVERRIDES = "optimizer.params.overrides"
_WARMUP = "lr_multiplier.warmup_length"
_LENGTH = "lr_multiplier.scheduler.num_updates"
_MILESTONES = "lr_multiplier.scheduler.milestones"
# What Detectron2's recipes lack means this.
_DEFAULTS = {"train.max_iter": 90000, "train.eval_period": 5000, "train.checkpointer.period": 5000}


@dataclass(frozen=True, kw_only=True)
class ScaledKey:
    """What became of one key of a recipe.

    Attributes:
        key: dotted.
        before: its value in the recipe.
        after: its value now.
        note: why it is not simply scaled; empty where it is.
    """

    key: str
    before: Any
    after: Any
    note: str = ""


def scale_recipe(
    cfg: DictConfig,
    global_batch: int,
    *,
    recipe_batch: int | None = None,
    given: Collection[str] = (),
    num_processes: int = 1,
) -> list[ScaledKey]:
    """Scale a recipe to another number of images per iteration, in place.

    Scaling to the batch that a recipe has already changes nothing, so that a scaled recipe can be
    saved, loaded and scaled again.

    Args:
        cfg: a recipe; reads and changes ``train``, ``optimizer``, ``lr_multiplier`` and
            ``dataloader.train.total_batch_size``.
        global_batch: images per iteration, at least 1.
        recipe_batch: images per iteration for which the recipe's numbers are; None: its own.
        given: keys that the user set himself, dotted; they stay as they are.
        num_processes: of the run; each takes an equal share of a loader batch.

    Returns:
        Every key that was looked at and what became of it, for `format_scaling`.

    Raises:
        RecipeError: the batch is not a whole number, cannot be divided, or the recipe has no
            learning rate or batch size to scale.
    """
    if isinstance(global_batch, bool) or not isinstance(global_batch, int) or global_batch < 1:
        raise RecipeError(
            f"train.global_batch: expected a whole number of at least 1, got {global_batch!r}"
        )
    before = read_batch(cfg)
    plan = plan_batch(cfg, global_batch, given=given, num_processes=num_processes)
    factor = global_batch / (before.global_batch if recipe_batch is None else recipe_batch)
    OmegaConf.update(cfg, "train.global_batch", global_batch, force_add=True)
    rows = [
        _put(cfg, MICRO_KEY, before.micro_batch, plan.micro_batch, given),
        _put(cfg, ACCUMULATE_KEY, before.accumulate, plan.accumulate, given),
    ]
    if factor == 1:
        return rows
    # All are read before any is changed, since one may refer to another.
    counts = {key: int(_value(cfg, key)) for key in ("train.max_iter", *_PERIODS)}
    updates = OmegaConf.select(cfg, _LENGTH)
    rows += _scale_rates(cfg, factor, given)
    for key, count in counts.items():
        # A period of 0 means "only at the end" and stays so.
        scaled = max(round(count / factor), 1) if count else count
        rows.append(_put(cfg, key, count, scaled, given))
        if key == "train.max_iter":
            rows += _scale_warmup(cfg, count)
            rows += _scale_milestones(cfg, updates, given)
    if OmegaConf.select(cfg, "train.ema.decay") is not None:
        rows.append(_scale(cfg, "train.ema.decay", lambda decay: decay**factor, given))
    return rows


def format_scaling(rows: Sequence[ScaledKey]) -> str:
    """The table that tells the user what `scale_recipe` did.

    Args:
        rows: what it returned.
    """
    cells = [("key", "recipe", "now", "")]
    cells += [(row.key, _shown(row.before), _shown(row.after), row.note) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    return "\n".join(lines)


def _scale_rates(cfg: DictConfig, factor: float, given: Collection[str]) -> list[ScaledKey]:
    keys = [key for key in (*_RATES, *_rate_overrides(cfg)) if _is_number(cfg, key)]
    if not keys:
        raise RecipeError(
            f"train.global_batch: the recipe has no learning rate to scale, neither "
            f"{' nor '.join(_RATES)}; set it for this batch size, and leave train.global_batch out"
        )
    return [_scale(cfg, key, lambda rate: rate * factor, given) for key in keys]


def _rate_overrides(cfg: DictConfig) -> Iterator[str]:
    """Learning rates of single parameters, which Detectron2's groups take as they are."""
    overrides = OmegaConf.select(cfg, _RATE_OVERRIDES)
    for name, values in (overrides or {}).items():
        if values is not None and "lr" in values and "." not in str(name):
            yield f"{_RATE_OVERRIDES}.{name}.lr"


def _is_number(cfg: DictConfig, key: str) -> bool:
    """Whether the recipe has a number of its own there, and not a reference to another key's."""
    parent = OmegaConf.select(cfg, key.rpartition(".")[0])
    name = key.rpartition(".")[2]
    if not isinstance(parent, DictConfig) or OmegaConf.is_interpolation(parent, name):
        return False
    value = parent.get(name)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _scale_warmup(cfg: DictConfig, length: int) -> list[ScaledKey]:
    """Nothing is changed, but the fraction is of another length now."""
    fraction = OmegaConf.select(cfg, _WARMUP)
    if fraction is None:
        return []
    now = int(OmegaConf.select(cfg, "train.max_iter"))
    return [
        ScaledKey(
            key="warm-up, in iterations",
            before=round(fraction * length),
            after=round(fraction * now),
            note="a fraction of train.max_iter, as milestones are",
        )
    ]


def _scale_milestones(cfg: DictConfig, updates: Any, given: Collection[str]) -> list[ScaledKey]:
    """Let steps of the rate follow a schedule whose length refers to the run's."""
    now, steps = OmegaConf.select(cfg, _LENGTH), OmegaConf.select(cfg, _MILESTONES)
    if not updates or now == updates or not isinstance(steps, Sequence):
        return []
    before = list(steps)
    after = [max(round(step * now / updates), 1) for step in before]
    return [_put(cfg, _MILESTONES, before, after, given)]


def _value(cfg: DictConfig, key: str) -> Any:
    value = OmegaConf.select(cfg, key)
    return _DEFAULTS.get(key) if value is None else value


def _scale(
    cfg: DictConfig, key: str, change: Callable[[Any], Any], given: Collection[str]
) -> ScaledKey:
    before = _value(cfg, key)
    return _put(cfg, key, before, change(before), given)


def _put(cfg: DictConfig, key: str, before: Any, after: Any, given: Collection[str]) -> ScaledKey:
    if key in given:
        return ScaledKey(key=key, before=before, after=before, note="kept as given")
    now = OmegaConf.select(cfg, key)
    # What refers to a key that was scaled has followed it already.
    if after != (before if now is None else now):
        OmegaConf.update(cfg, key, after, force_add=True)
    return ScaledKey(key=key, before=before, after=after)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)

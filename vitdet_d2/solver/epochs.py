# SPDX-License-Identifier: Apache-2.0
"""The length of a run in passes over its training images, once their number is known.

Recipe keys: ``train.epochs`` (null: ``train.max_iter`` stands as it is) and
``train.warmup_epochs`` (null: the warm-up keeps its iterations).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vitdet_d2.errors import RecipeError
from vitdet_d2.solver.batch_plan import read_batch

EPOCHS_KEY, WARMUP_EPOCHS_KEY = "train.epochs", "train.warmup_epochs"
_LENGTH_KEY, _WARMUP_KEY = "train.max_iter", "lr_multiplier.warmup_length"
# What `settle_epochs` writes.
SETTLED_KEYS = (_LENGTH_KEY, _WARMUP_KEY)

logger = logging.getLogger(__name__)


def prefer_given_length(cfg: DictConfig, given: Collection[str]) -> None:
    """Let a number of iterations that the user gave win over the recipe's epochs.

    Args:
        cfg: a recipe; changed in place.
        given: keys that the user set himself, dotted.

    Raises:
        RecipeError: he gave both.
    """
    if _LENGTH_KEY not in given or OmegaConf.select(cfg, EPOCHS_KEY) is None:
        return
    if EPOCHS_KEY in given:
        raise RecipeError(f"{_LENGTH_KEY} and {EPOCHS_KEY} both say how long; give one of them")
    OmegaConf.update(cfg, EPOCHS_KEY, None)


def settle_epochs(cfg: DictConfig, num_images: int | None) -> None:
    """Write the iterations of ``train.epochs``, and the fraction of its warm-up, into a recipe.

    A last part of an iteration counts as one. Schedules go by fractions of the run, and follow.

    Args:
        cfg: a recipe; changed in place. Without ``train.epochs`` nothing happens.
        num_images: of one epoch; None: not known.

    Raises:
        RecipeError: a number is out of range, or the images of an epoch are not known.
    """
    epochs = _number(cfg, EPOCHS_KEY, least=None)
    if epochs is None:
        return
    if not num_images:
        raise RecipeError(
            f"{EPOCHS_KEY}={epochs:g}: the number of training images is not known before they are "
            f"loaded; give {_LENGTH_KEY} instead"
        )
    batch = read_batch(cfg).global_batch
    before = int(OmegaConf.select(cfg, _LENGTH_KEY) or 0)
    now = math.ceil(epochs * num_images / batch)
    OmegaConf.update(cfg, _LENGTH_KEY, now, force_add=True)
    _settle_warmup(cfg, epochs, before, now)
    logger.info(
        "%s=%g: %d iterations of %d images, %d images per epoch",
        EPOCHS_KEY, epochs, now, batch, num_images,
    )  # fmt: skip


def _settle_warmup(cfg: DictConfig, epochs: float, before: int, now: int) -> None:
    fraction = OmegaConf.select(cfg, _WARMUP_KEY)
    if fraction is None:
        return
    warmup = _number(cfg, WARMUP_EPOCHS_KEY, least=0.0)
    wanted = fraction * before / now if warmup is None else warmup / epochs
    if wanted >= 1:
        raise RecipeError(
            f"{EPOCHS_KEY}={epochs:g}: the warm-up alone is {wanted * epochs:g} epochs; set "
            f"{WARMUP_EPOCHS_KEY} to less"
        )
    OmegaConf.update(cfg, _WARMUP_KEY, wanted)


def _number(cfg: DictConfig, key: str, *, least: float | None) -> float | None:
    """Return a finite number above 0, or from ``least`` on.

    Raises:
        RecipeError: it is none.
    """
    value: Any = OmegaConf.select(cfg, key)
    if value is None:
        return None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < (least or 0.0):
        raise RecipeError(f"{key}: expected a number above 0, or null (off), got {value!r}")
    if least is None and value == 0:
        raise RecipeError(f"{key}: expected a number above 0, or null (off), got 0")
    return float(value)

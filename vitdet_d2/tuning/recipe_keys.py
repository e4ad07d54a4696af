# SPDX-License-Identifier: Apache-2.0
"""Where a recipe keeps what a study varies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

from vitdet_d2.engine.overrides import all_keys, given_keys
from vitdet_d2.errors import RecipeError
from vitdet_d2.tuning.cells import Cell

LR, WEIGHT_DECAY = "optimizer.lr", "optimizer.weight_decay"
OUTPUT, LENGTH, TO_KEEP = "train.output_dir", "train.max_iter", "train.checkpointer.max_to_keep"
DROP_PATH_NAME = "drop_path_rate"


@dataclass(frozen=True, kw_only=True)
class RecipeKeys:
    """The dotted keys of a recipe that a study sets.

    Attributes:
        drop_path: of the backbone's drop path rate.
    """

    drop_path: str

    @property
    def of_cells(self) -> tuple[str, str, str]:
        """Keys of learning rate, weight decay and drop path."""
        return (LR, WEIGHT_DECAY, self.drop_path)

    def overrides(self, cell: Cell) -> list[str]:
        """Return the overrides that make a recipe that of a cell.

        Args:
            cell: of a study.
        """
        values = (cell.lr, cell.weight_decay, cell.drop_path)
        return [f"{key}={value:.12g}" for key, value in zip(self.of_cells, values, strict=True)]


def find_keys(cfg: DictConfig, source: str, drop_path_key: str | None = None) -> RecipeKeys:
    """Return where a recipe keeps learning rate, weight decay and drop path rate.

    Args:
        cfg: the recipe.
        source: its path or name, for messages.
        drop_path_key: given by the user; None: the only key of that name.

    Raises:
        RecipeError: one is not there, or there are several of drop path.
    """
    for key in (LR, WEIGHT_DECAY):
        if OmegaConf.select(cfg, key) is None:
            raise RecipeError(
                f"recipe {source} has no {key}, which a study varies; tune a recipe whose "
                "optimizer has it, such as projects/vitdet_b.py"
            )
    known = [key for key in all_keys(cfg) if key.rpartition(".")[2] == DROP_PATH_NAME]
    if drop_path_key is not None:
        if drop_path_key not in set(all_keys(cfg)):
            raise RecipeError(
                f"--drop-path-key {drop_path_key}: recipe {source} has no such key; there are "
                f"{', '.join(known) or 'none'} of the name {DROP_PATH_NAME}"
            )
        return RecipeKeys(drop_path=drop_path_key)
    # A rate of a head or a neck is not what the protocol means.
    in_backbone = [key for key in known if key.startswith("model.backbone.")] or known
    if not in_backbone:
        raise RecipeError(
            f"recipe {source} has no key named {DROP_PATH_NAME}, which a study varies; its "
            "backbone must take one, or name the key with --drop-path-key KEY"
        )
    if len(in_backbone) > 1:
        raise RecipeError(
            f"recipe {source} has several keys named {DROP_PATH_NAME} ({', '.join(in_backbone)}); "
            "choose one with --drop-path-key KEY"
        )
    return RecipeKeys(drop_path=in_backbone[0])


def refuse_own_keys(overrides: Sequence[str], keys: RecipeKeys) -> None:
    """Refuse overrides of what the study itself sets.

    Args:
        overrides: of the user.
        keys: that the study varies.

    Raises:
        RecipeError: there is one.
    """
    cures = {
        LR: "--lr",
        WEIGHT_DECAY: "--weight-decay",
        keys.drop_path: "--drop-path",
        OUTPUT: "--output",
        LENGTH: "--iterations or --epochs",
    }
    given = given_keys(overrides)
    for key, option in cures.items():
        if key in given:
            raise RecipeError(f"override {key}: the study sets it; use {option}")

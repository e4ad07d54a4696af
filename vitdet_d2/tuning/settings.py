# SPDX-License-Identifier: Apache-2.0
"""What a study is of: recipe, length, objective and protocol. Another one is another study."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from vitdet_d2.engine.recipe_json import changes, to_json
from vitdet_d2.errors import RecipeError
from vitdet_d2.tuning.protocol import Protocol
from vitdet_d2.tuning.recipe_keys import OUTPUT, RecipeKeys

Objective = Literal["final", "best"]

# Of the machine, or of how much is kept.
_NOT_COMPARED = (OUTPUT, "train.device", "train.checkpointer")
_SHOWN_CHANGES = 4


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all cells of a study have in common.

    Attributes:
        recipe: as JSON text, without what cells differ in.
        protocol: which cells there are.
        metric: name in ``metrics.json``.
        objective: which evaluation counts.
    """

    recipe: str
    protocol: Protocol
    metric: str
    objective: Objective

    def as_json(self) -> str:
        """Return the settings as text for the storage."""
        return json.dumps(
            {
                "schema": 1,
                "metric": self.metric,
                "objective": self.objective,
                "protocol": self.protocol.describe(),
                "recipe": json.loads(self.recipe),
            },
            separators=(",", ":"),
        )

    @property
    def fingerprint(self) -> str:
        """Hash of the settings."""
        return hashlib.sha256(self.as_json().encode("utf-8")).hexdigest()

    def require_same(self, stored: str, study: str) -> None:
        """Refuse a study of something else.

        Args:
            stored: text of ``as_json`` of the study's settings.
            study: its name, for the message.

        Raises:
            RecipeError: the settings differ.
        """
        differences = changes(stored, self.as_json())
        if not differences:
            return
        shown = "; ".join(change.removeprefix("recipe.") for change in differences[:_SHOWN_CHANGES])
        more = len(differences) - _SHOWN_CHANGES
        raise RecipeError(
            f"the tuning study {study} is of another recipe or of other settings: {shown}"
            f"{f'; and {more} more' if more > 0 else ''}. Repeat the command that began it, or "
            "begin another one with --output FOLDER (with --storage: --study-name NAME)"
        )


def recipe_text(cfg: DictConfig, keys: RecipeKeys) -> str:
    """Return a recipe as JSON without what cells or machines differ in.

    Args:
        cfg: the recipe with all overrides; it is left as it is.
        keys: that the study varies.
    """
    shared = copy.deepcopy(cfg)
    for key in (*keys.of_cells, *_NOT_COMPARED):
        _remove(shared, key)
    return to_json(shared)


def _remove(cfg: DictConfig, key: str) -> None:
    parent_key, _, name = key.rpartition(".")
    parent: Any = OmegaConf.select(cfg, parent_key)
    if parent is not None and name in parent:
        del parent[name]

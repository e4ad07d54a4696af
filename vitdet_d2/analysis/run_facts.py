# SPDX-License-Identifier: Apache-2.0
"""What the files beside ``metrics.json`` say about a run; each of them may be missing."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# As the schedules of the recipes count them; see configs/schedules/.
IMAGES_PER_EPOCH = {
    "coco_2017_train": 118_000,
    "lvis_v1_train": 100_000,
    "lvis_v1_train+coco": 100_000,
    "digits_train": 4_000,
}
# Lines of log.txt that the engine and the preparation of data write.
_RECIPE = re.compile(r"vitdet_d2\.engine\.run INFO: Recipe (\S+)")
_LOG_HEAD = 200_000  # characters; both stand at the beginning
_MOST_IMAGES = 1e12  # of any data set; more are no number of images


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a run is; None where it is not known.

    Attributes:
        recipe: name or file that it was started with.
        initialisation: first weights; ``random`` without any.
        max_iter: length of the schedule.
        batch: images per iteration.
        images_per_epoch: of the training data.
    """

    recipe: str | None = None
    initialisation: str | None = None
    max_iter: int | None = None
    batch: int | None = None
    images_per_epoch: int | None = None

    def epochs(self, iterations: int) -> float | None:
        """Return how often the training data was seen.

        Args:
            iterations: completed.
        """
        if self.batch is None or self.images_per_epoch is None:
            return None
        return iterations * self.batch / self.images_per_epoch


def read_facts(folder: Path, images_per_epoch: int | None = None) -> RunFacts:
    """Read what there is.

    Args:
        folder: of the run.
        images_per_epoch: of the training data, where the user knows.
    """
    config, log = _config(folder / "config.json"), _log(folder / "log.txt")
    recipe = _RECIPE.search(log)
    batch = _whole(_at(config, "dataloader.train.total_batch_size"))
    if batch is not None:
        batch *= _whole(_at(config, "train.accumulate")) or 1
    return RunFacts(
        recipe=None if recipe is None else Path(recipe[1]).name.removesuffix(".py"),
        initialisation=_initialisation(_at(config, "train.init_checkpoint")),
        max_iter=_whole(_at(config, "train.max_iter")),
        batch=batch,
        images_per_epoch=images_per_epoch or _own_images(config, batch) or _images(config, log),
    )


def _own_images(config: dict[str, Any], batch: int | None) -> int | None:
    """Images of an epoch by which ``train.epochs`` became the iterations of the run."""
    length, epochs = _whole(_at(config, "train.max_iter")), _at(config, "train.epochs")
    is_number = isinstance(epochs, int | float) and not isinstance(epochs, bool)
    if batch is None or length is None or not is_number or not epochs > 0:
        return None
    images = length * batch / epochs
    return round(images) if 1 <= images < _MOST_IMAGES else None


def _images(config: dict[str, Any], log: str) -> int | None:
    """Images of the training data, by their name, or as the log counts those with instances."""
    name = _at(config, "dataloader.train.dataset.names")
    if isinstance(name, list) and len(name) == 1:
        name = name[0]
    if not isinstance(name, str):
        return None
    if name in IMAGES_PER_EPOCH:
        return IMAGES_PER_EPOCH[name]
    every = _at(config, "dataloader.train.dataset.filter_empty") is False
    counted = re.search(rf"data set {re.escape(name)}: .*: (\d+) images: (\d+) with instances", log)
    return None if counted is None else int(counted[1 if every else 2]) or None


def _initialisation(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    # Of a path the file tells more than where it lies.
    return Path(value).name or "random"


def _config(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _log(file: Path) -> str:
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            return stream.read(_LOG_HEAD)
    except OSError:
        return ""


def _at(config: dict[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

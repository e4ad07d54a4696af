# SPDX-License-Identifier: Apache-2.0
"""From the arguments of ``vitdet tune`` to the settings of a study and the runner of its cells."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from vitdet_d2.engine.best import require_metric
from vitdet_d2.engine.overrides import given_keys
from vitdet_d2.engine.recipes import load_recipe
from vitdet_d2.engine.tune_arguments import TuneArguments
from vitdet_d2.errors import RecipeError
from vitdet_d2.tuning.cell_process import CellRunner, Slots, devices_of
from vitdet_d2.tuning.cells import Grid, centred
from vitdet_d2.tuning.chosen_pair import read_pair
from vitdet_d2.tuning.protocol import (
    CENTRE_LR,
    CENTRE_WEIGHT_DECAY,
    DROP_PATHS,
    MAX_EXTENSIONS,
    Protocol,
    StageNumber,
)
from vitdet_d2.tuning.recipe_keys import LENGTH, find_keys, refuse_own_keys
from vitdet_d2.tuning.settings import Settings, recipe_text
from vitdet_d2.tuning.storage import folder_url
from vitdet_d2.zoo.initialisations import starts_at_random
from vitdet_d2.zoo.recipe_names import find_recipe

# The protocol's short schedules; the longer one for what starts from nothing.
EPOCHS, EPOCHS_FROM_RANDOM = 25, 100
_EPOCHS_KEY = "train.epochs"
_LAST: dict[str, StageNumber] = {"all": 2, "1": 1, "2": 2, "3": 3}


@dataclass(frozen=True, kw_only=True)
class TunePlan:
    """What the arguments come to.

    Attributes:
        settings: of the study.
        runner: of its cells.
        url: of its storage.
        name: in the storage.
        last: stage after which the command ends.
    """

    settings: Settings
    runner: CellRunner
    url: str
    name: str
    last: StageNumber


def make_plan(arguments: TuneArguments) -> TunePlan:
    """Settle everything that needs no work.

    Args:
        arguments: of the command line.

    Raises:
        RecipeError: recipe, overrides or machine do not allow the study.
    """
    recipe = find_recipe(arguments.recipe)
    asked = load_recipe(str(recipe), arguments.overrides)
    keys = find_keys(asked, arguments.recipe, arguments.drop_path_key)
    refuse_own_keys(arguments.overrides, keys)
    length = _length(asked, arguments)
    cfg = load_recipe(str(recipe), (*arguments.overrides, *length))
    require_metric(cfg, arguments.metric, None, key="--metric")
    settings = Settings(
        recipe=recipe_text(cfg, keys),
        protocol=_protocol(arguments),
        metric=arguments.metric,
        objective=arguments.objective,
    )
    output = (arguments.output or Path("runs") / f"tune_{recipe.stem}").expanduser().resolve()
    runner = CellRunner(
        # A name stays one: the commands that are shown should run on other machines too.
        recipe=str(recipe) if Path(arguments.recipe).expanduser().is_file() else arguments.recipe,
        overrides=arguments.overrides,
        length=length,
        keys=keys,
        output=output,
        metric=arguments.metric,
        objective=arguments.objective,
        fingerprint=settings.fingerprint,
        slots=_slots(arguments),
    )
    return TunePlan(
        settings=settings,
        runner=runner,
        url=arguments.storage or folder_url(output),
        name=arguments.study_name or recipe.stem,
        last=_LAST[arguments.stage],
    )


def _length(cfg: DictConfig, arguments: TuneArguments) -> tuple[str, ...]:
    """Return the override that says how long a cell trains.

    Raises:
        RecipeError: the recipe counts iterations, and nothing says how many a cell has.
    """
    if arguments.iterations is not None:
        return (f"{LENGTH}={arguments.iterations}",)
    if arguments.epochs is not None:
        return (f"{_EPOCHS_KEY}={arguments.epochs:g}",)
    if _EPOCHS_KEY in given_keys(arguments.overrides):
        return ()
    if OmegaConf.select(cfg, _EPOCHS_KEY) is None:
        raise RecipeError(
            f"recipe {arguments.recipe} trains for {cfg.train.max_iter} iterations; say how long a "
            "cell trains, with --epochs N or --iterations N"
        )
    at_random = starts_at_random(str(cfg.train.init_checkpoint or ""))
    return (f"{_EPOCHS_KEY}={EPOCHS_FROM_RANDOM if at_random else EPOCHS}",)


def _protocol(arguments: TuneArguments) -> Protocol:
    drop_paths = arguments.drop_path or DROP_PATHS
    if arguments.pair_from is not None:
        pair = read_pair(arguments.pair_from, arguments.pair_from_name)
        return Protocol(grid=None, drop_paths=drop_paths, pair=pair)
    grid = Grid(
        lrs=arguments.lr or centred(arguments.lr_centre or CENTRE_LR),
        weight_decays=arguments.weight_decay
        or centred(arguments.weight_decay_centre or CENTRE_WEIGHT_DECAY),
    )
    bound = arguments.max_extensions
    return Protocol(
        grid=grid,
        drop_paths=drop_paths,
        max_extensions=MAX_EXTENSIONS if bound is None else bound,
    )


def _slots(arguments: TuneArguments) -> Slots:
    """Return where cells run.

    Raises:
        RecipeError: this machine has too few GPUs.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    each = min(available, 1) if arguments.num_gpus is None else arguments.num_gpus
    if each == 0:
        return Slots(devices=(), count=arguments.parallel or 1)
    possible = available // each
    count = arguments.parallel or possible
    if not 0 < count <= possible:
        raise RecipeError(
            f"{max(count, 1)} cells at once with {each} GPUs each need {max(count, 1) * each}, but "
            f"this machine has {available} that PyTorch can use; lower --parallel or --num-gpus "
            "(0: the CPU)"
        )
    names = devices_of(available, os.environ.get("CUDA_VISIBLE_DEVICES"))
    devices = tuple(tuple(names[i * each : (i + 1) * each]) for i in range(count))
    return Slots(devices=devices, count=count)

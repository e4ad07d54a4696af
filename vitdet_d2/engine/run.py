# SPDX-License-Identifier: Apache-2.0
"""One run, from parsed arguments to its end: recipe, processes, folder, training or evaluation.

The recipe is loaded once before processes are started, so that a mistake in it costs seconds, and
again in each of them, since a recipe may hold what cannot be sent to another process.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
from collections.abc import Iterator
from pathlib import Path

from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf

import vitdet_d2
from vitdet_d2 import runtime
from vitdet_d2.engine.arguments import RunArguments
from vitdet_d2.engine.input_size import check_input_size
from vitdet_d2.engine.launch import Plan, launch, make_plan
from vitdet_d2.engine.recipe_json import changes, to_json
from vitdet_d2.engine.recipe_statistics import KEYS as STATISTICS
from vitdet_d2.engine.recipes import load_scaled_recipe, save_resolved
from vitdet_d2.engine.run_folder import claim, make_writable
from vitdet_d2.engine.terminal import quiet_third_parties, start_logging, stop_logging
from vitdet_d2.errors import RecipeError, UserError
from vitdet_d2.solver.epochs import SETTLED_KEYS
from vitdet_d2.solver.scaling import ScaledKey, format_scaling

logger = logging.getLogger(__name__)

_STATISTICS_KEYS = tuple(f"model.{key}" for key in STATISTICS)


def run(arguments: RunArguments) -> None:
    """Train or evaluate as asked.

    Args:
        arguments: of the command line.

    Raises:
        UserError: something that the user can cure.
        StoppedBySignal: the run was stopped, and saved before.
    """
    plan = make_plan(arguments)
    if plan.world_size > 1 and not plan.by_torchrun:
        resolve(arguments, plan)
    launch(plan, run_rank, (arguments, plan))


def resolve(arguments: RunArguments, plan: Plan) -> tuple[DictConfig, list[ScaledKey]]:
    """Return the recipe as it will run, and what was scaled in it.

    Args:
        arguments: of the command line.
        plan: the processes.

    Raises:
        RecipeError: of ``load_scaled_recipe``; recipe and command line disagree about the device;
            or its images cannot fit its model.
    """
    cfg, scaled = load_scaled_recipe(
        arguments.config_file,
        arguments.overrides,
        eval_only=arguments.eval_only,
        num_processes=plan.world_size,
    )
    if arguments.weights is not None:
        cfg.train.init_checkpoint = arguments.weights
    if arguments.allow_partial:
        cfg.train.init_options.allow_partial = True
    choose_device(cfg, arguments, plan)
    check_input_size(cfg)
    return cfg, scaled


def choose_device(cfg: DictConfig, arguments: RunArguments, plan: Plan) -> str:
    """Return what this process computes on.

    Args:
        cfg: the recipe; reads ``train.device``.
        arguments: of the command line.
        plan: the processes.

    Raises:
        RecipeError: recipe and command line contradict each other.
    """
    wanted = str(cfg.train.device)
    kind = wanted.partition(":")[0]
    if kind not in ("auto", "cuda", "cpu"):
        raise RecipeError(f"train.device must be auto, cuda or cpu, got {wanted!r}")
    if kind == "cpu" and plan.device == "cuda":
        if arguments.num_gpus:
            raise RecipeError(
                f"train.device=cpu contradicts --num-gpus {arguments.num_gpus}; give one of them"
            )
        if plan.world_size > 1:
            raise RecipeError("train.device=cpu under torchrun needs --num-gpus 0 as well")
        return "cpu"
    # "cuda" is the default of Detectron2's recipes, and no promise that there is one.
    return plan.device


def run_rank(arguments: RunArguments, plan: Plan) -> None:
    """Do this process' share of a run.

    Args:
        arguments: of the command line.
        plan: the processes.

    Raises:
        UserError: on every process, where one of them or the folder has a fault.
    """
    quiet_third_parties()
    cfg, scaled = resolve(arguments, plan)
    device = choose_device(cfg, arguments, plan)
    if arguments.eval_only:
        from vitdet_d2.engine.evaluate import do_eval

        cfg.train.device = device
        make_writable(Path(cfg.train.output_dir))
        with _logging(cfg.train.output_dir):
            do_eval(cfg)
        return
    from vitdet_d2.engine.train import do_train

    with _claimed_folder(cfg, arguments) as folder, _logging(str(folder)):
        cfg.train.output_dir = str(folder)
        accepted = None
        if comm.is_main_process():
            _log_start(cfg, folder, arguments)
            if any(row.before != row.after for row in scaled):
                table = format_scaling(scaled)
                logger.info("Scaled to train.global_batch=%d:\n%s", cfg.train.global_batch, table)
            elif scaled:
                logger.info("The recipe is for train.global_batch=%d", cfg.train.global_batch)
            # As it was asked for: the next run may be on another machine.
            accepted = functools.partial(_save_recipe, copy.deepcopy(cfg), folder)
        cfg.train.device = device
        do_train(cfg, resume=arguments.resume, on_accepted=accepted)


def _save_recipe(asked: DictConfig, folder: Path, used: DictConfig) -> None:
    """Save a recipe as it was asked for, but for the length and statistics that data bring."""
    for key in SETTLED_KEYS:
        if OmegaConf.select(asked, key) is not None:
            OmegaConf.update(asked, key, OmegaConf.select(used, key))
    for key in STATISTICS:
        if OmegaConf.select(asked, f"model.{key}") is not None:
            asked.model[key] = used.model[key]
    save_resolved(asked, folder)


@contextlib.contextmanager
def _logging(output_dir: str) -> Iterator[None]:
    """Log to the terminal and a file for the duration of the block; the file tells how it ended."""
    start_logging(output_dir)
    try:
        yield
    except BaseException:
        logger.debug("The run ended early", exc_info=True)
        raise
    finally:
        stop_logging()


def _log_start(cfg: DictConfig, folder: Path, arguments: RunArguments) -> None:
    """Log what runs, and where, and what changed since the last start."""
    logger.info("vitdet_d2 %s; detectron2: %s", vitdet_d2.__version__, runtime.current())
    logger.info("Recipe %s %s", arguments.config_file, " ".join(arguments.overrides))
    logger.info("Run folder %s; processes: %d", folder, comm.get_world_size())
    saved = folder / "config.json"
    if saved.is_file():
        with contextlib.suppress(ValueError):  # cut off by a crash of the file system
            for change in changes(saved.read_text(encoding="utf-8"), to_json(cfg)):
                # A checkpoint brings its own.
                if arguments.resume != "never" and change.startswith(_STATISTICS_KEYS):
                    continue
                logger.warning("Recipe changed since the last start: %s", change)


@contextlib.contextmanager
def _claimed_folder(cfg: DictConfig, arguments: RunArguments) -> Iterator[Path]:
    """Claim the run folder on rank 0; every rank gets the same folder or the same error."""
    with contextlib.ExitStack() as stack:
        outcome: Path | UserError | None = None
        if comm.is_main_process():
            try:
                claimed = claim(
                    cfg.train.output_dir,
                    arguments.resume,
                    arguments.overwrite,
                    arguments.auto_increment,
                )
                outcome = stack.enter_context(claimed)
            except UserError as error:
                outcome = error
        outcome = comm.all_gather(outcome)[0]
        if isinstance(outcome, UserError):
            raise outcome
        assert outcome is not None, "rank 0 has a folder or an error"
        yield outcome

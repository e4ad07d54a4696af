# SPDX-License-Identifier: Apache-2.0
"""Training as a yacs configuration describes it, each part of which a subclass may replace.

Source: behaviour of detectron2 ``engine/defaults.py``.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import hooks
from detectron2.engine.defaults import create_ddp_model, default_writers
from detectron2.engine.train_loop import AMPTrainer, HookBase, SimpleTrainer, TrainerBase
from detectron2.evaluation import (
    DatasetEvaluator,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from detectron2.utils.logger import setup_logger
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

logger = logging.getLogger(__name__)

# Iterations between two lines of the log.
_WRITE_PERIOD = 20


class DefaultTrainer(TrainerBase):
    """Model, optimizer, loader, schedule, hooks and checkpoints of a configuration.

    Attributes:
        cfg: the configuration, scaled to the number of processes where it asks for that.
        scheduler: sets the learning rates.
        checkpointer: writes model and training state below ``OUTPUT_DIR``.
    """

    _last_eval_results: Any

    def __init__(self, cfg: CfgNode) -> None:
        """Build everything; weights are loaded by ``resume_or_load``.

        Args:
            cfg: the configuration.
        """
        super().__init__()
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()  # nobody has set up logging
        self.cfg = cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        self.max_iter = cfg.SOLVER.MAX_ITER
        # Subclasses count on this order.
        bare_model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, bare_model)
        batches = self.build_train_loader(cfg)
        # Buffers stay each process's own: the statistics of its own images.
        model = create_ddp_model(bare_model, broadcast_buffers=False)
        trainer_type = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = trainer_type(model, batches, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = DetectionCheckpointer(
            model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.register_hooks(self.build_hooks())

    @property
    def model(self) -> nn.Module:
        """The model, wrapped where there are several processes."""
        return self._trainer.model

    @model.setter
    def model(self, value: nn.Module) -> None:
        self._trainer.model = value

    @property
    def data_loader(self) -> Iterable[Any]:
        """Where training batches come from."""
        return self._trainer.data_loader

    @data_loader.setter
    def data_loader(self, value: Iterable[Any]) -> None:
        self._trainer.data_loader = value

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """What updates the model."""
        return self._trainer.optimizer

    @optimizer.setter
    def optimizer(self, value: torch.optim.Optimizer) -> None:
        self._trainer.optimizer = value

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from the last checkpoint of the output folder, or load ``MODEL.WEIGHTS``.

        Args:
            resume: False starts anew from the weights, whatever the folder holds.
        """
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1  # the checkpoint holds the iteration that was done

    def build_hooks(self) -> list[HookBase | None]:
        """Return the hooks: timing, schedule, checkpoints, evaluation, log, in this order.

        Raises:
            ValueError: ``TEST.PRECISE_BN.ENABLED`` on a model with batch normalisation.
        """
        has_batch_norm = any(isinstance(module, _BatchNorm) for module in self.model.modules())
        if self.cfg.TEST.PRECISE_BN.ENABLED and has_batch_norm:
            raise ValueError(
                "TEST.PRECISE_BN.ENABLED: expected False, because PreciseBN is not part of the "
                "bundled runtime; install Detectron2 to use it"
            )

        def evaluate() -> Any:
            self._last_eval_results = self.test(self.cfg, self.model)
            return self._last_eval_results

        is_main = comm.is_main_process()
        period = self.cfg.SOLVER.CHECKPOINT_PERIOD
        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            # Before the evaluation: should that fail, the model is saved.
            hooks.PeriodicCheckpointer(self.checkpointer, period) if is_main else None,
            hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, evaluate),
            # Last, so that the evaluation's numbers are written.
            hooks.PeriodicWriter(self.build_writers(), period=_WRITE_PERIOD) if is_main else None,
        ]

    def build_writers(self) -> list[EventWriter]:
        """Return what writes metrics."""
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self) -> Any:  # type: ignore[override]
        """Run the iterations that are left.

        Returns:
            The last evaluation's results on the main process, where ``TEST.EXPECTED_RESULTS`` asks
            for them; otherwise None.

        Raises:
            RuntimeError: results are expected, and nothing was evaluated.
        """
        super().train(self.start_iter, self.max_iter)
        if not self.cfg.TEST.EXPECTED_RESULTS or not comm.is_main_process():
            return None
        if not hasattr(self, "_last_eval_results"):
            raise RuntimeError("TEST.EXPECTED_RESULTS: nothing was evaluated in this training")
        verify_results(self.cfg, self._last_eval_results)
        return self._last_eval_results

    def run_step(self) -> None:
        """Do one iteration."""
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self) -> dict[str, Any]:
        """Return the iteration, the hooks' states, and the inner trainer's."""
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Return the model."""
        model = build_model(cfg)
        logger.info("Model:\n%s", model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """Return the schedule."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[Any]:
        """Return the endless loader of training batches."""
        return build_detection_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[Any]:
        """Return the loader of a data set to evaluate."""
        return build_detection_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Return the evaluator of a data set; subclasses define it.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"{cls.__name__} has no evaluator for {dataset_name!r}: define build_evaluator() in a "
            "subclass, for example to return COCOEvaluator(dataset_name), or call "
            "inference_on_dataset() yourself"
        )

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: DatasetEvaluator | Sequence[DatasetEvaluator] | None = None,
    ) -> dict[str, Any]:
        """Evaluate a model on the data sets ``DATASETS.TEST``.

        Args:
            cfg: the configuration.
            model: with its weights.
            evaluators: one for each data set; from ``build_evaluator`` where left out.

        Returns:
            The results by data set, of a single data set its own; empty on other processes.

        Raises:
            ValueError: another number of evaluators.
            TypeError: an evaluator gives no dictionary.
        """
        names = cfg.DATASETS.TEST
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        if evaluators is not None and len(evaluators) != len(names):
            raise ValueError(
                f"evaluators: expected {len(names)}, one for each of DATASETS.TEST, got "
                f"{len(evaluators)}"
            )
        results: dict[str, Any] = {}
        for index, name in enumerate(names):
            loader = cls.build_test_loader(cfg, name)
            try:
                given = evaluators[index] if evaluators is not None else None
                evaluator = cls.build_evaluator(cfg, name) if given is None else given
            except NotImplementedError as error:
                logger.warning("%s", error)
                results[name] = {}
                continue
            results[name] = inference_on_dataset(model, loader, evaluator)
            if comm.is_main_process():
                if not isinstance(results[name], dict):
                    raise TypeError(
                        f"{type(evaluator).__name__}.evaluate() must return a dictionary on the "
                        f"main process, got {type(results[name]).__name__}"
                    )
                logger.info("results for %s, as comma-separated values:", name)
                print_csv_format(results[name])
        return next(iter(results.values())) if len(results) == 1 else results

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        """Scale a configuration from ``SOLVER.REFERENCE_WORLD_SIZE`` processes to another number.

        The batch of each process stays the same: the total batch and the learning rate go with the
        number, every length in iterations against it.

        Args:
            cfg: the configuration; returned as it is where the reference is 0 or ``num_workers``.
            num_workers: number of processes.

        Raises:
            ValueError: the reference does not divide the batch.

        Source: linear scaling, arXiv 1706.02677.
        """
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference in (0, num_workers):
            return cfg
        if cfg.SOLVER.IMS_PER_BATCH % reference:
            raise ValueError(
                f"SOLVER.REFERENCE_WORLD_SIZE: expected a divisor of SOLVER.IMS_PER_BATCH = "
                f"{cfg.SOLVER.IMS_PER_BATCH}, got {reference}"
            )
        scaled = cfg.clone()
        scaled.defrost()
        solver, scale = scaled.SOLVER, num_workers / reference

        def shorter(iterations: int) -> int:
            return round(iterations / scale)

        solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * scale)
        solver.BASE_LR = solver.BASE_LR * scale
        for key in ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD"):
            solver[key] = shorter(solver[key])
        solver.STEPS = tuple(shorter(step) for step in solver.STEPS)
        scaled.TEST.EVAL_PERIOD = shorter(scaled.TEST.EVAL_PERIOD)
        solver.REFERENCE_WORLD_SIZE = num_workers
        logger.info(
            "scaled from %d processes to %d: batch %d, learning rate %g, %d iterations, warm-up %d",
            reference,
            num_workers,
            solver.IMS_PER_BATCH,
            solver.BASE_LR,
            solver.MAX_ITER,
            solver.WARMUP_ITERS,
        )
        if cfg.is_frozen():
            scaled.freeze()
        return scaled

# SPDX-License-Identifier: Apache-2.0
"""Evaluate a model on the test data of a recipe."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vitdet_d2.checks.square_pad import refuse_cropping
from vitdet_d2.data.device_batches import DeviceBatches
from vitdet_d2.engine import random_state
from vitdet_d2.engine.attention_choice import choose_attention
from vitdet_d2.engine.build import resolve_device
from vitdet_d2.engine.inference_dtype import inference_dtype
from vitdet_d2.engine.inputs import prepare_inputs
from vitdet_d2.engine.progress import EvaluationBar
from vitdet_d2.engine.settings import read_settings
from vitdet_d2.engine.terminal import shows_bars
from vitdet_d2.errors import RecipeError, WeightsError
from vitdet_d2.evaluation.background import BackgroundEvaluator
from vitdet_d2.evaluation.detect import RegionDetector
from vitdet_d2.layers.channel_norm import fuse_channel_norms
from vitdet_d2.zoo import for_inference

logger = logging.getLogger(__name__)

RESULTS_FOLDER = "inference"
PICTURES_FOLDER = "pictures"
# As in Detectron2's demo: detections that a person takes for certain.
PICTURE_SCORE = 0.5


def do_eval(cfg: DictConfig) -> dict[str, Any]:
    """Evaluate ``train.init_checkpoint`` on the recipe's test data; runs in every process.

    Args:
        cfg: a recipe with all overrides; reads `TrainSettings`, ``model``, ``dataloader.test`` and
            ``dataloader.evaluator``.

    Returns:
        ``{task: {metric: value}}``; empty on all but the main process.

    Raises:
        RecipeError: no weights or nothing to evaluate with are named.
        WeightsError: the weights do not fit the model or the data set's classes.
    """
    from vitdet_d2.pretrained import load

    settings = read_settings(cfg)
    if not settings.init_checkpoint:
        raise RecipeError(
            "train.init_checkpoint: evaluation needs weights, got none; name a checkpoint, for "
            f"example train.init_checkpoint={settings.output_dir}/model_final.pth"
        )
    if "evaluator" not in cfg.dataloader:
        raise RecipeError("dataloader.evaluator: the recipe has none, so nothing can be evaluated")
    info = prepare_inputs(cfg, settings.init_checkpoint, training=False)
    model = instantiate(for_inference(cfg.model)).to(resolve_device(settings.device))
    fuse_channel_norms(refuse_cropping(model))
    report = load(model, settings.init_checkpoint, strict_heads=True)
    require_same_classes(report.thing_classes, info.thing_classes, settings.init_checkpoint)
    choose_attention(model, _dtype(cfg, model), training=False)
    return evaluate_model(cfg, model, settings.output_dir)


def require_same_classes(
    trained: Sequence[str] | None, evaluated: Sequence[str], weights: str
) -> None:
    """Refuse to evaluate a model on classes that it was not trained on.

    Args:
        trained: names in the checkpoint; None where it has none.
        evaluated: names in the data set.
        weights: the checkpoint, for the message.

    Raises:
        WeightsError: number, names or order differ.
    """
    if trained is None or not evaluated or list(trained) == list(evaluated):
        return
    differing = [
        f"{i}: {a!r} / {b!r}"
        for i, (a, b) in enumerate(zip(trained, evaluated, strict=False))
        if a != b
    ]
    raise WeightsError(
        f"{weights}: trained on {len(trained)} classes, the test data has {len(evaluated)}"
        + (f"; different names at {', '.join(differing[:3])}" if differing else "")
        + "; evaluate on data with the same categories, or train on these"
    )


def evaluate_model(
    cfg: DictConfig,
    model: nn.Module,
    output_dir: Path,
    *,
    wrap_loader: Callable[[Any], Any] = lambda loader: loader,
) -> dict[str, Any]:
    """Evaluate a model, log the table and write the results; runs in every process.

    The random state and the model's mode are as before afterwards.

    Args:
        cfg: reads ``dataloader.test`` and ``dataloader.evaluator``; without an evaluator nothing
            is done.
        model: not wrapped for data parallelism: ranks have different numbers of images.
        output_dir: the run folder; results go into ``inference/``.
        wrap_loader: called with the test loader.

    Returns:
        ``{task: {metric: value}}``; empty on all but the main process.
    """
    from vitdet_d2.evaluation.report import format_report, write_report

    if "evaluator" not in cfg.dataloader:
        return {}
    folder = output_dir / RESULTS_FOLDER
    with random_state.preserved():
        loader = wrap_loader(instantiate(cfg.dataloader.test))
        loader = DeviceBatches(loader, next(model.parameters()).device)
        if shows_bars():
            loader = EvaluationBar(loader)
        evaluator = instantiate(_evaluator_node(cfg, folder))
        results = _evaluate(cfg, model, loader, evaluator)
    if not comm.is_main_process() or not results:
        return {}
    print_csv_format(results)
    logger.info("Evaluation:\n%s", format_report(results))
    logger.info("Results in %s", write_report(results, folder / "results.json"))
    return dict(results)


def _dtype(cfg: DictConfig, model: nn.Module) -> torch.dtype | None:
    """What the recipe lets a model compute in at test; None: as its weights are."""
    device = next(model.parameters(), torch.empty(0)).device
    name = read_settings(cfg).inference_dtype
    return inference_dtype(name, device, "train.inference_dtype")


def _evaluate(
    cfg: DictConfig, model: nn.Module, loader: Any, evaluator: DatasetEvaluator
) -> dict[str, Any]:
    """Run the model over the loader; the evaluator works in a thread where it is ours."""
    dtype = _dtype(cfg, model)
    if dtype is not None:
        logger.info("Computing in %s; train.inference_dtype=fp32 for full precision", dtype)
    if not getattr(evaluator, "takes_regions", False):
        with RegionDetector(model, dtype).precision():
            return inference_on_dataset(model, loader, evaluator)
    background = BackgroundEvaluator(evaluator)
    try:
        return inference_on_dataset(RegionDetector(model, dtype), loader, background)
    finally:
        background.close()


def _evaluator_node(cfg: DictConfig, folder: Path) -> DictConfig:
    """The evaluator of the recipe, which writes into the run folder unless it says otherwise."""
    node = copy.deepcopy(cfg.dataloader.evaluator)
    if not OmegaConf.is_dict(node) or node.get("output_dir"):
        return node
    target = node.get("_target_")
    target = locate(target) if isinstance(target, str) else target
    if "output_dir" in inspect.signature(target).parameters:
        OmegaConf.set_struct(node, False)
        node["output_dir"] = str(folder)
    return node


def draw_pictures(cfg: DictConfig, model: nn.Module, output_dir: Path, *, count: int) -> None:
    """Write pictures of predictions beside the ground truth; main process only.

    Args:
        cfg: reads ``dataloader.test`` (``dataset.names`` and ``mapper``).
        model: not wrapped for data parallelism.
        output_dir: the run folder; pictures go into ``pictures/``.
        count: how many images of the first test data set.
    """
    from vitdet_d2.evaluation.pictures import write_pictures

    names = OmegaConf.select(cfg, "dataloader.test.dataset.names")
    if not names:
        logger.warning("No pictures: dataloader.test.dataset.names names no registered data set")
        return
    name = names if isinstance(names, str) else names[0]
    mapper = OmegaConf.select(cfg, "dataloader.test.mapper")
    with random_state.preserved():
        write_pictures(
            model,
            DatasetCatalog.get(name),
            MetadataCatalog.get(name),
            output_dir / PICTURES_FOLDER,
            count,
            PICTURE_SCORE,
            mapper=None if mapper is None else instantiate(mapper),
        )
    logger.info("Pictures of predictions in %s", output_dir / PICTURES_FOLDER)

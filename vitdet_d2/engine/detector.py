# SPDX-License-Identifier: Apache-2.0
"""A trained detector from a recipe and weights, or from weights that carry their recipe.

Vocabulary:
    saved: the entry ``vitdet_d2`` of a checkpoint of ours, with ``thing_classes``, ``dataset_ids``
        and ``recipe`` (JSON, see `recipe_json`); other checkpoints have none.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vitdet_d2.data.prepare import class_count_key, set_num_classes
from vitdet_d2.engine.attention_choice import choose_attention
from vitdet_d2.engine.build import resolve_device
from vitdet_d2.engine.checkpoint_store import AVERAGE_FINAL, BEST, CheckpointStore
from vitdet_d2.engine.class_names import ClassTable, find_classes
from vitdet_d2.engine.inference_dtype import inference_dtype
from vitdet_d2.engine.input_size import check_input_size
from vitdet_d2.engine.overrides import apply_overrides
from vitdet_d2.engine.recipe_json import from_json
from vitdet_d2.engine.recipes import complete, load_recipe
from vitdet_d2.engine.settings import read_settings
from vitdet_d2.errors import RecipeError, WeightsError
from vitdet_d2.layers.channel_norm import fuse_channel_norms
from vitdet_d2.pretrained import load
from vitdet_d2.pretrained.entry import read_entry
from vitdet_d2.pretrained.reader import read_weights
from vitdet_d2.zoo import find, for_inference, get_config

logger = logging.getLogger(__name__)

# What a run may leave beside its checkpoints: the best by a metric, the average at the end.
_BESIDE = (BEST, AVERAGE_FINAL)


@dataclass(frozen=True, kw_only=True, eq=False)
class Detector:
    """A model with what is needed to use it.

    Attributes:
        model: in eval mode, with all of its weights from the file.
        augmentations: of the recipe's test data, in order.
        channel_order: what the model takes, "RGB" or "BGR".
        classes: what its class indices mean.
        amp_dtype: what mixed precision computes in while training; None where the recipe has none,
            or on the CPU.
        inference_dtype: what the recipe computes in while predicting; None: as the weights are.
        weights: the file they came from.
    """

    model: nn.Module
    augmentations: Sequence[Any]
    channel_order: str
    classes: ClassTable
    amp_dtype: torch.dtype | None
    inference_dtype: torch.dtype | None
    weights: str


def load_detector(
    weights: str | os.PathLike[str],
    config_file: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
) -> Detector:
    """Build a recipe's model, and load its weights.

    Args:
        weights: a checkpoint, an address, or a run folder, whose newest verified checkpoint is
            taken.
        config_file: path or name of the recipe; None: the one in the checkpoint.
        overrides: changes of the recipe.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        RecipeError: the recipe is not found, or nothing can be predicted with it.
        WeightsError: the weights cannot be read, do not fit, or carry no recipe.
    """
    chosen = resolve_device(device, "--device")
    cfg = None if config_file is None else load_recipe(str(config_file), overrides, eval_only=True)
    if cfg is not None:
        _check_recipe(cfg)  # before a large file is read
    source = _checkpoint_of(os.fspath(weights))
    content = read_weights(source)
    saved = read_entry(source, content)
    if cfg is None:
        cfg = _saved_recipe(source, saved)
        apply_overrides(cfg, overrides)
        _check_recipe(cfg)
    _follow_classes(cfg, saved, source, overrides)
    return assemble(cfg, source, content, chosen)


def load_released(name: str, overrides: Sequence[str] = (), device: str = "auto") -> Detector:
    """Build a released model, and load its weights, downloaded at the first use.

    Args:
        name: ours or Detectron2's, of `vitdet zoo list`.
        overrides: changes of its recipe.
        device: as of `load_detector`.

    Raises:
        RecipeError: there is no such model, or not yet.
        DownloadError: the weights cannot be downloaded now.
        WeightsError: what was downloaded is not these weights.
    """
    chosen = resolve_device(device, "--device")
    entry = find(name)
    cfg = complete(get_config(name))
    apply_overrides(cfg, overrides)
    _check_recipe(cfg)
    return assemble(cfg, entry.address, read_weights(entry.address), chosen)


def assemble(
    cfg: DictConfig, weights: str, content: Mapping[str, Any], device: torch.device
) -> Detector:
    """Build a detector from what was read.

    Args:
        cfg: a complete recipe with all overrides.
        weights: the file, for messages.
        content: what is in it.
        device: where the model goes.

    Raises:
        WeightsError: the weights do not fit the model.
    """
    model = fuse_channel_norms(instantiate(for_inference(cfg.model)).to(device).eval())
    load(model, weights, strict_heads=True, content=content)
    classes = find_classes(cfg, read_entry(weights, content), num_classes_of(model))
    settings = read_settings(cfg)
    dtype = inference_dtype(settings.inference_dtype, device, "train.inference_dtype")
    choose_attention(model, dtype, training=False)
    return Detector(
        model=model,
        augmentations=[instantiate(node) for node in _augmentations(cfg)],
        channel_order=_channel_order(cfg),
        classes=classes,
        amp_dtype=settings.amp_dtype if device.type == "cuda" else None,
        inference_dtype=dtype,
        weights=weights,
    )


def num_classes_of(model: nn.Module) -> int:
    """Return how many classes a detector tells apart.

    Args:
        model: in Detectron2's format.

    Raises:
        RecipeError: it does not say.
    """
    for part in (getattr(model, "roi_heads", None), model, getattr(model, "head", None)):
        count = getattr(part, "num_classes", None)
        if isinstance(count, int):
            return count
    raise RecipeError(
        f"model: {type(model).__name__} has no num_classes, neither itself nor in its roi_heads or "
        "head; is it a detector?"
    )


def _checkpoint_of(weights: str) -> str:
    """Return the file that is meant; that of a run folder is checked against its hash.

    Raises:
        WeightsError: a folder without a checkpoint.
    """
    folder = Path(weights).expanduser()
    if "://" in weights or not folder.is_dir():
        return weights if "://" in weights else str(folder)
    store = CheckpointStore(folder)
    found = store.newest_verified()
    if found is None:
        raise WeightsError(f"{store.describe_contents()}; name a checkpoint with --weights FILE")
    logger.info("Weights of the run: %s", found)
    others = [name for name in _BESIDE if (folder / name).is_file()]
    if others:
        logger.info("Name the file to take other weights of this run: %s", ", ".join(others))
    return str(found)


def _saved_recipe(source: str, saved: Mapping[str, Any] | None) -> DictConfig:
    """Return the recipe in a checkpoint.

    Raises:
        WeightsError: it has none.
    """
    text = saved.get("recipe") if saved is not None else None
    if not isinstance(text, str):
        raise WeightsError(
            f"{source}: carries no recipe, as checkpoints of `vitdet train` do; name the one it "
            "was trained with: --config-file PATH|NAME"
        )
    return complete(from_json(text, f"the recipe in {source}"))


def _follow_classes(
    cfg: DictConfig, saved: Mapping[str, Any] | None, source: str, overrides: Sequence[str]
) -> None:
    """Set the number of classes to the checkpoint's, as the data does before training.

    Args:
        cfg: the recipe; changed in place.
        saved: what the checkpoint says of itself.
        source: its file, for messages.
        overrides: changes of the recipe that the user asked for.

    Raises:
        WeightsError: an override asks for another number, or the recipe scores in another way than
            the one in the checkpoint, as COCO and LVIS models do.
    """
    names = list((saved or {}).get("thing_classes") or ())
    key = class_count_key(cfg)
    count = OmegaConf.select(cfg, key)
    if not names:
        return
    chosen = any(override.lstrip("+").startswith(f"{key}=") for override in overrides)
    if count != len(names) and isinstance(count, int) and (chosen or _scores_differ(cfg, saved)):
        shown = ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")
        raise WeightsError(
            f"{source}: trained on {len(names)} classes ({shown}), the recipe has {count}; leave "
            f"--config-file and {key} out (the checkpoint carries its own recipe), or "
            "name the recipe that it was trained with"
        )
    set_num_classes(cfg, len(names), "the checkpoint")


def _scores_differ(cfg: DictConfig, saved: Mapping[str, Any] | None) -> bool:
    """Whether the recipe in the checkpoint, if there is one, turns logits into other scores."""
    text = (saved or {}).get("recipe")
    if not isinstance(text, str):
        return False
    theirs = OmegaConf.create(json.loads(text))
    return _sigmoid_scores(theirs) != _sigmoid_scores(cfg)


def _sigmoid_scores(cfg: DictConfig) -> bool:
    """Whether the box predictors of a recipe score classes independently, as those for LVIS do."""
    heads = OmegaConf.select(cfg, "model.roi_heads")
    if not isinstance(heads, DictConfig):
        return False
    predictors = [heads.get("box_predictor"), *(heads.get("box_predictors") or ())]
    return any(isinstance(p, DictConfig) and bool(p.get("use_sigmoid_ce")) for p in predictors)


def _check_recipe(cfg: DictConfig) -> None:
    """Refuse a recipe that cannot predict, before anything is built.

    Raises:
        RecipeError: it has no test augmentations, no channel order, or too large images.
    """
    check_input_size(cfg)
    _augmentations(cfg)
    _channel_order(cfg)


def _augmentations(cfg: DictConfig) -> Sequence[Any]:
    """Return the nodes of the test augmentations.

    Raises:
        RecipeError: there are none.
    """
    key = "dataloader.test.mapper.augmentations"
    nodes = OmegaConf.select(cfg, key)
    if not OmegaConf.is_list(nodes):
        raise RecipeError(
            f"{key}: expected the list of augmentations that test images go through, got "
            f"{nodes!r}; without it there is no telling what size the model expects"
        )
    return nodes


def _channel_order(cfg: DictConfig) -> str:
    """Return what evaluation reads images as: the mapper's format, else the model's.

    Raises:
        RecipeError: neither says, or it is not a format of pictures that are read here.
    """
    keys = ("dataloader.test.mapper.image_format", "model.input_format")
    values = [OmegaConf.select(cfg, key) for key in keys]
    given = next((value for value in values if value is not None), None)
    if given not in ("RGB", "BGR"):
        raise RecipeError(f"{keys[0]} and {keys[1]}: expected RGB or BGR, got {values}")
    if None not in values and values[0] != values[1]:
        logger.warning(
            "%s=%s, but %s=%s; images are given in the former, as in evaluation",
            keys[0],
            values[0],
            keys[1],
            values[1],
        )
    return str(given)

# SPDX-License-Identifier: Apache-2.0
"""The arguments of loaders that a yacs configuration holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.data.dataset_mapper import DatasetMapper
from detectron2.data.samplers import (
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from torch.utils.data import IterableDataset, Sampler

logger = logging.getLogger(__name__)

Mapper = Callable[[dict[str, Any]], Any]


def _repeat_factor_sampler(dataset: Any, cfg: Any) -> Sampler[int]:
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        dataset, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
    )
    return RepeatFactorTrainingSampler(factors, seed=cfg.SEED)


_SAMPLERS: dict[str, Callable[[Any, Any], Sampler[int]]] = {
    "TrainingSampler": lambda dataset, cfg: TrainingSampler(len(dataset), seed=cfg.SEED),
    "RepeatFactorTrainingSampler": _repeat_factor_sampler,
    "RandomSubsetTrainingSampler": lambda dataset, cfg: RandomSubsetTrainingSampler(
        len(dataset), cfg.DATALOADER.RANDOM_SUBSET_RATIO
    ),
}


def arguments_of_train_loader(
    cfg: Any,
    mapper: Mapper | None = None,
    *,
    dataset: Any = None,
    sampler: Sampler[int] | None = None,
) -> dict[str, Any]:
    """Return the arguments of ``build_detection_train_loader``.

    Args:
        cfg: the yacs configuration.
        mapper: in place of ``DatasetMapper(cfg, True)``.
        dataset: in place of the data sets ``DATASETS.TRAIN``.
        sampler: in place of the one ``DATALOADER.SAMPLER_TRAIN`` names.

    Raises:
        ValueError: an unknown sampler, or keypoints or proposals from files are asked for.
    """
    # The module that uses this one.
    from detectron2.data.build import get_detection_dataset_dicts

    _refuse_what_is_not_bundled(cfg)
    if dataset is None:
        dataset = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
    if sampler is None and not isinstance(dataset, IterableDataset):
        name = cfg.DATALOADER.SAMPLER_TRAIN
        if name not in _SAMPLERS:
            raise ValueError(
                f"DATALOADER.SAMPLER_TRAIN: expected one of {', '.join(_SAMPLERS)}, got {name!r}"
            )
        logger.info("order of the training data: %s", name)
        sampler = _SAMPLERS[name](dataset, cfg)
    return {
        "dataset": dataset,
        "mapper": DatasetMapper(cfg, True) if mapper is None else mapper,
        "sampler": sampler,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
    }


def arguments_of_test_loader(
    cfg: Any, dataset_name: str | Sequence[str], mapper: Mapper | None = None
) -> dict[str, Any]:
    """Return the arguments of ``build_detection_test_loader``.

    Args:
        cfg: the yacs configuration.
        dataset_name: one registered name, or several; those of ``DATASETS.TEST`` are tested one by
            one.
        mapper: in place of ``DatasetMapper(cfg, False)``.

    Raises:
        ValueError: keypoints or proposals from files are asked for.
    """
    from detectron2.data.build import get_detection_dataset_dicts

    _refuse_what_is_not_bundled(cfg)
    dataset: Any = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    is_iterable = isinstance(dataset, IterableDataset)
    return {
        "dataset": dataset,
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "sampler": None if is_iterable else InferenceSampler(len(dataset)),
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


def _refuse_what_is_not_bundled(cfg: Any) -> None:
    for key in ("KEYPOINT_ON", "LOAD_PROPOSALS"):
        if cfg.MODEL[key]:
            raise ValueError(
                f"MODEL.{key}: expected False, because keypoints and proposals from files are not "
                "part of the bundled runtime; install Detectron2 to use them"
            )

# SPDX-License-Identifier: Apache-2.0
"""From names of data sets to loaders.

Batch sizes called *total* count all processes. A loader yields lists of samples, one list per step
and process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.data.common import (
    AspectRatioGroupedDataset,
    DatasetFromList,
    MapDataset,
    ToIterableDataset,
)
from detectron2.data.detection_utils import check_metadata_consistency
from detectron2.data.loader_arguments import arguments_of_test_loader, arguments_of_train_loader
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.utils.comm import get_world_size
from detectron2.utils.env import seed_all_rng
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Sampler

from vitdet_d2.errors import DataError

__all__ = [
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "filter_images_with_only_crowd_annotations",
    "get_detection_dataset_dicts",
    "print_instances_class_histogram",
    "trivial_batch_collator",
    "worker_init_reset_seed",
]

logger = logging.getLogger(__name__)

Record = dict[str, Any]
Mapper = Callable[[Record], Any]
Collate = Callable[[list[Any]], Any]


def trivial_batch_collator(batch: list[Any]) -> list[Any]:
    """Return the batch as it is: images of different sizes do not stack."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed every generator of a loader worker, each worker differently."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)


def filter_images_with_only_crowd_annotations(dataset_dicts: list[Record]) -> list[Record]:
    """Leave out images that have no annotation, or only crowds.

    Args:
        dataset_dicts: the records.

    Returns:
        The others, in the same order.
    """
    kept = [
        record
        for record in dataset_dicts
        if not all(a.get("iscrowd", 0) for a in record["annotations"])
    ]
    num_left_out = len(dataset_dicts) - len(kept)
    num_empty = sum(not record["annotations"] for record in dataset_dicts)
    logger.info(
        "left out %d of %d images: %d without annotations, %d with crowds only",
        num_left_out,
        len(dataset_dicts),
        num_empty,
        num_left_out - num_empty,
    )
    return kept


def print_instances_class_histogram(
    dataset_dicts: list[Record], class_names: Sequence[str]
) -> None:
    """Log how many objects each class has, crowds apart.

    Args:
        dataset_dicts: the records.
        class_names: by class index.

    Raises:
        ValueError: an annotation's class is outside the names; the message names the image.
    """
    counts = np.zeros(len(class_names), dtype=np.int64)
    for record in dataset_dicts:
        for annotation in record["annotations"]:
            category = annotation["category_id"]
            if not 0 <= category < len(class_names):
                raise ValueError(
                    f"{record.get('file_name', 'an image')} has an object of class {category}, "
                    f"the data set has {len(class_names)} classes (0 to {len(class_names) - 1})"
                )
            counts[category] += not annotation.get("iscrowd", 0)
    cells = [f"{name}: {count}" for name, count in zip(class_names, counts, strict=True)]
    width = max(len(cell) for cell in cells) + 2
    per_line = max(1, 96 // width)
    lines = [
        "".join(cell.ljust(width) for cell in cells[i : i + per_line]).rstrip()
        for i in range(0, len(cells), per_line)
    ]
    logger.info("%d objects of %d classes\n%s", counts.sum(), len(counts), "\n".join(lines))


def get_detection_dataset_dicts(
    names: str | Sequence[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: Sequence[str] | None = None,
    check_consistency: bool = True,
) -> list[Record] | Dataset:
    """Load the records of one or several data sets.

    Args:
        names: registered names.
        filter_empty: leave out images without objects to learn from.
        min_keypoints: must be 0.
        proposal_files: must be None.
        check_consistency: require that all data sets have the same classes, and log how many
            objects each has.

    Returns:
        The records, data set after data set; a torch data set where one is registered as such.

    Raises:
        KeyError: a name is not registered.
        DataError: nothing is left to use.
        ValueError: keypoints or proposals are asked for, no name is given, or classes differ.
    """
    if min_keypoints or proposal_files is not None:
        raise ValueError(
            "keypoints and proposal files are not part of the bundled Detectron2 subset; "
            "leave min_keypoints and proposal_files out, or install Detectron2"
        )
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise ValueError("get_detection_dataset_dicts: names is empty; name a data set")
    loaded = {name: DatasetCatalog.get(name) for name in names}
    if isinstance(loaded[names[0]], Dataset):
        return ConcatDataset(loaded.values()) if len(loaded) > 1 else loaded[names[0]]
    for name, part in loaded.items():
        if not part:
            raise DataError(f"data set {name!r} has no images")
    records = [record for name in names for record in loaded[name]]
    total = len(records)
    if "annotations" in records[0]:
        if filter_empty:
            records = filter_images_with_only_crowd_annotations(records)
        if not records:
            raise DataError(
                f"none of the {total} images of {', '.join(names)} has an object that is no crowd; "
                "check the annotations, or keep empty images (filter_empty=False)"
            )
        if check_consistency and hasattr(MetadataCatalog.get(names[0]), "thing_classes"):
            check_metadata_consistency("thing_classes", names)
            print_instances_class_histogram(records, MetadataCatalog.get(names[0]).thing_classes)
    return records


def _per_process_batch(total_batch_size: int | None, single_gpu_batch_size: int | None) -> int:
    if single_gpu_batch_size:
        if total_batch_size:
            raise ValueError("give total_batch_size or single_gpu_batch_size, not both")
        return single_gpu_batch_size
    world_size = get_world_size()
    if not total_batch_size or total_batch_size < 0 or total_batch_size % world_size:
        raise ValueError(
            f"total_batch_size must be a positive multiple of the {world_size} processes, "
            f"got {total_batch_size}"
        )
    return total_batch_size // world_size


def build_batch_data_loader(
    dataset: Any,
    sampler: Sampler | None,
    total_batch_size: int | None,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Collate | None = None,
    drop_last: bool = True,
    single_gpu_batch_size: int | None = None,
    prefetch_factor: int = 2,
    persistent_workers: bool = False,
    pin_memory: bool = False,
    seed: int | None = None,
) -> Iterable[Any]:
    """Make batches of a mapped data set.

    Args:
        dataset: map-style, or iterable.
        sampler: order of a map-style data set; None for an iterable one.
        total_batch_size: over all processes.
        aspect_ratio_grouping: batch wide images with wide ones, tall with tall ones.
        num_workers: loader processes; 0: load in this one.
        collate_fn: what a list of samples becomes; None: stays a list.
        drop_last: leave out a last batch that is not full.
        single_gpu_batch_size: per process, instead of ``total_batch_size``.
        prefetch_factor: batches (with grouping: samples) that a worker loads ahead.
        persistent_workers: keep workers from one iteration over the loader to the next.
        pin_memory: put tensors into page-locked memory.
        seed: of the workers' random numbers; None: from torch's global generator.

    Raises:
        ValueError: the batch size does not divide among the processes; a sampler with an iterable
            data set, or none with another; grouping without ``drop_last``.
    """
    batch_size = _per_process_batch(total_batch_size, single_gpu_batch_size)
    if isinstance(dataset, IterableDataset):
        if sampler is not None:
            raise ValueError("an iterable data set has its own order: sampler must be None")
    else:
        if sampler is None:
            raise ValueError("a map-style data set needs a sampler, for example TrainingSampler")
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    if aspect_ratio_grouping and not drop_last:
        raise ValueError("aspect_ratio_grouping leaves incomplete batches out: drop_last=False")
    loader: DataLoader = DataLoader(
        dataset,
        # With grouping, single samples come out, and batches are made of them afterwards.
        batch_size=1 if aspect_ratio_grouping else batch_size,
        drop_last=drop_last and not aspect_ratio_grouping,
        collate_fn=itemgetter(0) if aspect_ratio_grouping else collate_fn or trivial_batch_collator,
        num_workers=num_workers,
        worker_init_fn=worker_init_reset_seed,
        prefetch_factor=prefetch_factor if num_workers else None,
        persistent_workers=persistent_workers,
        pin_memory=pin_memory,
        generator=generator,
    )
    if not aspect_ratio_grouping:
        return loader
    batches: Any = AspectRatioGroupedDataset(loader, batch_size)
    if collate_fn is not None:
        batches = MapDataset(batches, collate_fn)
    return batches


def _mapped(dataset: Any, mapper: Mapper | None) -> Any:
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    return dataset if mapper is None else MapDataset(dataset, mapper)


@configurable(from_config=arguments_of_train_loader)
def build_detection_train_loader(
    dataset: list[Record] | Dataset,
    *,
    mapper: Mapper | None,
    sampler: Sampler | None = None,
    total_batch_size: int | None,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Collate | None = None,
    drop_last: bool = True,
    single_gpu_batch_size: int | None = None,
    prefetch_factor: int = 2,
    persistent_workers: bool = False,
    pin_memory: bool = False,
    seed: int | None = None,
) -> Iterable[Any]:
    """Make an endless loader of training batches.

    Args:
        dataset: records, or a torch data set of them.
        mapper: makes a sample of a record; None: the records are samples already.
        sampler: the order; None: :class:`TrainingSampler` with a random seed.
        total_batch_size: over all processes.
        aspect_ratio_grouping: see :func:`build_batch_data_loader`, as for all that follows.
        num_workers: loader processes.
        collate_fn: what a list of samples becomes.
        drop_last: leave out a last batch that is not full.
        single_gpu_batch_size: per process, instead of ``total_batch_size``.
        prefetch_factor: what a worker loads ahead.
        persistent_workers: keep workers.
        pin_memory: put tensors into page-locked memory.
        seed: of the workers' random numbers (not of the order).
    """
    mapped = _mapped(dataset, mapper)
    if sampler is None and not isinstance(mapped, IterableDataset):
        sampler = TrainingSampler(len(mapped))
    return build_batch_data_loader(
        mapped,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        drop_last=drop_last,
        single_gpu_batch_size=single_gpu_batch_size,
        prefetch_factor=prefetch_factor,
        persistent_workers=persistent_workers,
        pin_memory=pin_memory,
        seed=seed,
    )


@configurable(from_config=arguments_of_test_loader)
def build_detection_test_loader(
    dataset: list[Record] | Dataset,
    *,
    mapper: Mapper | None,
    sampler: Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Collate | None = None,
) -> DataLoader:
    """Make a loader that visits every record once, over all processes.

    Args:
        dataset: records, or a torch data set of them.
        mapper: makes a sample of a record; None: the records are samples already.
        sampler: the order; None: :class:`InferenceSampler`, or an iterable data set's own.
        batch_size: per process.
        num_workers: loader processes.
        collate_fn: what a list of samples becomes; None: stays a list.

    Raises:
        ValueError: a sampler with an iterable data set.
    """
    mapped = _mapped(dataset, mapper)
    if isinstance(mapped, IterableDataset):
        if sampler is not None:
            raise ValueError("an iterable data set has its own order: sampler must be None")
    elif sampler is None:
        sampler = InferenceSampler(len(mapped))
    return DataLoader(
        mapped,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate_fn or trivial_batch_collator,
    )

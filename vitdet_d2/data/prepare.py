# SPDX-License-Identifier: Apache-2.0
"""Everything about a recipe's data that is settled before any work starts.

Data sets named by ``data.*`` are registered and put into the recipe, all data sets in use are
checked, and the number of classes follows the annotation files. Recipe keys read, all optional:
``data.{train_json, train_images, val_json, val_images, keep_empty}``,
``dataloader.{train,test}.dataset.{names, filter_empty}``,
``dataloader.evaluator.{_target_, dataset_name}``, ``model.roi_heads.num_classes`` and the same key
of its heads, their ``fed_loss_num_classes``, ``model.num_classes``, and what ``mask_demand`` reads.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from ..checks import CocoReport
from ..errors import DataError
from .cache import cache_folder
from .digits import build_digits, register_digits
from .lvis import complete_registration
from .lvis_recipe import check_evaluators, limit_federated_classes
from .mask_demand import check_evaluation_masks, check_training_masks
from .registration import (
    CheckedData,
    CocoFiles,
    Split,
    check_files,
    find_coco_files,
    register_coco_json,
)

logger = logging.getLogger(__name__)

DIGITS = ("digits_train", "digits_val")
LOADERS: dict[Split, str] = {"train": "train", "val": "test"}


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """The data sets of a run, and the classes that they share."""

    train_names: tuple[str, ...]
    test_names: tuple[str, ...]
    # By class index. Empty where the data set does not say.
    thing_classes: tuple[str, ...]
    # Category id of each class in the annotation file, in the same order.
    dataset_ids: tuple[int, ...]
    # Images of one epoch; None where a data set has no COCO annotation file to tell.
    num_train_images: int | None = None


@dataclass(frozen=True, kw_only=True)
class _Used:
    """One data set in use; ``report`` is None where there is no COCO annotation file to check."""

    name: str
    split: Split
    classes: tuple[str, ...]
    ids: tuple[int, ...]
    report: CocoReport | None


def prepare_datasets(cfg: DictConfig, *, training: bool = True) -> DatasetInfo:
    """Register, check and wire up the data sets of a recipe, once per process before anything else.

    Args:
        cfg: the recipe with all overrides; changed in place.
        training: False leaves the training data out, so that an evaluation does not need it.

    Returns:
        Names and classes of the data sets.

    Raises:
        DataError: a data set, annotation file or image is missing or cannot be used, or the
            classes of training and evaluation differ.
    """
    splits: list[Split] = ["train", "val"] if training else ["val"]
    used: list[_Used] = []
    for split in splits:
        _apply_overrides(cfg, split)
        used.extend(_inspect(name, split) for name in _names(cfg, split))
    _apply_keep_empty(cfg)
    first = next((data for data in used if data.classes), None)
    for data in used:
        if first is not None and data.classes:
            _compare(first, data)
    check_evaluators(cfg, (data.report for data in used if data.split == "val" and data.report))
    if training:
        _check_training_data(cfg, used)
    scored = [data.report for data in used if data.split == "val" and data.report is not None]
    check_evaluation_masks(cfg, scored)
    for name in sorted({data.name for data in used}):
        _log_data(next(data for data in used if data.name == name))
    if first is not None:
        _log_classes(first)
        set_num_classes(cfg, len(first.classes), "the data")
        if training and first.report is not None:
            limit_federated_classes(_class_counts(cfg), first.report)
    return DatasetInfo(
        train_names=tuple(data.name for data in used if data.split == "train"),
        test_names=tuple(data.name for data in used if data.split == "val"),
        thing_classes=first.classes if first else (),
        dataset_ids=first.ids if first else (),
        num_train_images=_num_train_images(cfg, used),
    )


def _num_train_images(cfg: DictConfig, used: Sequence[_Used]) -> int | None:
    reports = [data.report for data in used if data.split == "train"]
    known = [report for report in reports if report is not None]
    if not known or len(known) < len(reports):
        return None
    loader = _loader(cfg, "train")
    keeps_empty = loader is not None and loader.get("filter_empty") is False
    return sum(report.num_images if keeps_empty else report.num_usable for report in known)


def _loader(cfg: DictConfig, split: Split) -> DictConfig | None:
    node = OmegaConf.select(cfg, f"dataloader.{LOADERS[split]}.dataset")
    return node if isinstance(node, DictConfig) and "names" in node else None


def _names(cfg: DictConfig, split: Split) -> list[str]:
    """Names in the recipe; empty where its loader has none, such as one over a plain list.

    Raises:
        DataError: the names are empty.
    """
    loader = _loader(cfg, split)
    if loader is None:
        return []
    names = loader.names
    if names is None or not len(names):
        raise DataError(
            f"no data set named in dataloader.{LOADERS[split]}.dataset.names; "
            f"name one, or set data.{split}_json"
        )
    return [names] if isinstance(names, str) else [str(name) for name in names]


def _apply_overrides(cfg: DictConfig, split: Split) -> None:
    """Register what ``data.{split}_*`` names, and let the recipe use it.

    Raises:
        DataError: the files cannot be used, or the recipe has no place for them.
    """
    json_file = OmegaConf.select(cfg, f"data.{split}_json")
    images = OmegaConf.select(cfg, f"data.{split}_images")
    if not json_file and not images:
        return
    loader = _loader(cfg, split)
    if loader is None:
        raise DataError(
            f"data.{split}_json cannot be used: the recipe has no "
            f"dataloader.{LOADERS[split]}.dataset.names; remove one of the two"
        )
    files = find_coco_files(json_file or None, images or None, split)
    name = _name_of(files)
    register_coco_json(name, files.json_file, files.image_root)
    loader.names = name
    if split == "val":
        _point_evaluators(cfg, name)


def _name_of(files: CocoFiles) -> str:
    """A name that is legible, fit for a file name, and different for different files."""
    stem = files.json_file.stem
    label = files.json_file.parent.name if stem.startswith("_") else stem
    label = re.sub(r"[^A-Za-z0-9]+", "_", label).strip("_") or "data"
    both = f"{files.json_file.resolve()}\n{files.image_root.resolve()}"
    return f"{label}_{hashlib.sha256(both.encode()).hexdigest()[:6]}"


def _point_evaluators(cfg: DictConfig, name: str) -> None:
    """Name the data set in evaluators that do not refer to the loader's name themselves."""
    evaluators = OmegaConf.select(cfg, "dataloader.evaluator")
    nodes = evaluators if isinstance(evaluators, ListConfig) else [evaluators]
    for node in nodes:
        if isinstance(node, DictConfig) and "dataset_name" in node:
            if not OmegaConf.is_interpolation(node, "dataset_name"):
                node.dataset_name = name


def _apply_keep_empty(cfg: DictConfig) -> None:
    keep_empty = OmegaConf.select(cfg, "data.keep_empty")
    loader = _loader(cfg, "train")
    if keep_empty is not None and loader is not None:
        OmegaConf.update(loader, "filter_empty", not keep_empty, force_add=True)


def _inspect(name: str, split: Split) -> _Used:
    """Check one data set and read its classes.

    Raises:
        DataError: it is not registered, or cannot be used.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog

    if name in DIGITS:
        register_digits()
        build_digits(cache_folder("digits"))
    if name not in DatasetCatalog.list():
        near = difflib.get_close_matches(name, DatasetCatalog.list(), n=3)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise DataError(
            f"data set {name!r} is not registered{hint}; correct the name, or name your own "
            f"files with data.{split}_json and data.{split}_images"
        )
    metadata = MetadataCatalog.get(name)
    checked = _check_registered(name, split)
    said = tuple(metadata.get("thing_classes") or ())
    mapping = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    ids = tuple(sorted(mapping, key=lambda number: mapping[number]))
    if checked is None:
        return _Used(name=name, split=split, classes=said, ids=ids, report=None)
    report = checked.report
    if said and said != report.category_names:
        difference = _difference(report.category_names, said)
        raise DataError(
            f"data set {name!r} is registered with other classes than those of {report.source}: "
            f"{difference}; use the file it is meant for, or data.{split}_json for another one"
        )
    if metadata.get("evaluator_type") == "lvis":
        complete_registration(name, report, str(checked.json_file), str(checked.image_root))
    return _Used(
        name=name,
        split=split,
        classes=report.category_names,
        ids=report.category_ids,
        report=report,
    )


def _check_registered(name: str, split: Split) -> CheckedData | None:
    """Check the files of a registered data set, if it is one with COCO annotations.

    Raises:
        DataError: they cannot be used.
    """
    from detectron2.data import MetadataCatalog
    from detectron2.utils.file_io import PathManager

    metadata = MetadataCatalog.get(name)
    json_file, image_root = metadata.get("json_file"), metadata.get("image_root")
    if json_file is None:
        return None
    path = Path(PathManager.get_local_path(json_file))
    if not path.is_file():
        raise DataError(
            f"data set {name!r}: annotation file {path} not found; set DETECTRON2_DATASETS to the "
            f"folder that holds it, or name your own files with data.{split}_json"
        )
    kind = metadata.get("evaluator_type")
    if kind not in ("coco", "lvis") or image_root is None:
        return None
    if not Path(image_root).is_dir():
        raise DataError(
            f"data set {name!r}: image folder {image_root} not found; set DETECTRON2_DATASETS to "
            f"the folder that holds it, or name your own with data.{split}_images"
        )
    checked = check_files(CocoFiles(json_file=path, image_root=Path(image_root)), repair=False)
    if kind == "lvis" and checked.report.lvis is None:
        raise DataError(
            f"data set {name!r}: {path} is not in LVIS's format: its categories have no "
            "'frequency' and its images no 'neg_category_ids'; put LVIS's own file there"
        )
    return checked


def _compare(first: _Used, other: _Used) -> None:
    """Refuse two data sets whose class indices mean different things.

    Raises:
        DataError: they do, with what differs.
    """
    if first.classes != other.classes:
        raise DataError(
            f"the classes of {first.name!r} ({first.split}) and {other.name!r} ({other.split}) "
            f"differ: {_difference(first.classes, other.classes)}; give both annotation files the "
            "same categories in the same order of ids"
        )


def _difference(first: Sequence[str], second: Sequence[str]) -> str:
    """What differs between two class lists, in one line."""
    parts = []
    for label, one, two in (("first", first, second), ("second", second, first)):
        only = [name for name in one if name not in two]
        if only:
            listed = ", ".join(map(repr, only[:10])) + (", ..." if len(only) > 10 else "")
            parts.append(f"only in the {label}: {listed}")
    if not parts:
        pairs = enumerate(zip(first, second, strict=False))
        moved = [f"class {i} is {a!r} and {b!r}" for i, (a, b) in pairs if a != b]
        parts = moved[:5] + (["..."] if len(moved) > 5 else [])
    return "; ".join(parts) or f"{len(first)} and {len(second)} classes"


def _check_training_data(cfg: DictConfig, used: list[_Used]) -> None:
    """Training needs instances, and masks in a form that the mapper takes.

    Raises:
        DataError: there are none.
    """
    reports = [data.report for data in used if data.split == "train"]
    known = [report for report in reports if report is not None]
    if not known:
        return
    if len(known) == len(reports) and not any(report.num_usable for report in known):
        details = "; ".join(f"{report.source}: {report.breakdown}" for report in known)
        raise DataError(f"nothing to train on: {details}; annotate some images")
    check_training_masks(cfg, known)


def _log_data(data: _Used) -> None:
    if data.report is None:
        logger.info("data set %s: no COCO annotation file to check", data.name)
        return
    logger.info("data set %s: %s: %s", data.name, data.report.source, data.report.breakdown)
    unused = data.report.unused_classes
    if unused:
        listed = ", ".join(unused[:10]) + (", ..." if len(unused) > 10 else "")
        effect = "cannot be learnt from it" if data.split == "train" else "have no AP"
        text = "data set %s: %d classes have no instance and %s: %s"
        logger.warning(text, data.name, len(unused), effect, listed)


def _log_classes(data: _Used) -> None:
    """Name the classes; the log file gets the table category id -> class index -> name."""
    shown = ", ".join(data.classes[:20]) + (", ..." if len(data.classes) > 20 else "")
    logger.info("%d classes: %s", len(data.classes), shown)
    ids: Sequence[int | str] = data.ids or ["-"] * len(data.classes)
    rows = enumerate(zip(ids, data.classes, strict=True))
    table = "\n".join(f"{number!s:>8} {index:>6}  {name}" for index, (number, name) in rows)
    logger.debug("Classes:\n      id  index  name\n%s", table)


def set_num_classes(cfg: DictConfig, num_classes: int, owner: str) -> None:
    """Write the number of classes wherever the model has it, except through a reference.

    A mask head with one class, in a detector with more, has one mask for all of them, and keeps it.

    Args:
        cfg: the recipe; changed in place.
        num_classes: how many.
        owner: what has so many classes, for the log.
    """
    one_for_all = _agnostic_mask_head(cfg)
    for node in _class_counts(cfg):
        settled = node is one_for_all or node.num_classes == num_classes
        if settled or OmegaConf.is_interpolation(node, "num_classes"):
            continue
        logger.info(
            "%s has %d classes; the recipe's num_classes=%s is replaced",
            owner,
            num_classes,
            node.num_classes,
        )
        node.num_classes = num_classes


def class_count_key(cfg: DictConfig) -> str:
    """Return the recipe key that says how many classes the model tells apart.

    Args:
        cfg: the recipe.
    """
    keys = [f"{path}.num_classes" for path in ("model.roi_heads", "model", "model.head")]
    return next((key for key in keys if OmegaConf.select(cfg, key) is not None), keys[0])


def _agnostic_mask_head(cfg: DictConfig) -> DictConfig | None:
    """The mask head whose masks are meant for any class, as Detectron2's recipes say it."""
    head = OmegaConf.select(cfg, "model.roi_heads.mask_head")
    if not isinstance(head, DictConfig) or OmegaConf.is_interpolation(head, "num_classes"):
        return None
    several = OmegaConf.select(cfg, "model.roi_heads.num_classes") != 1
    return head if several and head.get("num_classes") == 1 else None


def _class_counts(cfg: DictConfig) -> Iterator[DictConfig]:
    """Nodes of the model with a ``num_classes``: itself, its (RoI) heads, their predictors."""
    paths = ["model", "model.head", "model.roi_heads"]
    parts = ("box_predictor", "box_predictors", "mask_head")
    paths += [f"model.roi_heads.{part}" for part in parts]
    for path in paths:
        found: Any = OmegaConf.select(cfg, path)
        for node in found if isinstance(found, ListConfig) else [found]:
            if isinstance(node, DictConfig) and node.get("num_classes") is not None:
                yield node

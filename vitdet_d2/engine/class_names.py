# SPDX-License-Identifier: Apache-2.0
"""What the class indices of a model mean, from the first place that says so.

Places, in order: the checkpoint; the annotation file that the recipe names with ``data.*``; the
data set that the recipe names, where it is registered (LVIS: and its file is there); else numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from vitdet_d2.checks.coco_file import read_json
from vitdet_d2.data.digits import register_digits
from vitdet_d2.data.prepare import DIGITS
from vitdet_d2.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """Names and category ids by class index.

    Attributes:
        names: one per class.
        category_ids: of the data set, in the same order.
        source: where they come from, for a person.
        is_known: whether the names are more than numbers.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    source: str
    is_known: bool = True


def find_classes(cfg: DictConfig, saved: Mapping[str, Any] | None, num_classes: int) -> ClassTable:
    """Return what a model's classes are called.

    Args:
        cfg: the recipe; reads ``data.{val,train}_json`` and
            ``dataloader.{test,train}.dataset.names``.
        saved: the entry ``vitdet_d2`` of the checkpoint; None where it has none.
        num_classes: of the model. A list of another length is not its list.
    """
    for table in (_from_checkpoint(saved), *_from_files(cfg), *_from_registered(cfg)):
        if table is not None and len(table.names) == num_classes:
            return table
    return ClassTable(
        names=tuple(f"class {index}" for index in range(num_classes)),
        category_ids=tuple(range(num_classes)),
        source="neither the weights nor the recipe's data set name the classes",
        is_known=False,
    )


def _table(names: Any, ids: Any, source: str) -> ClassTable | None:
    if not names:
        return None
    known = tuple(int(number) for number in ids or ())
    return ClassTable(
        names=tuple(str(name) for name in names),
        category_ids=known if len(known) == len(names) else tuple(range(len(names))),
        source=source,
    )


def _from_checkpoint(saved: Mapping[str, Any] | None) -> ClassTable | None:
    if saved is None:
        return None
    return _table(saved.get("thing_classes"), saved.get("dataset_ids"), "the checkpoint")


def _from_files(cfg: DictConfig) -> list[ClassTable | None]:
    tables = []
    for split in ("val", "train"):
        tables.append(_from_file(OmegaConf.select(cfg, f"data.{split}_json")))
    return tables


def _from_file(named: str | None) -> ClassTable | None:
    """Read the categories of an annotation file; None where there is nothing to read."""
    if not named or not Path(named).is_file():
        return None
    try:
        content = read_json(Path(named))
    except DataError:  # predicting does not need it
        return None
    rows = content.get("categories") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return None
    rows = sorted((row for row in rows if {"id", "name"} <= row.keys()), key=lambda row: row["id"])
    return _table([row["name"] for row in rows], [row["id"] for row in rows], str(named))


def _from_registered(cfg: DictConfig) -> list[ClassTable | None]:
    tables = []
    for loader in ("test", "train"):
        names = OmegaConf.select(cfg, f"dataloader.{loader}.dataset.names")
        for name in [names] if isinstance(names, str) else list(names or ()):
            if name in DIGITS:
                register_digits()
            if name not in DatasetCatalog.list():
                continue
            metadata = MetadataCatalog.get(name)
            index = metadata.get("thing_dataset_id_to_contiguous_id") or {}
            ids = sorted(index, key=lambda number: index[number])
            known = _table(metadata.get("thing_classes"), ids, f"data set {name}")
            # Names of LVIS are in its annotation file alone.
            tables.append(known or _from_file(metadata.get("json_file")))
    return tables

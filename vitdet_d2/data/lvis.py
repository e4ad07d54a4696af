# SPDX-License-Identifier: Apache-2.0
"""Data sets in LVIS's format: records and metadata, from nothing but the annotation file.

Names, arguments and records are those of Detectron2's ``data.datasets.lvis``. Unlike there, class
names and frequencies come from the file, so that any file in LVIS's format will do, and the package
``lvis`` is not needed.
"""

from __future__ import annotations

import functools
import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from vitdet_d2.checks import CocoReport, check_coco_annotations
from vitdet_d2.checks.coco_file import load_document
from vitdet_d2.checks.lvis_entries import FEDERATED_KEYS, is_lvis
from vitdet_d2.errors import DataError

logger = logging.getLogger(__name__)

Record = dict[str, Any]


@dataclass(frozen=True)
class LvisSource:
    """Loads one registered annotation file; equal sources are the same data set."""

    json_file: str
    image_root: str
    name: str

    def __call__(self) -> list[Record]:
        """Return the records."""
        return load_lvis_json(self.json_file, self.image_root, self.name)


def register_lvis_instances(
    name: str,
    metadata: dict[str, Any],
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
) -> None:
    """Register an annotation file in LVIS's format.

    Args:
        name: for example ``lvis_v1_train``.
        metadata: facts beyond the two files; may be empty.
        json_file: the annotation file; read when it is first used.
        image_root: the folder that holds ``train2017`` and the like, or the files themselves where
            the images have a ``file_name`` and no ``coco_url``.
    """
    json_file, image_root = os.fspath(json_file), os.fspath(image_root)
    DatasetCatalog.register(name, LvisSource(json_file, image_root, name))
    MetadataCatalog.get(name).set(
        json_file=json_file, image_root=image_root, evaluator_type="lvis", **metadata
    )


def complete_registration(name: str, report: CocoReport, json_file: str, image_root: str) -> None:
    """Let a data set that someone registered be used without the package ``lvis``, and by its file.

    Detectron2's own loader needs the package, and its metadata lack category ids. Other loaders,
    and metadata that are set, stay as they are.

    Args:
        name: of the data set.
        report: on its file.
        json_file: the file.
        image_root: of its images.
    """
    loader = DatasetCatalog[name]
    if str(getattr(loader, "__module__", "")).startswith("detectron2.data.datasets"):
        DatasetCatalog.remove(name)
        DatasetCatalog.register(name, LvisSource(json_file, image_root, name))
    metadata = MetadataCatalog.get(name)
    facts = lvis_metadata(report).items()
    metadata.set(**{key: value for key, value in facts if metadata.get(key) is None})


def load_lvis_json(
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    dataset_name: str | None = None,
    extra_annotation_keys: Sequence[str] | None = None,
) -> list[Record]:
    """Load records from an annotation file in LVIS's format, without looking at the images.

    Args:
        json_file: its path.
        image_root: the folder that the images' paths are relative to.
        dataset_name: where to note the metadata of :func:`get_lvis_instances_meta`; None: nowhere.
        extra_annotation_keys: what else to copy from the annotations, as it is.

    Returns:
        The records, by image id; ``category_id`` counts from 0 in the order of the file's ids.

    Raises:
        DataError: the file is missing, is not in LVIS's format, or breaks it.
    """
    report = check_coco_annotations(PathManager.get_local_path(os.fspath(json_file)), None)
    metadata = lvis_metadata(report)
    for repair in report.repairs:
        logger.warning("%s: %s", json_file, repair)
    if dataset_name is not None:
        MetadataCatalog.get(dataset_name).set(**metadata)
    records = _records(report, os.fspath(image_root), tuple(extra_annotation_keys or ()))
    logger.info("%s: %s", json_file, report.breakdown)
    return records


def _records(report: CocoReport, image_root: str, extra_keys: Sequence[str]) -> list[Record]:
    index = report.class_index
    by_image = defaultdict(list)
    for source in report.document["annotations"]:
        annotation = {
            "bbox": source["bbox"],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": index[source["category_id"]],
        }
        if source.get("segmentation"):
            annotation["segmentation"] = source["segmentation"]
        annotation.update((key, source[key]) for key in extra_keys)
        by_image[source["image_id"]].append(annotation)
    return [
        {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            **{key: image.get(key, []) for key in FEDERATED_KEYS},
            "annotations": by_image[image["id"]],
        }
        for image in sorted(report.document["images"], key=lambda image: image["id"])
    ]


def lvis_metadata(report: CocoReport) -> dict[str, Any]:
    """Return what is known about the classes of a checked file.

    Args:
        report: of a file in LVIS's format.

    Returns:
        ``thing_classes``, ``thing_dataset_id_to_contiguous_id``, and ``class_image_count``, a list
        of ``{"id", "image_count"}``.

    Raises:
        DataError: the file is in another format.
    """
    if report.lvis is None:
        raise DataError(
            f"{report.source} is not in LVIS's format: its categories have no 'frequency' and its "
            "images no 'neg_category_ids'; register it as a COCO data set"
        )
    counts = zip(report.category_ids, report.lvis.image_counts, strict=True)
    return {
        "thing_classes": list(report.category_names),
        "thing_dataset_id_to_contiguous_id": report.class_index,
        "class_image_count": [{"id": number, "image_count": count} for number, count in counts],
    }


def get_lvis_instances_meta(dataset_name: str) -> dict[str, Any]:
    """Return the metadata of a registered data set, from its annotation file.

    Args:
        dataset_name: for example ``lvis_v1_train``; ``lvis_v1`` stands for whichever of its parts
            is there.

    Returns:
        See :func:`lvis_metadata`.

    Raises:
        ValueError: no data set of that name is registered.
        DataError: its file is missing, or not in LVIS's format.
    """
    names = (dataset_name, f"{dataset_name}_train", f"{dataset_name}_val")
    files = {
        name: Path(PathManager.get_local_path(MetadataCatalog.get(name).json_file))
        for name in names
        if name in DatasetCatalog.list()
    }
    if not files:
        raise ValueError(f"no data set {dataset_name!r} with LVIS's annotations is registered")
    path = next((path for path in files.values() if path.is_file()), None)
    if path is None:
        missing = ", ".join(map(str, files.values()))
        raise DataError(
            f"data set {dataset_name!r}: annotation file {missing} not found; set "
            "DETECTRON2_DATASETS to the folder that holds it"
        )
    status = path.stat()
    return dict(_read_metadata(path, status.st_size, status.st_mtime_ns))


@functools.lru_cache(maxsize=8)
def _read_metadata(path: Path, size: int, modified: int) -> dict[str, Any]:  # noqa: ARG001
    """Read the categories only, where they say all that is needed."""
    _, document = load_document(path)
    if is_lvis(document) and all("image_count" in c for c in document["categories"]):
        document = {**document, "images": document["images"][:1], "annotations": []}
    return lvis_metadata(check_coco_annotations(document, None))

# SPDX-License-Identifier: Apache-2.0
"""COCO annotation files to records, and back."""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode, PolygonMasks
from detectron2.utils.file_io import PathManager

from vitdet_d2.checks import CocoReport, check_coco_annotations

__all__ = ["convert_to_coco_json", "load_coco_json", "register_coco_instances"]

logger = logging.getLogger(__name__)

Record = dict[str, Any]


@dataclass(frozen=True)
class _CocoSource:
    """Loads one registered annotation file; equal sources are the same data set."""

    json_file: str
    image_root: str
    name: str

    def __call__(self) -> list[Record]:
        return load_coco_json(self.json_file, self.image_root, self.name)


def register_coco_instances(
    name: str,
    metadata: dict[str, Any],
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
) -> None:
    """Register an annotation file in COCO's format; doing so twice changes nothing.

    Args:
        name: for example ``coco_2017_train``.
        metadata: facts beyond the two files; may be empty.
        json_file: the annotation file; read when it is first used.
        image_root: the folder that its ``file_name`` entries are relative to.

    Raises:
        ValueError: the name belongs to other files.
    """
    json_file, image_root = os.fspath(json_file), os.fspath(image_root)
    DatasetCatalog.register(name, _CocoSource(json_file, image_root, name))
    MetadataCatalog.get(name).set(
        json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata
    )


def load_coco_json(
    json_file: str,
    image_root: str | os.PathLike[str],
    dataset_name: str | None = None,
    extra_annotation_keys: Sequence[str] | None = None,
) -> list[Record]:
    """Load records from an annotation file in COCO's format, without looking at the images.

    Args:
        json_file: its path.
        image_root: the folder that its ``file_name`` entries are relative to.
        dataset_name: where to note ``thing_classes`` and ``thing_dataset_id_to_contiguous_id``;
            ``category_id`` then counts from 0 without gaps. None: ids stay as they are in the file.
        extra_annotation_keys: what else to copy from the annotations, as it is.

    Returns:
        The records, by image id. Crowds are kept (``iscrowd``: 1); keypoints are not.

    Raises:
        DataError: the file is missing, or breaks COCO's format; the message names the entry.
        ValueError: the name has other classes already.
    """
    report = check_coco_annotations(PathManager.get_local_path(os.fspath(json_file)), None)
    for repair in report.repairs:
        logger.warning("%s: %s", json_file, repair)
    class_index = None
    if dataset_name is not None:
        class_index = report.class_index
        MetadataCatalog.get(dataset_name).set(
            thing_classes=list(report.category_names),
            thing_dataset_id_to_contiguous_id=dict(class_index),
        )
    keys = ("iscrowd", "bbox", "category_id", *(extra_annotation_keys or ()))
    records = _records(report, os.fspath(image_root), class_index, keys)
    logger.info("%s: %s", json_file, report.breakdown)
    return records


def _records(
    report: CocoReport,
    image_root: str,
    class_index: dict[int, int] | None,
    keys: Sequence[str],
) -> list[Record]:
    by_image = defaultdict(list)
    for annotation in report.document.get("annotations", ()):
        by_image[annotation["image_id"]].append(annotation)
    records = []
    for image in sorted(report.document["images"], key=lambda image: image["id"]):
        annotations = []
        for source in by_image[image["id"]]:
            annotation = {key: source[key] for key in keys if key in source}
            annotation["bbox_mode"] = BoxMode.XYWH_ABS
            segmentation = _usable_segmentation(source.get("segmentation"))
            if segmentation is not None:
                annotation["segmentation"] = segmentation
            if class_index is not None:
                annotation["category_id"] = class_index[source["category_id"]]
            annotations.append(annotation)
        records.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image["id"],
                "annotations": annotations,
            }
        )
    return records


def _usable_segmentation(segmentation: Any) -> Any:
    """Return polygons as they are, run lengths compressed, None where there is nothing."""
    if not segmentation:
        return None
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, *segmentation["size"])
    return segmentation


def convert_to_coco_json(dataset_name: str, output_file: str, allow_cached: bool = True) -> None:
    """Write a registered data set as an annotation file in COCO's format.

    The file is replaced, in one step, whenever its content would differ: a file of an earlier
    version of the data set is never used.

    Args:
        dataset_name: has records with annotations, and ``thing_classes``.
        output_file: where; its folder is made.
        allow_cached: leave a file alone that has the right content already.
    """
    content = json.dumps(convert_to_coco_dict(dataset_name), sort_keys=True).encode()
    path = Path(output_file)
    if allow_cached and path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)
    logger.info("wrote the annotations of %s to %s", dataset_name, path)


def convert_to_coco_dict(dataset_name: str) -> dict[str, Any]:
    """Return a registered data set in COCO's format, with its own category ids where it has any.

    Args:
        dataset_name: has records with annotations, and ``thing_classes``.

    Returns:
        ``info``, ``licenses``, ``images``, ``categories``, ``annotations`` (ids from 1, in order),
        of plain types.
    """
    records = DatasetCatalog.get(dataset_name)  # first: loading may set the metadata
    metadata = MetadataCatalog.get(dataset_name)
    class_index = metadata.get("thing_dataset_id_to_contiguous_id") or {
        i: i for i in range(len(metadata.thing_classes))
    }
    category_ids = {index: category for category, index in class_index.items()}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for position, record in enumerate(records):
        image_id = record.get("image_id", position)
        images.append(
            {
                "id": image_id,
                "width": int(record["width"]),
                "height": int(record["height"]),
                "file_name": str(record["file_name"]),
            }
        )
        for annotation in record.get("annotations", ()):
            entry = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": int(category_ids[annotation["category_id"]]),
            }
            annotations.append(entry | _coco_geometry(annotation))
    return {
        "info": {"description": f"{dataset_name}, converted to COCO's format"},
        "licenses": [],
        "images": images,
        "categories": [
            {"id": category_ids[index], "name": name}
            for index, name in enumerate(metadata.thing_classes)
        ],
        "annotations": annotations,
    }


def _coco_geometry(annotation: dict[str, Any]) -> dict[str, Any]:
    """Return ``bbox``, ``area``, ``iscrowd`` and perhaps ``segmentation``.

    The box is XYWH; one with an angle stays as it is (XYWHA), as tools for such boxes expect.
    """
    box = np.asarray(annotation["bbox"], dtype=np.float64).tolist()
    if annotation["bbox_mode"] != BoxMode.XYWHA_ABS:
        box = BoxMode.convert(box, annotation["bbox_mode"], BoxMode.XYWH_ABS)
    geometry: dict[str, Any] = {
        # three decimals, as COCO's own files have at most
        "bbox": [round(float(value), 3) for value in box],
        "area": float(box[2] * box[3]),  # in both conventions
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        geometry["area"] = float(mask_util.area(segmentation))
        counts = segmentation["counts"]
        geometry["segmentation"] = {
            "size": [int(side) for side in segmentation["size"]],
            "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
        }
    elif segmentation:
        polygons = [np.asarray(p, dtype=np.float64) for p in segmentation]
        geometry["area"] = float(PolygonMasks([polygons]).area()[0])
        geometry["segmentation"] = [p.reshape(-1).tolist() for p in polygons]
    return geometry

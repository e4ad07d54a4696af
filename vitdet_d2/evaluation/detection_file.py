# SPDX-License-Identifier: Apache-2.0
"""One COCO-format file of detections, written while they are made.

The file is a complete COCO data set (``pycocotools.coco.COCO`` opens it) whose annotations have a
``score``; they are also what ``COCO.loadRes`` takes as a list. Beside COCO's keys it has
``failed``: the pictures that could not be used, each with its ``reason``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pycocotools.mask as mask_util
from detectron2.structures import Instances

from vitdet_d2.evaluation.result_rows import instances_to_rows


class BinaryFile(Protocol):
    """What a file must be able to do."""

    def write(self, data: bytes, /) -> int:
        """Append bytes."""


class DetectionFile:
    """Writes annotations as they come, and keeps only the short list of pictures in memory."""

    def __init__(
        self,
        file: BinaryFile,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        info: Mapping[str, Any],
    ) -> None:
        """Write the head of the file.

        Args:
            file: open for writing, empty.
            class_names: by class index.
            category_ids: of the data set, in the same order.
            info: where the detections come from; plain values.
        """
        self._file = file
        self._category_ids = list(category_ids)
        self._images: list[dict[str, Any]] = []
        self._failed: list[dict[str, str]] = []
        self.num_detections = 0
        pairs = zip(category_ids, class_names, strict=True)
        categories = [{"id": number, "name": name} for number, name in pairs]
        self._put('{"info": ', dict(info), ',\n"categories": ', categories, ',\n"annotations": [')

    @property
    def num_images(self) -> int:
        """Pictures with detections so far, those with none included."""
        return len(self._images)

    @property
    def failed(self) -> Sequence[Mapping[str, str]]:
        """``file_name`` and ``reason`` of each picture that could not be used."""
        return tuple(self._failed)

    def add(
        self, file_name: str, instances: Instances, *, notes: Sequence[str] = (), picture: str = ""
    ) -> None:
        """Write the detections of one picture.

        Args:
            file_name: of the picture.
            instances: on the CPU, in the pixels of the upright picture.
            notes: what was done to the picture when it was read.
            picture: file name of the drawing; empty: none.
        """
        height, width = instances.image_size
        image_id = len(self._images) + 1
        image: dict[str, Any] = {"id": image_id, "file_name": file_name}
        image |= {"width": width, "height": height}
        if picture:
            image["picture"] = picture
        if notes:
            image["notes"] = list(notes)
        rows: list[Any] = []
        for detection in instances_to_rows(instances, image_id):
            rows += [",\n" if self.num_detections else "\n", self._annotation(detection)]
        # At once, so that an interruption leaves no half of a picture.
        self._put(*rows)
        self._images.append(image)

    def _annotation(self, detection: dict[str, Any]) -> dict[str, Any]:
        self.num_detections += 1
        mask = detection.get("segmentation")
        _, _, width, height = detection["bbox"]
        return {
            "id": self.num_detections,
            **detection,
            "category_id": self._category_ids[detection["category_id"]],
            "area": width * height if mask is None else float(mask_util.area(mask)),
            "iscrowd": 0,
        }

    def add_failed(self, file_name: str, reason: str) -> None:
        """Note a picture that could not be used.

        Args:
            file_name: of the picture.
            reason: why.
        """
        self._failed.append({"file_name": file_name, "reason": reason})

    def finish(self) -> None:
        """Write the end of the file, after which it is valid JSON."""
        self._put("\n],\n", '"images": ', self._images, ',\n"failed": ', self._failed, "}\n")

    def _put(self, *parts: Any) -> None:
        """Write texts as they are, and everything else as JSON."""
        # NaN is no JSON: a reader in another language would refuse the whole file.
        texts = [p if isinstance(p, str) else json.dumps(p, allow_nan=False) for p in parts]
        self._file.write("".join(texts).encode("utf-8"))

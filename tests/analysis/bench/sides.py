# SPDX-License-Identifier: Apache-2.0
"""Processes of sides that are none: all sides run in the test's own, on one runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.engine.tiny_detector import OVERRIDES
from vitdet_d2.analysis.bench.case import Case
from vitdet_d2.analysis.bench.turns import SideError
from vitdet_d2.analysis.bench.worker import Worker
from vitdet_d2.analysis.job import reason

TINY = (
    *(text for text in OVERRIDES if text.startswith("model.")),
    "model.backbone.net.depth=2",
    "model.backbone.net.window_block_indexes=[0]",
)


def tiny(axis: str, **changes: Any) -> Case:
    """A case that takes a fraction of a second."""
    values: dict[str, Any] = {"model": "quickstart", "overrides": TINY, "image_size": 64}
    if axis == "loader":
        values = {"model": "vitdet_ti", "image_size": 64}
    return Case(axis=axis, **{**values, **changes})  # type: ignore[arg-type]


class LocalSide:
    """Stands in for `SideProcess`; keeps what was asked, of all sides in order."""

    asked: list[tuple[str, str]] = []  # noqa: RUF012  (emptied by the fixture)

    def __init__(self, side: str, plan: Any, log: Any) -> None:
        self.side = side
        self._worker = Worker(side)  # type: ignore[arg-type]

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.asked.append((self.side, do))
        request = json.loads(json.dumps({"do": do, **arguments}))
        try:
            return json.loads(json.dumps(self._worker.answer(request)))
        except Exception as error:
            raise SideError(reason(error)) from error

    def close(self) -> None:
        pass


def coco_folder(folder: Path) -> Path:
    """A data set of one image with one object, as COCO lies."""
    from PIL import Image

    (folder / "annotations").mkdir(parents=True)
    (folder / "val2017").mkdir()
    Image.new("RGB", (40, 30)).save(folder / "val2017/1.jpg")
    document = {
        "images": [
            {"id": 5, "file_name": "1.jpg", "height": 30, "width": 40},
            {"id": 6, "file_name": "2.jpg", "height": 30, "width": 40},
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 5,
                "category_id": 9,
                "bbox": [2.0, 3.0, 10.0, 12.0],
                "area": 120.0,
                "iscrowd": crowd,
                "segmentation": [[2.0, 3.0, 12.0, 3.0, 12.0, 15.0]],
            }
            for crowd in (0, 1)
        ],
        "categories": [{"id": 4, "name": "a"}, {"id": 9, "name": "b"}],
    }
    (folder / "annotations/instances_val2017.json").write_text(json.dumps(document))
    return folder

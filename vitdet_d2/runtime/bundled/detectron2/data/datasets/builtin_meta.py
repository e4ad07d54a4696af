# SPDX-License-Identifier: Apache-2.0
"""COCO's 80 classes: name, category id in the annotation files, colour for pictures."""

from __future__ import annotations

import colorsys
from typing import Any

# In the order of their category ids.
_COCO_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe,
backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite,
baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork,
knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake,
chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
hair drier, toothbrush
"""
# Ids of 1 to 90 that COCO's authors took out again.
_COCO_UNUSED_IDS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})


def _color(index: int) -> list[int]:
    """Return an RGB colour, 0-255, far from those of the neighbouring indices."""
    hue = index * 0.618034 % 1  # steps of the golden ratio spread evenly for any number of classes
    saturation = (0.85, 0.6, 0.95)[index % 3]
    value = (0.95, 0.8)[index % 2]
    return [round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, value)]


def _coco_categories() -> list[dict[str, Any]]:
    names = [name.strip() for name in _COCO_NAMES.split(",")]
    ids = [i for i in range(1, 91) if i not in _COCO_UNUSED_IDS]
    return [
        {"color": _color(index), "isthing": 1, "id": category, "name": name}
        for index, (category, name) in enumerate(zip(ids, names, strict=True))
    ]


COCO_CATEGORIES = _coco_categories()


def _get_builtin_metadata(dataset_name: str) -> dict[str, Any]:
    """Return the metadata of a family of data sets.

    Args:
        dataset_name: ``coco``.

    Returns:
        ``thing_dataset_id_to_contiguous_id`` (category id to class index), ``thing_classes``,
        ``thing_colors`` (RGB, 0-255; not Detectron2's).

    Raises:
        KeyError: no other family is bundled.
    """
    if dataset_name != "coco":
        raise KeyError(
            f"no metadata of {dataset_name!r} in the bundled Detectron2 subset, which knows 'coco'"
        )
    return {
        "thing_dataset_id_to_contiguous_id": {c["id"]: i for i, c in enumerate(COCO_CATEGORIES)},
        "thing_classes": [c["name"] for c in COCO_CATEGORIES],
        "thing_colors": [c["color"] for c in COCO_CATEGORIES],
    }

# SPDX-License-Identifier: Apache-2.0
"""Pictures of predictions beside the ground truth.

Every picture has the annotations on the left and the model's detections on the right, both
drawn on the image as the model's user has it; ``overview.png`` shows all of them on one sheet.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.evaluation import inference_context
from detectron2.structures import BoxMode, Instances
from detectron2.utils.colormap import colormap
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from vitdet_d2.errors import UserError

_MIN_SIDE = 480  # pixels; below, digits and small objects are hard to see on a screen
_MAX_SIDE = 1600  # a picture with two panels then still fits on a wide screen at half size
_TITLE_HEIGHT = 32
_GAP = 8
_SHEET_PANEL_WIDTH = 360  # on the contact sheet, which has four panels side by side
_SHEET_MAX_PAIRS = 24
_PAPER = (255, 255, 255)
_INK = (32, 32, 32)

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


def write_pictures(
    model: nn.Module,
    dataset_dicts: Sequence[dict[str, Any]],
    metadata: Any,
    folder: str | os.PathLike[str],
    count: int,
    score_threshold: float,
    *,
    mapper: Mapper | None = None,
) -> list[Path]:
    """Run a model on some images, and write what it sees beside what is there.

    Args:
        model: a detector in Detectron2's format; in eval mode for the duration.
        dataset_dicts: annotated images in Detectron2's data set format; ``count`` of them are
            taken, evenly spread.
        metadata: of the data set; ``thing_classes`` names the classes.
        folder: made if it does not exist; pictures of the same name are replaced.
        count: how many images, at least 1.
        score_threshold: detections below it are not drawn, in [0, 1].
        mapper: the test-time mapper of the recipe, from a data set dictionary to a model input.
            By default the image goes in as it is.

    Returns:
        The paths of the pictures, and of ``overview.png`` last.

    Raises:
        ValueError: no images, a count below 1, or a threshold outside of [0, 1].
    """
    if not dataset_dicts or count < 1:
        raise ValueError(
            f"pictures: expected at least one image, got count {count} of "
            f"{len(dataset_dicts)} images"
        )
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold: expected [0, 1], got {score_threshold}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = np.linspace(0, len(dataset_dicts) - 1, min(count, len(dataset_dicts)))
    paths: list[Path] = []
    pairs: list[Image.Image] = []
    with inference_context(model), torch.no_grad():
        for number, index in enumerate(chosen.round().astype(int).tolist()):
            record = dataset_dicts[index]
            image = detection_utils.read_image(record["file_name"], format="RGB")
            instances = _predict(model, record, image, mapper)
            kept = instances[instances.scores >= score_threshold]
            panels = _draw_panels(image, record, kept, metadata, score_threshold)
            path = folder / f"{number:03d}_{_safe_stem(record['file_name'])}.png"
            _side_by_side(panels).save(path)
            paths.append(path)
            if len(pairs) < _SHEET_MAX_PAIRS:
                small = [(title, _fit_width(panel, _SHEET_PANEL_WIDTH)) for title, panel in panels]
                pairs.append(_side_by_side(small))
    overview = folder / "overview.png"
    _contact_sheet(pairs).save(overview)
    return [*paths, overview]


def _predict(
    model: nn.Module, record: dict[str, Any], image: np.ndarray, mapper: Mapper | None
) -> Instances:
    """Return the detections of one image at its own size, on the CPU."""
    if mapper is not None:
        given = mapper(dict(record))
    else:
        channels = image[:, :, ::-1] if getattr(model, "input_format", "RGB") == "BGR" else image
        tensor = torch.from_numpy(np.ascontiguousarray(channels.transpose(2, 0, 1)))
        given = {"image": tensor}
    # The detections come back at this size, whatever the mapper resized the image to.
    given["height"], given["width"] = image.shape[:2]
    return model([given])[0]["instances"].to("cpu")


def _draw_panels(
    image: np.ndarray,
    record: dict[str, Any],
    predictions: Instances,
    metadata: Any,
    score_threshold: float,
) -> list[tuple[str, Image.Image]]:
    """Draw annotations and detections, each with its title."""
    names = metadata.get("thing_classes", None)
    annotations = record.get("annotations", [])
    truth = _overlay(
        image,
        boxes=[BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations],
        masks=_annotation_masks(annotations, image.shape[:2]),
        classes=[a["category_id"] for a in annotations],
        labels=[
            _name(names, a["category_id"]) + (" (crowd)" if a.get("iscrowd") else "")
            for a in annotations
        ],
    )
    found = draw_detections(image, predictions, names)
    return [
        (f"ground truth: {_objects(len(annotations))}", truth),
        (f"predictions: {_objects(len(predictions))}, score >= {score_threshold:g}", found),
    ]


def draw_detections(
    image: np.ndarray, instances: Instances, names: Sequence[str] | None
) -> Image.Image:
    """Draw detections with class and score, in one colour per class.

    Args:
        image: ``(H, W, 3)`` RGB uint8.
        instances: its detections at this size, on the CPU.
        names: by class index; None or too short: the number is shown.

    Returns:
        The picture; a small image is enlarged to 480 pixels at least, a large one made smaller to
        at most 1600, so that the labels can be read.
    """
    classes = instances.pred_classes.tolist()
    return _overlay(
        image,
        boxes=instances.pred_boxes.tensor.numpy(),
        masks=list(instances.pred_masks.numpy()) if instances.has("pred_masks") else None,
        classes=classes,
        labels=[
            f"{_name(names, c)} {score:.0%}"
            for c, score in zip(classes, instances.scores.tolist(), strict=True)
        ],
    )


def load_visualizer() -> Any:
    """Return Detectron2's `Visualizer`, which is imported for drawing alone.

    Raises:
        UserError: an installed Detectron2 draws with OpenCV and matplotlib, and one of them is not
            there.
    """
    try:
        return importlib.import_module("detectron2.utils.visualizer").Visualizer
    except ModuleNotFoundError as error:
        package = "opencv-python-headless" if error.name == "cv2" else error.name
        raise UserError(
            f"pictures: Detectron2's drawing needs {error.name}, which is not installed; "
            f"pip install {package}, or go without pictures (train.pictures=0, "
            "vitdet predict --no-pictures)"
        ) from error


def _overlay(
    image: np.ndarray,
    boxes: Sequence[Any] | np.ndarray,
    masks: list[Any] | None,
    classes: list[int],
    labels: list[str],
) -> Image.Image:
    """Draw instances on an enlarged copy of an image, in one colour per class."""
    palette = colormap(rgb=True, maximum=1)
    height, width = image.shape[:2]
    scale = max(1.0, _MIN_SIDE / min(height, width))
    scale = min(scale, _MAX_SIDE / max(height, width))
    visualizer = load_visualizer()(image, None, scale=scale)
    if len(classes):
        visualizer.overlay_instances(
            boxes=np.asarray(boxes, dtype=float).reshape(-1, 4),
            masks=masks,
            labels=labels,
            assigned_colors=[tuple(palette[c % len(palette)].tolist()) for c in classes],
        )
    return Image.fromarray(visualizer.get_output().get_image())


def _annotation_masks(
    annotations: Sequence[dict[str, Any]], size: tuple[int, int]
) -> list[Any] | None:
    """Return one mask per annotation, empty where it has none; None where no one has any."""
    masks = [a.get("segmentation") for a in annotations]
    if not any(masks):
        return None
    return [mask if mask else np.zeros(size, dtype=np.uint8) for mask in masks]


def _name(names: Sequence[str] | None, index: int) -> str:
    return names[index] if names and index < len(names) else str(index)


def _objects(count: int) -> str:
    return "1 object" if count == 1 else f"{count} objects"


def _side_by_side(panels: list[tuple[str, Image.Image]]) -> Image.Image:
    """Join titled panels of one height into a picture."""
    width = sum(panel.width for _, panel in panels) + _GAP * (len(panels) + 1)
    height = max(panel.height for _, panel in panels) + _TITLE_HEIGHT + _GAP
    picture = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(picture)
    x = _GAP
    for title, panel in panels:
        font = _font_that_fits(title, panel.width)
        draw.text((x, _TITLE_HEIGHT / 2), title, fill=_INK, font=font, anchor="lm")
        picture.paste(panel, (x, _TITLE_HEIGHT))
        x += panel.width + _GAP
    return picture


def _font_that_fits(text: str, width: int) -> Any:
    """Return the largest font of 10 to 18 pixels in which a line is not too wide."""
    for size in range(18, 10, -1):
        font = ImageFont.load_default(size)
        if font.getlength(text) <= width:
            return font
    return ImageFont.load_default(10)


def _fit_width(picture: Image.Image, width: int) -> Image.Image:
    if picture.width <= width:
        return picture
    height = max(1, round(picture.height * width / picture.width))
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _contact_sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """Lay pictures out in up to two columns, each below the shorter one so far."""
    width = max(picture.width for picture in pictures)
    ends = [_GAP] * min(2, len(pictures))
    places = []
    for picture in pictures:
        column = ends.index(min(ends))
        places.append((_GAP + column * (width + _GAP), ends[column]))
        ends[column] += picture.height + _GAP
    sheet = Image.new("RGB", (len(ends) * (width + _GAP) + _GAP, max(ends)), _PAPER)
    for picture, place in zip(pictures, places, strict=True):
        sheet.paste(picture, place)
    return sheet


def _safe_stem(file_name: str) -> str:
    """Return a file's name without ending and without characters that file systems dislike."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", Path(file_name).stem)[:60] or "image"

# SPDX-License-Identifier: Apache-2.0
"""Draw boxes, masks and labels on an image, with Pillow alone.

Frames: coordinates are pixels of the *input image* (x right, y down, pixel i covers [i, i+1)).
The *canvas* is the output, `scale` times as large; line widths and font sizes are canvas pixels.
Colours are three floats in [0, 1], a name that Pillow knows, or a one-letter name such as "g".

Source: the interface of Detectron2 ``utils/visualizer.py``. The looks are our own.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from enum import Enum, unique
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from detectron2.utils.colormap import colormap
from detectron2.utils.drawing import (
    RGB,
    Color,
    GenericMask,
    VisImage,
    bitmap_stencil,
    overlap,
    polygon_stencil,
    readable_on,
    text_size,
    to_bytes,
    to_rgb,
)
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

__all__ = ["ColorMode", "VisImage", "Visualizer"]


@unique
class ColorMode(Enum):
    """How instances are coloured."""

    IMAGE = 0  # every instance another colour, translucent
    SEGMENTATION = 1  # the class's colour of metadata.thing_colors, nearly opaque
    IMAGE_BW = 2  # as IMAGE, on a picture that is gray outside the masks


def _create_text_labels(
    classes: Sequence[int] | None,
    scores: Sequence[float] | torch.Tensor | None,
    class_names: Sequence[str] | None,
    is_crowd: Sequence[bool | int] | None = None,
) -> list[str] | None:
    """Compose one label per instance: its class, its score in percent, and a crowd mark.

    Args:
        classes: contiguous class numbers.
        scores: in [0, 1].
        class_names: by class number; without them the number is shown.
        is_crowd: which instances are crowds.

    Returns:
        For example ``["cat 97%", "person|crowd"]``; None with neither classes nor scores.
    """
    parts: list[list[str]] = []
    if classes is not None:
        parts.append([class_names[c] if class_names else str(c) for c in classes])
    if scores is not None:
        parts.append([f"{float(score) * 100:.0f}%" for score in scores])
    if not parts:
        return None
    labels = [" ".join(words) for words in zip(*parts, strict=True)]
    if is_crowd is not None:
        labels = [
            label + "|crowd" if crowd else label
            for label, crowd in zip(labels, is_crowd, strict=True)
        ]
    return labels


class Visualizer:
    """Draws detections or annotations on one image."""

    def __init__(
        self,
        img_rgb: np.ndarray,
        metadata: Any = None,
        scale: float = 1.0,
        instance_mode: ColorMode = ColorMode.IMAGE,
        font_size_scale: float = 1.0,
    ) -> None:
        """Start from an image.

        Args:
            img_rgb: ``(H, W, 3)`` RGB, 0-255.
            metadata: names and colours of the classes (``thing_classes``, ``thing_colors``).
            scale: size of the output relative to the image.
            instance_mode: how instances are coloured.
            font_size_scale: factor on the size of all text.
        """
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        self.metadata = MetadataCatalog.get("__nonexist__") if metadata is None else metadata
        self.output = VisImage(self.img, scale=scale)
        self._instance_mode = instance_mode
        side = float(np.sqrt(self.output.canvas.width * self.output.canvas.height))
        # Below 12 pixels the letters of a label run together; above 28 they hide the objects.
        self._default_font_size = float(np.clip(side / 36, 12, 28)) * font_size_scale
        self._line_width = max(1, round(side / 300))
        self._label_boxes: list[tuple[float, float, float, float]] = []

    def get_output(self) -> VisImage:
        """Return the canvas with everything drawn so far."""
        return self.output

    def draw_instance_predictions(self, predictions: Instances, jittering: bool = True) -> VisImage:
        """Draw the detections of one image.

        Args:
            predictions: any of ``pred_boxes``, ``pred_classes``, ``scores``, ``pred_masks``, at
                the size of the image, on any device.
            jittering: in mode SEGMENTATION, vary a class's colour from instance to instance.
        """
        fields = predictions.to("cpu").get_fields()
        classes = fields["pred_classes"].tolist() if "pred_classes" in fields else None
        names = self.metadata.get("thing_classes", None)
        labels = _create_text_labels(classes, fields.get("scores"), names)
        masks = fields.get("pred_masks")
        alpha = 0.45
        colors = None
        if self._instance_mode is ColorMode.SEGMENTATION and classes is not None:
            colors = self._class_colors(classes, jittering)
            alpha = 0.8 if colors else alpha
        elif self._instance_mode is ColorMode.IMAGE_BW:
            covered = None if masks is None else np.any(np.asarray(masks), axis=0)
            self.output.reset_image(self._create_grayscale_image(covered))
            alpha = 0.3
        return self.overlay_instances(
            boxes=fields.get("pred_boxes"),
            labels=labels,
            masks=masks,
            assigned_colors=colors,
            alpha=alpha,
        )

    def draw_dataset_dict(self, dic: dict[str, Any]) -> VisImage:
        """Draw the annotations of an image in Detectron2's data set format.

        Args:
            dic: ``annotations`` with ``bbox``, ``bbox_mode``, ``category_id`` (contiguous), and
                perhaps ``segmentation`` and ``iscrowd``; without annotations nothing is drawn.
        """
        annotations = dic.get("annotations") or []
        if not annotations:
            return self.output
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
        classes = [a["category_id"] for a in annotations]
        labels = _create_text_labels(
            classes,
            scores=None,
            class_names=self.metadata.get("thing_classes", None),
            is_crowd=[a.get("iscrowd", 0) for a in annotations],
        )
        colors = None
        if self._instance_mode is ColorMode.SEGMENTATION:
            colors = self._class_colors(classes, jittering=True)
        return self.overlay_instances(
            boxes=np.asarray(boxes, dtype=float),
            labels=labels,
            masks=[a.get("segmentation") or [] for a in annotations],
            assigned_colors=colors,
        )

    def overlay_instances(
        self,
        *,
        boxes: Boxes | torch.Tensor | np.ndarray | None = None,
        labels: Sequence[str] | None = None,
        masks: Any = None,
        assigned_colors: Sequence[Color] | None = None,
        alpha: float = 0.45,
    ) -> VisImage:
        """Draw instances, the largest first, and all labels on top.

        Args:
            boxes: ``(N, 4)`` XYXY pixels.
            labels: one text per instance.
            masks: N masks: `BitMasks`, `PolygonMasks`, ``(N, H, W)``, or a list of bitmaps, run
                lengths, lists of polygons, or `GenericMask`.
            assigned_colors: one colour per instance; by default those of the palette in order.
            alpha: opacity of the masks.

        Raises:
            ValueError: boxes, masks, labels and colours differ in number.
        """
        corners = None if boxes is None else self._convert_boxes(boxes)
        shapes = None if masks is None else self._convert_masks(masks)
        counts = {len(x) for x in (corners, shapes, labels, assigned_colors) if x is not None}
        if len(counts) > 1:
            raise ValueError(
                f"boxes, masks, labels and assigned_colors: expected one each per instance, got "
                f"the lengths {sorted(counts)}"
            )
        if corners is None:
            corners = np.array([shape.bbox() for shape in shapes or []]).reshape(-1, 4)
        areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
        order = np.argsort(-areas, kind="stable").tolist()
        palette = colormap(rgb=True, maximum=1)
        colors = [
            palette[i % len(palette)] if assigned_colors is None else assigned_colors[i]
            for i in range(len(corners))
        ]
        for i in order:
            if shapes is not None:
                self._draw_mask(shapes[i], colors[i], alpha)
        for i in order:
            if boxes is not None:
                self.draw_box(corners[i], alpha=0.9, edge_color=colors[i])
        if labels is not None:
            for i in order:
                self._draw_label(labels[i], corners[i], colors[i])
        return self.output

    def draw_box(
        self,
        box_coord: Sequence[float] | np.ndarray,
        alpha: float = 0.5,
        edge_color: Color = "g",
        line_style: str = "-",
    ) -> VisImage:
        """Draw the outline of a box.

        Args:
            box_coord: XYXY pixels; parts outside of the image are cut off.
            alpha: opacity.
            edge_color: of the outline.
            line_style: only ``"-"``.

        Raises:
            ValueError: another line style.
        """
        if line_style != "-":
            raise ValueError(f"line_style: expected '-', got {line_style!r}")
        x0, y0, x1, y1 = (round(float(value) * self.output.scale) for value in box_coord)
        width, height = x1 - x0, y1 - y0
        if width < 1 or height < 1:
            return self.output
        # Only what can be seen is drawn: a box may reach far beyond the image.
        x0, y0 = max(x0, -10), max(y0, -10)
        x1, y1 = min(x1, self.output.canvas.width + 10), min(y1, self.output.canvas.height + 10)
        if x1 <= x0 or y1 <= y0:
            return self.output
        stencil = Image.new("L", (x1 - x0, y1 - y0))
        ImageDraw.Draw(stencil).rectangle(
            (0, 0, x1 - x0 - 1, y1 - y0 - 1), outline=255, width=self._line_width
        )
        self.output.blend(stencil, (x0, y0), edge_color, alpha)
        return self.output

    def draw_text(
        self,
        text: str,
        position: Sequence[float] | np.ndarray,
        *,
        font_size: float | None = None,
        color: Color = "g",
        horizontal_alignment: str = "center",
        rotation: float = 0,
    ) -> VisImage:
        """Write text on a dark box.

        Args:
            text: one line.
            position: ``(x, y)`` in pixels of the image; the text hangs below it.
            font_size: canvas pixels; by default it grows with the canvas.
            color: of the text; dark colours are lightened.
            horizontal_alignment: the side of the text that is at x: "left", "center", "right".
            rotation: only 0.

        Raises:
            ValueError: rotated text, or an unknown alignment.
        """
        shift = {"left": 0.0, "center": 0.5, "right": 1.0}
        if rotation or horizontal_alignment not in shift:
            raise ValueError(
                "draw_text: expected rotation 0 and horizontal_alignment of "
                f"{sorted(shift)}, got {rotation} and {horizontal_alignment!r}"
            )
        font = ImageFont.load_default(font_size or self._default_font_size)
        width, height = text_size(text, font)
        x, y = (float(value) * self.output.scale for value in position)
        x -= width * shift[horizontal_alignment]
        bright = self._change_color_brightness(color, 0.7)
        self._write(text, font, (x, y, x + width, y + height), bright, "black")
        return self.output

    def draw_binary_mask(
        self,
        binary_mask: np.ndarray,
        color: Color | None = None,
        *,
        edge_color: Color | None = None,
        text: str | None = None,
        alpha: float = 0.5,
        area_threshold: float = 10,
    ) -> VisImage:
        """Lay a bitmap over the image, with an outline.

        Args:
            binary_mask: ``(H, W)``, 0 or 1.
            color: of the mask; by default the first of the palette.
            edge_color: of the outline; by default that of the mask.
            text: written in the middle of the mask.
            alpha: opacity of the inside.
            area_threshold: a mask of fewer pixels is not drawn.
        """
        mask = GenericMask(np.asarray(binary_mask), self.output.height, self.output.width)
        if mask.area() < max(area_threshold or 0, 1):
            return self.output
        color = colormap(rgb=True, maximum=1)[0] if color is None else color
        self._draw_mask(mask, color, alpha, edge_color)
        if text is not None:
            ys, xs = np.nonzero(mask.mask)
            self.draw_text(text, (float(np.median(xs)), float(np.median(ys))), color=color)
        return self.output

    def draw_polygon(
        self,
        segment: np.ndarray,
        color: Color,
        edge_color: Color | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Lay a polygon over the image, with an outline.

        Args:
            segment: ``(N, 2)`` corners (x, y) in pixels.
            color: of the inside.
            edge_color: of the outline; by default that of the inside.
            alpha: opacity of the inside.
        """
        corners = np.asarray(segment, dtype=float).reshape(-1).tolist()
        mask = GenericMask([corners], self.output.height, self.output.width)
        self._draw_mask(mask, color, alpha, edge_color)
        return self.output

    def _draw_mask(
        self, mask: GenericMask, color: Color, alpha: float, edge_color: Color | None = None
    ) -> None:
        """Lay a mask over the canvas: a translucent inside and a firm outline."""
        scale, canvas = self.output.scale, self.output.canvas
        if mask.polygons is not None:
            stencil, corner = polygon_stencil(mask.polygons, scale, canvas.size)
        else:
            stencil, corner = bitmap_stencil(mask.mask, scale)
        if stencil is None:
            return
        inner = stencil.filter(ImageFilter.MinFilter(2 * max(1, self._line_width // 2) + 1))
        self.output.blend(stencil, corner, color, alpha)
        outline = ImageChops.subtract(stencil, inner)
        self.output.blend(outline, corner, color if edge_color is None else edge_color, 0.9)

    def _draw_label(self, text: str, box: np.ndarray, color: Color) -> None:
        """Write an instance's label at its box, where it hides the fewest other labels."""
        font = ImageFont.load_default(self._default_font_size)
        width, height = text_size(text, font)
        x0, y0, x1, y1 = (float(value) * self.output.scale for value in box)
        canvas = self.output.canvas
        places = [
            (x, y, x + width, y + height)
            for x, y in (
                (x0, y0 - height),  # above the box, where it hides nothing of the object
                (x0, y1),
                (x1 - width, y0 - height),
                (x0, y0),
                (x1, y0),
                (x1 - width, y1 - height),
            )
        ]

        def cost(place: tuple[float, float, float, float]) -> float:
            outside = (
                max(0.0, -place[0])
                + max(0.0, -place[1])
                + max(0.0, place[2] - canvas.width)
                + max(0.0, place[3] - canvas.height)
            )
            return outside * height + sum(overlap(place, other) for other in self._label_boxes)

        best = min(places, key=cost)
        x = min(max(best[0], 0.0), max(0.0, canvas.width - width))
        y = min(max(best[1], 0.0), max(0.0, canvas.height - height))
        place = (x, y, x + width, y + height)
        self._label_boxes.append(place)
        self._write(text, font, place, readable_on(color), color)

    def _write(
        self,
        text: str,
        font: Any,
        place: tuple[float, float, float, float],
        text_color: Color,
        box_color: Color,
    ) -> None:
        """Write text into a filled box at ``place``, XYXY canvas pixels."""
        x0, y0, x1, y1 = (round(value) for value in place)
        self.output.blend(Image.new("L", (x1 - x0, y1 - y0), 255), (x0, y0), box_color, 0.8)
        ImageDraw.Draw(self.output.canvas).text(
            ((x0 + x1) / 2, (y0 + y1) / 2), text, to_bytes(text_color), font, anchor="mm"
        )

    def _class_colors(self, classes: Sequence[int], jittering: bool) -> list[RGB] | None:
        """Look up the colours of classes, which metadata keeps as 0-255; None without any."""
        table = self.metadata.get("thing_colors", None)
        if not table:
            return None
        colors = [to_rgb([channel / 255 for channel in table[c]]) for c in classes]
        return [self._jitter(color) for color in colors] if jittering else colors

    def _jitter(self, color: Color) -> RGB:
        """Vary a colour a little, without touching NumPy's global generator."""
        shift = np.random.default_rng().uniform(-0.15, 0.15, size=3)
        return to_rgb(np.asarray(to_rgb(color)) + shift)

    def _create_grayscale_image(self, mask: np.ndarray | None = None) -> np.ndarray:
        """Return the input image in gray, except where the boolean mask ``(H, W)`` holds."""
        gray = np.repeat(self.img.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
        return gray if mask is None else np.where(mask[:, :, None], self.img, gray)

    def _change_color_brightness(self, color: Color, brightness_factor: float) -> RGB:
        """Scale a colour's lightness by ``1 + brightness_factor``, which is in [-1, 1]."""
        hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(color))
        lightness = min(1.0, max(0.0, lightness * (1 + brightness_factor)))
        return to_rgb(colorsys.hls_to_rgb(hue, lightness, saturation))

    def _convert_boxes(self, boxes: Boxes | torch.Tensor | np.ndarray) -> np.ndarray:
        tensor = boxes.tensor if isinstance(boxes, Boxes) else boxes
        if isinstance(tensor, torch.Tensor):
            tensor = tensor.detach().cpu().numpy()
        return np.asarray(tensor, dtype=float).reshape(-1, 4)

    def _convert_masks(self, masks: Any) -> list[GenericMask]:
        if isinstance(masks, PolygonMasks):
            masks = masks.polygons
        elif isinstance(masks, BitMasks):
            masks = masks.tensor
        if isinstance(masks, torch.Tensor):
            masks = masks.detach().cpu().numpy()
        height, width = self.output.height, self.output.width
        return [
            mask if isinstance(mask, GenericMask) else GenericMask(mask, height, width)
            for mask in masks
        ]

# SPDX-License-Identifier: Apache-2.0
"""One picture in, its detections out.

Source: behaviour of detectron2 ``engine/defaults.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.transforms import Augmentation, ResizeShortestEdge
from detectron2.modeling import build_model
from numpy.typing import NDArray


class DefaultPredictor:
    """The model of a yacs configuration with its weights, for single pictures.

    Attributes:
        cfg: a copy of the configuration.
        model: in inference mode.
        metadata: of the first data set of ``DATASETS.TEST``, where there is one.
        input_format: the order of channels that the model takes.
        aug: the resize, replaceable by another ``Augmentation``.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Build the model, and load ``MODEL.WEIGHTS``.

        Args:
            cfg: the configuration, which is copied.

        Raises:
            ValueError: ``INPUT.FORMAT`` is neither RGB nor BGR.
        """
        if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
            raise ValueError(f"INPUT.FORMAT: expected 'RGB' or 'BGR', got {cfg.INPUT.FORMAT!r}")
        self.cfg = cfg.clone()
        self.model = build_model(self.cfg).eval()
        if len(cfg.DATASETS.TEST):
            self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        DetectionCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        # One augmentation, not a list: other people's predictors call its get_transform().
        self.aug: Augmentation = ResizeShortestEdge(
            cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        )
        self.input_format = cfg.INPUT.FORMAT

    @torch.no_grad()
    def __call__(self, original_image: NDArray[Any]) -> Any:
        """Detect.

        Args:
            original_image: ``(H, W, 3)``, **BGR** whatever ``INPUT.FORMAT`` is, 0-255.

        Returns:
            What the model gives for one image, in pixels of ``original_image``.

        Raises:
            ValueError: another shape.
        """
        if original_image.ndim != 3 or original_image.shape[2] != 3:
            raise ValueError(
                f"image: expected (height, width, 3), BGR, got {tuple(original_image.shape)}"
            )
        height, width = original_image.shape[:2]
        is_rgb = self.input_format == "RGB"
        # A copy: Pillow and torch take no reversed strides.
        image = np.ascontiguousarray(original_image[:, :, :: -1 if is_rgb else 1])
        resized = self.aug.get_transform(image).apply_image(image)
        chw = np.ascontiguousarray(resized.transpose(2, 0, 1), dtype=np.float32)
        inputs = {"image": torch.from_numpy(chw), "height": height, "width": width}
        return self.model([inputs])[0]

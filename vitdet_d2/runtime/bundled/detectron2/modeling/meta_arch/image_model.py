# SPDX-License-Identifier: Apache-2.0
"""What whole models of images share: normalised batches, detections in the wanted size, pictures.

Vocabulary: an *input* is a dictionary with ``image`` ``(C, H, W)``, in training ``instances``, and
optionally ``height`` and ``width``, the size that detections are wanted in, in pixels.

Source: equals what detectron2 ``meta_arch/rcnn.py`` and ``meta_arch/dense_detector.py`` share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

__all__ = ["MAX_DRAWN_BOXES", "ImageModel"]

# More boxes than this hide the picture.
MAX_DRAWN_BOXES = 20


class ImageModel(nn.Module):
    """A backbone, and the way from pictures to its input and from detections to pictures."""

    backbone: Backbone
    pixel_mean: Tensor
    pixel_std: Tensor

    def _set_statistics(self, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        """Register the statistics as buffers that stay out of checkpoints.

        Raises:
            ValueError: mean and deviation do not fit.
        """
        if len(pixel_mean) != len(pixel_std):
            raise ValueError(
                f"pixel_std: expected {len(pixel_mean)} values as in pixel_mean, "
                f"got {len(pixel_std)}"
            )
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            value = torch.tensor([float(v) for v in values]).view(-1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def preprocess_image(self, batched_inputs: Sequence[Mapping[str, Any]]) -> ImageList:
        """Normalise, pad and stack the images.

        Args:
            batched_inputs: see the top of the module.

        Returns:
            ``(N, C, H, W)`` with the size of every image before padding.
        """
        images = [
            (x["image"].to(self.device, non_blocking=True) - self.pixel_mean) / self.pixel_std
            for x in batched_inputs
        ]
        return ImageList.from_tensors(
            images,
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )

    @staticmethod
    def _postprocess(
        instances: Sequence[Instances],
        batched_inputs: Sequence[Mapping[str, Any]],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[dict[str, Instances]]:
        """Give every detection in the size that its input asks for."""
        return [
            {
                "instances": detector_postprocess(
                    detections, x.get("height", size[0]), x.get("width", size[1])
                )
            }
            for detections, x, size in zip(instances, batched_inputs, image_sizes, strict=True)
        ]

    @staticmethod
    def _put_picture(
        labelled: Mapping[str, Any], boxes: Boxes, input_format: str | None, title: str
    ) -> None:
        """Put an image with its ground truth, and again with ``boxes``, into the event storage."""
        # Imported here: only pictures need data sets and a drawing library.
        from detectron2.data.detection_utils import convert_image_to_rgb
        from detectron2.utils.visualizer import Visualizer

        image = convert_image_to_rgb(labelled["image"].permute(1, 2, 0), input_format or "RGB")
        panels = []
        for shown in (labelled["instances"].gt_boxes, boxes):
            drawn = Visualizer(image, None).overlay_instances(boxes=shown.tensor.cpu().numpy())
            panels.append(drawn.get_image())
        picture = np.concatenate(panels, axis=1).transpose(2, 0, 1)
        get_event_storage().put_image(title, picture)

# SPDX-License-Identifier: Apache-2.0
"""Detectors that predict at every location of their feature maps: the base of RetinaNet.

Shapes: ``N`` images, ``L`` feature maps, ``A`` anchors per location, ``K`` numbers per anchor,
``R_l = H * W * A`` anchors of map ``l``. An *input* is as in ``meta_arch/image_model.py``.

Source: equals detectron2 ``meta_arch/dense_detector.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.box_regression import BoxTransform
from detectron2.modeling.meta_arch.image_model import MAX_DRAWN_BOXES, ImageModel
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

__all__ = ["DenseDetector", "permute_to_N_HWA_K"]


def permute_to_N_HWA_K(tensor: Tensor, K: int) -> Tensor:  # noqa: N802  (Detectron2's name)
    """Bring the predictions of a map into the order of its anchors.

    Args:
        tensor: ``(N, A * K, H, W)``.
        K: numbers per anchor.

    Returns:
        ``(N, H * W * A, K)``.
    """
    # (N, A * K, H, W) -> (N, H, W, A * K) -> (N, H * W * A, K)
    return tensor.permute(0, 2, 3, 1).reshape(tensor.shape[0], -1, K)


class DenseDetector(ImageModel):
    """A backbone, and a head on each of its maps.

    A detector of one's own defines ``forward_training`` and ``forward_inference``; those that
    decode with ``_decode_multi_level_predictions`` have a ``box2box_transform``.
    """

    box2box_transform: BoxTransform
    input_format: str | None = None
    """What the channels are, for example ``RGB``."""
    vis_period: int = 0
    """Steps between pictures in the event storage; 0 for none."""

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: Sequence[str] | None = None,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """Put the parts together.

        Args:
            backbone: turns images into feature maps.
            head: turns a list of maps into predictions for each of them.
            head_in_features: names of the maps that the head gets; all, from fine to coarse, where
                left out.
            pixel_mean: mean of each channel, in the units of the images.
            pixel_std: deviation of each channel.

        Raises:
            ValueError: mean and deviation do not fit, or the backbone has no such map.
        """
        super().__init__()
        shapes = backbone.output_shape()
        if head_in_features is None:
            head_in_features = sorted(shapes, key=lambda name: shapes[name].stride or 0)
        if any(name not in shapes for name in head_in_features):
            raise ValueError(
                f"head_in_features: expected names out of {', '.join(shapes)}, got "
                f"{list(head_in_features)}"
            )
        self.backbone = backbone
        self.head = head
        self.head_in_features = head_in_features
        self._set_statistics(pixel_mean, pixel_std)

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> Any:
        """Compute losses in training, detections in inference.

        Args:
            batched_inputs: see the top of the module; images of any sizes.

        Returns:
            In training the named losses. In inference, for each image, ``{"instances": ...}`` with
            ``pred_boxes``, ``pred_classes`` and ``scores``, in the size that the input asks for.

        Raises:
            ValueError: an input without ``instances`` in training.
        """
        images = self.preprocess_image(batched_inputs)
        maps = self.backbone(images.tensor)
        features = [maps[name] for name in self.head_in_features]
        predictions = self.head(features)
        if not self.training:
            results = self.forward_inference(images, features, predictions)
            return self._postprocess(results, batched_inputs, images.image_sizes)
        if not all("instances" in x for x in batched_inputs):
            raise ValueError("instances: expected ground truth in every input in training")
        gt_instances = [x["instances"].to(self.device) for x in batched_inputs]
        losses = self.forward_training(images, features, predictions, gt_instances)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            with torch.no_grad():
                results = self.forward_inference(images, features, predictions)
            self.visualize_training(batched_inputs, results)
        return losses

    def forward_training(
        self,
        images: ImageList,
        features: Sequence[Tensor],
        predictions: Sequence[Sequence[Tensor]],
        gt_instances: Sequence[Instances],
    ) -> dict[str, Tensor]:
        """Compute the named losses; a detector defines it.

        Args:
            images: the batch.
            features: ``(N, C, H, W)`` maps.
            predictions: what the head makes of them.
            gt_instances: for each image the ground truth.

        Raises:
            NotImplementedError: the detector has not defined it.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no forward_training")

    def forward_inference(
        self,
        images: ImageList,
        features: Sequence[Tensor],
        predictions: Sequence[Sequence[Tensor]],
    ) -> list[Instances]:
        """Return the detections of every image in pixels of the input; a detector defines it.

        Args:
            images: the batch.
            features: ``(N, C, H, W)`` maps.
            predictions: what the head makes of them.

        Raises:
            NotImplementedError: the detector has not defined it.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no forward_inference")

    def _transpose_dense_predictions(
        self, predictions: Sequence[Sequence[Tensor]], dims_per_anchor: Sequence[int]
    ) -> list[list[Tensor]]:
        """Bring every prediction into the order of the anchors.

        Args:
            predictions: each a list of ``(N, A * K, H, W)``, one for each map.
            dims_per_anchor: ``K`` of each prediction.

        Returns:
            The same lists, of ``(N, R_l, K)``.
        """
        return [
            [permute_to_N_HWA_K(level, dim) for level in levels]
            for levels, dim in zip(predictions, dims_per_anchor, strict=True)
        ]

    def _ema_update(
        self, name: str, value: float, initial_value: float, momentum: float = 0.9
    ) -> float:
        """Move the running average ``self.<name>`` towards ``value``.

        A batch of few images has few objects or many; dividing its loss by an average of the
        counts, and not by its own, keeps the weight of an object steady. The average is a plain
        number beside the weights, in no state dict.

        Args:
            name: the attribute.
            value: of this step.
            initial_value: the average before the first step.
            momentum: weight of the old average.

        Returns:
            The new average.
        """
        average = getattr(self, name, initial_value) * momentum + value * (1 - momentum)
        setattr(self, name, average)
        return average

    def _decode_per_level_predictions(
        self,
        anchors: Boxes,
        pred_scores: Tensor,
        pred_deltas: Tensor,
        score_thresh: float,
        topk_candidates: int,
        image_size: tuple[int, int],
    ) -> Instances:
        """Take the best predictions of a map of one image, and deform their anchors.

        Args:
            anchors: ``R_l`` anchors.
            pred_scores: ``(R_l, K)``, one score for each class.
            pred_deltas: ``(R_l, 4)``.
            score_thresh: predictions have a higher score.
            topk_candidates: most predictions.
            image_size: ``(height, width)``; boxes are not clipped to it.

        Returns:
            ``pred_boxes``, ``scores`` and ``pred_classes``, best first; NaN and infinite
            predictions are dropped.
        """
        above = pred_scores > score_thresh  # False for NaN
        candidates = torch.nonzero(above)  # (C, 2): anchor, class
        scores = pred_scores[candidates[:, 0], candidates[:, 1]]
        scores, best = scores.topk(min(len(candidates), topk_candidates))
        anchor, label = candidates[best].unbind(dim=1)
        boxes = self.box2box_transform.apply_deltas(pred_deltas[anchor], anchors.tensor[anchor])
        found = Instances(image_size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=label)
        return found[boxes.isfinite().all(dim=1)]

    def _decode_multi_level_predictions(
        self,
        anchors: Sequence[Boxes],
        pred_scores: Sequence[Tensor],
        pred_deltas: Sequence[Tensor],
        score_thresh: float,
        topk_candidates: int,
        image_size: tuple[int, int],
    ) -> Instances:
        """Decode every map of one image; arguments and result as for one map, one after another."""
        return Instances.cat(
            [
                self._decode_per_level_predictions(
                    *level, score_thresh, topk_candidates, image_size
                )
                for level in zip(anchors, pred_scores, pred_deltas, strict=True)
            ]
        )

    def visualize_training(
        self, batched_inputs: Sequence[Mapping[str, Any]], results: Sequence[Instances]
    ) -> None:
        """Put the first image into the event storage: ground truth left, best detections right.

        Args:
            batched_inputs: see the top of the module.
            results: for each image the detections in pixels of the input, best first.
        """
        first = batched_inputs[0]
        height, width = first["image"].shape[-2:]
        best = detector_postprocess(results[0], height, width).pred_boxes[:MAX_DRAWN_BOXES]
        title = "ground truth (left), best detections (right)"
        self._put_picture(first, best, self.input_format, title)

# SPDX-License-Identifier: Apache-2.0
"""Whole two-stage detectors: images in, losses or detections out.

Vocabulary: an *input* is a dictionary with ``image`` ``(C, H, W)``, in training ``instances``, and
optionally ``height`` and ``width``, the size that detections are wanted in, in pixels.

Source: equals detectron2 ``meta_arch/rcnn.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import configurable
from detectron2.modeling.backbone import Backbone, build_backbone
from detectron2.modeling.meta_arch.build import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.image_model import MAX_DRAWN_BOXES, ImageModel
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.proposal_generator import build_proposal_generator
from detectron2.modeling.roi_heads import build_roi_heads
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

__all__ = ["GeneralizedRCNN", "ProposalNetwork"]


@META_ARCH_REGISTRY.register()
class GeneralizedRCNN(ImageModel):
    """A backbone, a proposal generator and heads on regions."""

    proposal_generator: nn.Module | None
    roi_heads: Any

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: nn.Module | None,
        roi_heads: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str | None = None,
        vis_period: int = 0,
    ) -> None:
        """Put the parts together.

        Args:
            backbone: turns images into feature maps.
            proposal_generator: turns maps into proposals; None when inputs carry ``proposals``.
            roi_heads: turns maps and proposals into detections.
            pixel_mean: mean of each channel, in the units of the images.
            pixel_std: deviation of each channel.
            input_format: what the channels are, for example ``RGB``; needed for pictures.
            vis_period: steps between pictures in the event storage; 0 for none.

        Raises:
            ValueError: mean and deviation do not fit, or pictures without ``input_format``.
        """
        super().__init__()
        if vis_period > 0 and input_format is None:
            raise ValueError("input_format: expected for example 'RGB' with vis_period, got None")
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.input_format = input_format
        self.vis_period = vis_period
        self._set_statistics(pixel_mean, pixel_std)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that the configuration holds, with the parts built.

        Args:
            cfg: the yacs configuration.
        """
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, shapes),
            "roi_heads": build_roi_heads(cfg, shapes),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
        }

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> Any:
        """Compute losses in training, detections in inference.

        Args:
            batched_inputs: see the top of the module; images of any sizes.

        Returns:
            In training the named losses. In inference, for each image, ``{"instances": ...}`` with
            ``pred_boxes``, ``pred_classes``, ``scores`` and, with a mask head, ``pred_masks``.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        targets = None
        if "instances" in batched_inputs[0]:
            targets = [x["instances"].to(self.device) for x in batched_inputs]
        features = self.backbone(images.tensor)
        proposals, proposal_losses = self._propose(batched_inputs, images, features, targets)
        _, detector_losses = self.roi_heads(images, features, proposals, targets)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(batched_inputs, proposals)
        return {**detector_losses, **proposal_losses}

    def inference(
        self,
        batched_inputs: Sequence[Mapping[str, Any]],
        detected_instances: Sequence[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> Any:
        """Detect, whatever the inputs hold beside images.

        Args:
            batched_inputs: see the top of the module.
            detected_instances: for each image known ``pred_boxes`` and ``pred_classes``, in
                pixels of the network's input; then only the rest is predicted.
            do_postprocess: give detections in the wanted size, with pasted masks.

        Returns:
            As ``forward``; without post-processing the raw instances of each image.

        Raises:
            ValueError: the model is in training mode.
        """
        if self.training:
            raise ValueError("inference works in inference mode: call eval() first")
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if detected_instances is None:
            proposals, _ = self._propose(batched_inputs, images, features, None)
            results, _ = self.roi_heads(images, features, proposals, None)
        else:
            known = [x.to(self.device) for x in detected_instances]
            results = self.roi_heads.forward_with_given_boxes(features, known)
        if not do_postprocess:
            return results
        return self._postprocess(results, batched_inputs, images.image_sizes)

    def _propose(
        self,
        batched_inputs: Sequence[Mapping[str, Any]],
        images: ImageList,
        features: Mapping[str, Tensor],
        targets: Sequence[Instances] | None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Return the proposals of every image and the losses of making them.

        Raises:
            ValueError: there is no generator, and an input has no proposals.
        """
        if self.proposal_generator is not None:
            return self.proposal_generator(images, features, targets)
        if not all("proposals" in x for x in batched_inputs):
            raise ValueError("proposals: expected in every input of a model without a generator")
        return [x["proposals"].to(self.device) for x in batched_inputs], {}

    def visualize_training(
        self, batched_inputs: Sequence[Mapping[str, Any]], proposals: Sequence[Instances]
    ) -> None:
        """Put the first image into the event storage: ground truth left, best proposals right.

        Args:
            batched_inputs: see the top of the module.
            proposals: for each image ``proposal_boxes``, best first.
        """
        best = proposals[0].proposal_boxes[:MAX_DRAWN_BOXES]
        self._put_picture(
            batched_inputs[0],
            best,
            self.input_format,
            "ground truth (left), best proposals (right)",
        )


@META_ARCH_REGISTRY.register()
class ProposalNetwork(ImageModel):
    """A backbone and a proposal generator: boxes that may hold an object, without classes."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """Put the parts together.

        Args:
            backbone: turns images into feature maps.
            proposal_generator: turns maps into proposals.
            pixel_mean: mean of each channel, in the units of the images.
            pixel_std: deviation of each channel.
        """
        super().__init__()
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self._set_statistics(pixel_mean, pixel_std)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that the configuration holds, with the parts built.

        Args:
            cfg: the yacs configuration.
        """
        node, backbone = cfg.MODEL, build_backbone(cfg)
        generator = build_proposal_generator(cfg, backbone.output_shape())
        statistics = {"pixel_mean": node.PIXEL_MEAN, "pixel_std": node.PIXEL_STD}
        return {"backbone": backbone, "proposal_generator": generator, **statistics}

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> Any:
        """Compute losses in training, proposals in inference.

        Args:
            batched_inputs: see the top of the module.

        Returns:
            In training the named losses. In inference, for each image, ``{"proposals": ...}`` with
            ``proposal_boxes`` and ``objectness_logits``, in the size that the input asks for.
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        targets = None
        if "instances" in batched_inputs[0]:
            targets = [x["instances"].to(self.device) for x in batched_inputs]
        proposals, losses = self.proposal_generator(images, features, targets)
        if self.training:
            return losses
        sizes = [
            (x.get("height", size[0]), x.get("width", size[1]))
            for x, size in zip(batched_inputs, images.image_sizes, strict=True)
        ]
        return [
            {"proposals": detector_postprocess(found, *size)}
            for found, size in zip(proposals, sizes, strict=True)
        ]

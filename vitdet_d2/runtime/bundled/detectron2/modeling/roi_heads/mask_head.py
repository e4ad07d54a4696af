# SPDX-License-Identifier: Apache-2.0
"""Masks of regions: a small fully convolutional network, its loss and its inference.

Shapes: ``B`` regions over all images, ``K`` foreground classes (1 for class-agnostic masks),
``S`` the side of a predicted mask in cells.

Source: Mask R-CNN, arXiv 1703.06870, section 3; equals detectron2 ``roi_heads/mask_head.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling.by_name import part_by_name
from detectron2.modeling.roi_heads.convolutions import add_convolutions
from detectron2.modeling.weight_fill import fill_msra
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage, get_event_storage
from detectron2.utils.registry import Registry
from torch import Tensor, nn

__all__ = [
    "ROI_MASK_HEAD_REGISTRY",
    "BaseMaskRCNNHead",
    "MaskRCNNConvUpsampleHead",
    "build_mask_head",
    "mask_rcnn_inference",
    "mask_rcnn_loss",
]

ROI_MASK_HEAD_REGISTRY = Registry("ROI_MASK_HEAD")
ROI_MASK_HEAD_REGISTRY.__doc__ = """Mask heads by name: ``obj(cfg, input_shape)``."""


def _masks_of_classes(logits: Tensor, classes: Sequence[Tensor]) -> Tensor:
    """Select ``(B, S, S)`` from ``(B, K, S, S)``: each region's own class."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    region = torch.arange(len(logits), device=logits.device)
    return logits[region, torch.cat(list(classes)).long()]


def _mask_targets(instances: Sequence[Instances], side: int, device: torch.device) -> Tensor:
    """Crop the ground-truth masks to the boxes: ``(B, S, S)`` bool.

    Raises:
        ValueError: an image has objects without masks.
    """
    targets = []
    for x in instances:
        if not x.has("gt_masks"):
            raise ValueError(
                "gt_masks: expected masks in the ground truth, got none; "
                "give the data set segmentations, or train a model without a mask head"
            )
        masks = x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, side).to(device)
        targets.append(masks if masks.dtype == torch.bool else masks > 0.5)
    return torch.cat(targets)


def _log_mask_statistics(storage: EventStorage, logits: Tensor, targets: Tensor) -> None:
    """Log pixel accuracy and the two kinds of error, with one wait for the device."""
    wrong = (logits > 0) != targets
    num_wrong, num_missed, num_positive = torch.stack(
        [wrong.sum(), (wrong & targets).sum(), targets.sum()]
    ).tolist()
    num_pixels = targets.numel()
    storage.put_scalar("mask_rcnn/accuracy", 1 - num_wrong / max(num_pixels, 1))
    storage.put_scalar(
        "mask_rcnn/false_positive", (num_wrong - num_missed) / max(num_pixels - num_positive, 1)
    )
    storage.put_scalar("mask_rcnn/false_negative", num_missed / max(num_positive, 1))


def mask_rcnn_loss(
    pred_mask_logits: Tensor, instances: Sequence[Instances], vis_period: int = 0
) -> Tensor:
    """Compute the mean binary cross entropy of the masks of the ground-truth classes.

    Args:
        pred_mask_logits: ``(B, K, S, S)``, or ``(B, 1, S, S)`` for class-agnostic masks.
        instances: for each image the ``B`` regions in order, with ``proposal_boxes``,
            ``gt_classes`` and ``gt_masks``.
        vis_period: steps between pictures in the event storage; 0 for none.

    Returns:
        A scalar; 0, with a graph, when there are no regions.

    Raises:
        ValueError: masks that are not square, or no ground-truth masks.
    """
    side = pred_mask_logits.shape[2]
    if pred_mask_logits.shape[3] != side:
        raise ValueError(
            f"pred_mask_logits: expected square masks, got {tuple(pred_mask_logits.shape)}"
        )
    instances = [x for x in instances if len(x) > 0]
    if not instances:
        return pred_mask_logits.sum() * 0

    logits = _masks_of_classes(pred_mask_logits, [x.gt_classes for x in instances])
    targets = _mask_targets(instances, side, logits.device)
    storage = get_event_storage()
    _log_mask_statistics(storage, logits.detach(), targets)
    if vis_period > 0 and storage.iter % vis_period == 0:
        pairs = torch.cat([logits.detach().sigmoid(), targets.to(logits.dtype)], dim=2)
        for i, pair in enumerate(pairs):
            name = f"mask {i}: prediction (left), ground truth (right)"
            storage.put_image(name, pair.expand(3, -1, -1))
    return F.binary_cross_entropy_with_logits(logits, targets.to(torch.float32))


def mask_rcnn_inference(pred_mask_logits: Tensor, pred_instances: Sequence[Instances]) -> None:
    """Give every detection the mask of its class, as the field ``pred_masks``.

    Args:
        pred_mask_logits: ``(B, K, S, S)``, or ``(B, 1, S, S)`` for class-agnostic masks.
        pred_instances: for each image the ``B`` detections in order, with ``pred_classes``; each
            gets ``pred_masks`` ``(len, 1, S, S)``, probabilities.
    """
    logits = _masks_of_classes(pred_mask_logits, [x.pred_classes for x in pred_instances])
    masks = logits[:, None].sigmoid().split([len(x) for x in pred_instances])
    for x, image_masks in zip(pred_instances, masks, strict=True):
        x.pred_masks = image_masks


class BaseMaskRCNNHead(nn.Module):
    """Loss and inference of mask heads; a subclass gives the ``layers``."""

    @configurable
    def __init__(self, *, loss_weight: float = 1.0, vis_period: int = 0) -> None:
        """Store the options.

        Args:
            loss_weight: factor of the loss.
            vis_period: steps between pictures in the event storage; 0 for none.
        """
        super().__init__()
        self.loss_weight = loss_weight
        self.vis_period = vis_period

    @classmethod
    def from_config(
        cls,
        cfg: Any,
        input_shape: ShapeSpec,  # noqa: ARG003  (subclasses need it)
    ) -> dict[str, Any]:
        """Return the arguments that the configuration holds.

        Args:
            cfg: the yacs configuration.
            input_shape: of a region's features.
        """
        return {"vis_period": cfg.VIS_PERIOD}

    def layers(self, x: Tensor) -> Tensor:
        """Return ``(B, K, S, S)`` logits.

        Args:
            x: ``(B, C, H, W)`` features of regions.

        Raises:
            NotImplementedError: the subclass has no layers.
        """
        raise NotImplementedError(f"{type(self).__name__} must define layers()")

    def forward(
        self, x: Tensor, instances: Sequence[Instances]
    ) -> dict[str, Tensor] | Sequence[Instances]:
        """Compute the loss in training, the masks in inference.

        Args:
            x: ``(B, C, H, W)`` features of regions.
            instances: for each image the regions; see ``mask_rcnn_loss`` for the fields in
                training, ``mask_rcnn_inference`` for those in inference.

        Returns:
            ``{"loss_mask": ...}`` in training, ``instances`` with ``pred_masks`` in inference.
        """
        logits = self.layers(x)
        if self.training:
            loss = mask_rcnn_loss(logits, instances, self.vis_period)
            return {"loss_mask": loss * self.loss_weight}
        mask_rcnn_inference(logits, instances)
        return instances


@ROI_MASK_HEAD_REGISTRY.register()
class MaskRCNNConvUpsampleHead(BaseMaskRCNNHead, nn.Sequential):  # type: ignore[misc]
    """3x3 convolutions, a 2x up-sampling and a 1x1 predictor."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        conv_dims: Sequence[int],
        conv_norm: str = "",
        loss_weight: float = 1.0,
        vis_period: int = 0,
    ) -> None:
        """Build the layers, ``mask_fcn<i>`` from 1, ``deconv`` and ``predictor``.

        Args:
            input_shape: its channels are those of the regions' features.
            num_classes: foreground classes; 1 for class-agnostic masks.
            conv_dims: output channels of the convolutions, and last of the up-sampling.
            conv_norm: normalisation after convolutions, see ``get_norm``; "" for none.
            loss_weight: factor of the loss.
            vis_period: steps between pictures in the event storage; 0 for none.

        Raises:
            ValueError: ``conv_dims`` is empty.
        """
        super().__init__(loss_weight=loss_weight, vis_period=vis_period)
        if not conv_dims:
            raise ValueError("conv_dims: expected at least the width of the up-sampling, got none")
        channels = input_shape.channels or 0
        hidden = conv_dims[:-1]
        self.conv_norm_relus = add_convolutions(self, "mask_fcn", channels, hidden, conv_norm)
        channels = hidden[-1] if hidden else channels
        self.deconv = nn.ConvTranspose2d(channels, conv_dims[-1], kernel_size=2, stride=2)
        self.deconv_relu = nn.ReLU()
        self.predictor = Conv2d(conv_dims[-1], num_classes, kernel_size=1)

        for conv in self.conv_norm_relus:
            fill_msra(conv)
        fill_msra(self.deconv)
        # Small weights: every mask starts near probability 1/2.
        nn.init.normal_(self.predictor.weight, std=0.001)
        assert self.predictor.bias is not None, "the mask predictor has a bias"
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return the arguments that ``MODEL.ROI_MASK_HEAD`` holds.

        Args:
            cfg: the yacs configuration.
            input_shape: of a region's features.
        """
        node = cfg.MODEL.ROI_MASK_HEAD
        num_layers = node.NUM_CONV + 1  # the up-sampling has the width of the convolutions
        return {
            **super().from_config(cfg, input_shape),
            "input_shape": input_shape,
            "conv_dims": [node.CONV_DIM] * num_layers,
            "conv_norm": node.NORM,
            "num_classes": 1 if node.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        }

    def layers(self, x: Tensor) -> Tensor:
        """Return ``(B, K, S, S)`` logits.

        Args:
            x: ``(B, C, S / 2, S / 2)`` features of regions.
        """
        return nn.Sequential.forward(self, x)


def build_mask_head(cfg: Any, input_shape: ShapeSpec) -> Any:
    """Build the mask head ``MODEL.ROI_MASK_HEAD.NAME``.

    Args:
        cfg: the yacs configuration.
        input_shape: of a region's features; of the maps by name, where nothing is cropped.

    Raises:
        KeyError: no mask head has the name.
    """
    name = cfg.MODEL.ROI_MASK_HEAD.NAME
    return part_by_name(ROI_MASK_HEAD_REGISTRY, name, "MODEL.ROI_MASK_HEAD.NAME")(cfg, input_shape)

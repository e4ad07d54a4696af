# SPDX-License-Identifier: Apache-2.0
"""Detections of a batch on the CPU, their masks as the network gives them.

Detectron2 pastes every mask into a bitmap of the whole image on the device, and an evaluator copies
all of them to the CPU. Here what the heads predict is copied, all images at once, a thousandth as
much; what needs bitmaps pastes them later.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances, ROIMasks
from torch import Tensor, nn

from vitdet_d2.geometry.region_masks import RegionMasks

Inputs = Sequence[Mapping[str, Any]]

# What a model must have left as Detectron2 wrote it, to be asked for its raw predictions.
_OWN_METHODS = ("forward", "inference", "_postprocess")
_REGIONS = "mask_regions"


class RegionDetector(nn.Module):
    """A detector whose outputs are on the CPU, with `RegionMasks` in place of bitmaps."""

    def __init__(self, model: nn.Module, amp_dtype: torch.dtype | None = None) -> None:
        """Wrap a detector, which keeps its mode.

        Args:
            model: in Detectron2's format. One that is no `GeneralizedRCNN`, or does its own
                post-processing, gives what it gives.
            amp_dtype: what autocast computes in; None: as the weights are.
        """
        super().__init__()
        self.model = model
        self.amp_dtype = amp_dtype
        self.training = model.training

    def forward(self, inputs: Inputs) -> list[dict[str, Any]]:
        """Detect.

        Args:
            inputs: of Detectron2's models: ``image``, and ``height`` and ``width`` of the output.

        Returns:
            What the model gives for each, ``instances`` on the CPU.
        """
        with self.precision():
            if not gives_regions(self.model):
                return [_on_cpu(output) for output in self.model(inputs)]
            with _raw_outputs(self.model):
                found = self.model(inputs)
        outputs = zip(to_cpu(found), inputs, strict=True)
        return [{"instances": in_output_size(instances, given)} for instances, given in outputs]

    def precision(self) -> contextlib.AbstractContextManager[object]:
        """Return a context that computes in the wanted type."""
        if self.amp_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(next(self.model.parameters()).device.type, dtype=self.amp_dtype)


def gives_regions(model: nn.Module) -> bool:
    """Whether a model can be asked for masks before they are pasted.

    Args:
        model: a detector.
    """
    if not isinstance(model, GeneralizedRCNN) or model._forward_hooks:
        return False  # a forward hook expects what the model gives to everyone
    return all(
        # Someone may have exchanged a method of the object alone.
        getattr(type(model), name) is getattr(GeneralizedRCNN, name) and name not in vars(model)
        for name in _OWN_METHODS
    )


@contextlib.contextmanager
def _raw_outputs(model: nn.Module) -> Iterator[None]:
    """Let a call of the model leave post-processing out; its hooks run as always."""
    raw = functools.partial(type(model).inference, model, do_postprocess=False)  # type: ignore[attr-defined]
    # The method is looked up in the object before the class; no module or parameter is set.
    object.__setattr__(model, "inference", raw)
    try:
        yield
    finally:
        object.__delattr__(model, "inference")


def to_cpu(found: Sequence[Instances]) -> list[Instances]:
    """Copy the detections of a batch to the CPU, each field of all images at once.

    Args:
        found: on one device, with the same fields.
    """
    if not found:
        return []
    counts = [len(instances) for instances in found]
    copies = [Instances(instances.image_size) for instances in found]
    for name, value in found[0].get_fields().items():
        values = [instances.get(name) for instances in found]
        if isinstance(value, (Tensor, Boxes, ROIMasks)):
            tensors = [v if isinstance(v, Tensor) else v.tensor for v in values]
            parts = torch.cat(tensors).cpu().split(counts)
            values = list(parts if isinstance(value, Tensor) else map(type(value), parts))
        else:
            values = [v.to("cpu") if hasattr(v, "to") else v for v in values]
        for copy, part in zip(copies, values, strict=True):
            copy.set(name, part)
    return copies


def in_output_size(instances: Instances, given: Mapping[str, Any]) -> Instances:
    """Scale detections to the size that an input asks for, without pasting their masks.

    Args:
        instances: on the CPU, in the network's size; changed.
        given: the input, perhaps with ``height`` and ``width``.
    """
    height, width = instances.image_size
    height, width = given.get("height", height), given.get("width", width)
    if not instances.has("pred_masks"):
        return detector_postprocess(instances, height, width)
    masks = instances.pred_masks
    instances.remove("pred_masks")
    instances.set(_REGIONS, masks.tensor if isinstance(masks, ROIMasks) else masks[:, 0])
    scaled = detector_postprocess(instances, height, width)
    boxes = scaled.pred_boxes.tensor
    scaled.pred_masks = RegionMasks(scaled.get(_REGIONS), boxes, (height, width))
    scaled.remove(_REGIONS)
    return scaled


def pasted(instances: Instances) -> Instances:
    """Return detections with bitmaps ``(N, H, W)`` in place of `RegionMasks`.

    Args:
        instances: on the CPU; not changed.
    """
    fields = dict(instances.get_fields())
    masks = fields.get("pred_masks")
    if isinstance(masks, RegionMasks):
        fields["pred_masks"] = masks.paste()
    return Instances(instances.image_size, **fields)


def _on_cpu(output: dict[str, Any]) -> dict[str, Any]:
    return {k: v.to("cpu") if isinstance(v, Instances) else v for k, v in output.items()}

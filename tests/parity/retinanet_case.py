# SPDX-License-Identifier: Apache-2.0
"""One RetinaNet with closed-form weights, run in whichever Detectron2 is active.

Both runtimes are called ``detectron2``, so each runs in a process of its own:

    VITDET_D2_RUNTIME=bundled python -m tests.parity.retinanet_case l1 bundled.pt --dtype float64
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import vitdet_d2  # isort: skip  (decides which Detectron2 this process uses)
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import RetinaNet, retinanet
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from tests import closed_form
from tests.parity import mask_rcnn_case
from tests.parity.mask_rcnn_case import PIXEL_MEAN, PIXEL_STD
from vitdet_d2 import runtime

assert vitdet_d2.__version__, "the package under test has no version"

_STRIDES = [8, 16, 32, 64, 128]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison; the batch is that of the Mask R-CNN case, and an image without objects.

    Attributes:
        norm: of the head.
        box_loss: as ``box_reg_loss_type``.
        beta: as ``smooth_l1_beta``.
        top_feature: the map that P6 is made from.
        in_channels: its channels.
    """

    norm: str = ""
    box_loss: str = "smooth_l1"
    beta: float = 0.0
    top_feature: str = "res5"
    in_channels: int = 24
    channels: int = 32
    num_classes: int = 5
    masks: bool = False
    image_sizes: tuple[tuple[int, int], ...] = ((128, 192), (112, 160))


CASES = {
    "l1": Case(),
    "smooth": Case(beta=0.1, top_feature="p5", in_channels=32),
    "giou": Case(box_loss="giou", norm="GN", channels=64),  # two channels in each group
    "diou": Case(box_loss="diou"),
    "ciou": Case(box_loss="ciou"),
    "batch_norm": Case(norm="BN"),
}


class Stages(Backbone):
    """Strided convolutions, each a stage."""

    def __init__(self) -> None:
        super().__init__()
        widths = {"res3": 12, "res4": 16, "res5": 24}
        self._out_features = list(widths)
        self._out_feature_channels = widths
        self._out_feature_strides = {"res3": 8, "res4": 16, "res5": 32}
        self.res3 = nn.Conv2d(3, 12, kernel_size=8, stride=8)
        self.res4 = nn.Conv2d(12, 16, kernel_size=2, stride=2)
        self.res5 = nn.Conv2d(16, 24, kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {}
        for name in self._out_features:
            x = maps[name] = torch.tanh(getattr(self, name)(x))
        return maps


def build(case: Case, mode: Literal["eval", "train"], *, seed: int | None = None) -> RetinaNet:
    """Build the model with closed-form weights, or with its own initialisation from a seed."""
    if seed is not None:
        torch.manual_seed(seed)
    c = case.channels
    model = RetinaNet(
        backbone=FPN(
            bottom_up=Stages(),
            in_features=["res3", "res4", "res5"],
            out_channels=c,
            top_block=LastLevelP6P7(case.in_channels, c, case.top_feature),
        ),
        head=RetinaNetHead(
            input_shape=[ShapeSpec(channels=c)] * len(_STRIDES),
            num_classes=case.num_classes,
            num_anchors=9,
            conv_dims=[c, c],
            norm=case.norm,
        ),
        head_in_features=["p3", "p4", "p5", "p6", "p7"],
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[2 * s * 2 ** (i / 3) for i in range(3)] for s in _STRIDES],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=_STRIDES,
            offset=0.0,
        ),
        box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        anchor_matcher=Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True),
        num_classes=case.num_classes,
        smooth_l1_beta=case.beta,
        box_reg_loss_type=case.box_loss,
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
        input_format="RGB",
    )
    if seed is None:
        closed_form.fill_(model)
        _condition(model, mode)
    return model


@torch.no_grad()
def _condition(model: RetinaNet, mode: Literal["eval", "train"]) -> None:
    """Adjust the closed-form weights, so that a comparison says something.

    In inference, detections of several classes are wanted, and not all anchors at once. In
    training, hidden units are wanted that rounding does not switch on and off.
    """
    head = model.head
    head.bbox_pred.weight.mul_(0.3)
    if mode == "eval":
        head.cls_score.weight.sub_(head.cls_score.weight.mean(dim=1, keepdim=True)).mul_(2.0)
        head.cls_score.bias.sub_(2.5)
        return
    for layer in [*head.cls_subnet, *head.bbox_subnet]:
        if isinstance(layer, nn.GroupNorm) or hasattr(layer, "running_mean"):
            layer.bias.add_(2.0)
        elif isinstance(layer, nn.Conv2d) and len(head.cls_subnet) == 4:  # without norms
            layer.bias.add_(2.0)
        elif isinstance(layer, nn.ModuleList):
            layer.bias.add_(2.0)


def inputs(case: Case) -> list[dict[str, Any]]:
    """Return the batch: images with objects, and one without."""
    batch = mask_rcnn_case.inputs(case)  # type: ignore[arg-type]  (reads the same names)
    empty = Instances((96, 96), gt_boxes=Boxes(torch.zeros(0, 4)))
    empty.gt_classes = torch.zeros(0, dtype=torch.int64)
    picture = closed_form.image("empty", 96, 96)
    return [*batch, {"image": picture, "instances": empty, "height": 48, "width": 96}]


@contextmanager
def _double_focal_loss() -> Iterator[None]:
    """Let the focal loss of a float64 model be computed in float64, as the bundled one is.

    fvcore's turns all logits into float32.
    """
    if runtime.current().name == "bundled":
        yield
        return
    original = retinanet.sigmoid_focal_loss_jit
    retinanet.sigmoid_focal_loss_jit = sigmoid_focal_loss
    try:
        yield
    finally:
        retinanet.sigmoid_focal_loss_jit = original


def run_train(model: RetinaNet, batch: list[dict[str, Any]], is_double: bool) -> dict[str, Any]:
    """Return losses and gradients of two steps without an update, and what was logged."""
    model.train()
    steps = []
    with EventStorage() as storage:
        for _ in range(2):  # the second divides by another running average
            model.zero_grad()
            if is_double:
                with _double_focal_loss():
                    losses = model(batch)
            else:
                losses = model(batch)
            sum(losses.values()).backward()
            steps.append({name: loss.detach() for name, loss in losses.items()})
        logged = {name: value for name, (value, _) in storage.latest().items()}
    return {
        "losses": {f"{name}{i}": v for i, step in enumerate(steps) for name, v in step.items()},
        "gradients": {
            name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
        },
        "logged": {**logged, "normalizer": float(model.loss_normalizer)},
        "statistics": {
            name: value.clone() for name, value in model.named_buffers() if "running" in name
        },
    }


def run(case: Case, dtype: torch.dtype) -> dict[str, Any]:
    """Return everything that is compared."""
    batch = inputs(case)
    model = build(case, "eval").to(dtype)
    keys = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = mask_rcnn_case.run_eval(model, batch)  # type: ignore[arg-type]
    train = run_train(build(case, "train").to(dtype), batch, dtype == torch.float64)
    return {"keys": keys, "eval": found, "train": train}


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """Return what a golden keeps: few numbers, each of which depends on a whole tensor."""

    def digest(name: str, value: Tensor) -> list[float]:
        value = value.double()
        weights = closed_form.tensor(name, tuple(value.shape))
        return [float(value.abs().max()), float((value * weights).sum())]

    return {
        "eval": [{name: v.tolist() for name, v in x.items()} for x in results["eval"]],
        "losses": {name: float(v) for name, v in results["train"]["losses"].items()},
        "gradients": {name: digest(name, v) for name, v in results["train"]["gradients"].items()},
        "logged": results["train"]["logged"],
    }


def main() -> None:
    """Run one case and keep its results."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("output", type=Path)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--golden", action="store_true", help="keep a summary, as JSON")
    args = parser.parse_args()
    case = CASES[args.case]
    results = run(case, getattr(torch, args.dtype))
    if args.golden:
        args.output.write_text(json.dumps(summary(results), indent=0) + "\n")
        return
    results["initial"] = build(case, "eval", seed=0).state_dict()
    torch.save(results, args.output)


if __name__ == "__main__":
    main()

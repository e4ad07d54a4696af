# SPDX-License-Identifier: Apache-2.0
"""One file with the layout of a released checkpoint, read by Detectron2 and by us.

An installed Detectron2 writes the file, and reads it back with its own ``DetectionCheckpointer``
into a model of its own parts. The bundled runtime reads the same file into the model of our recipe
of that name, at Ti size.

    VITDET_D2_RUNTIME=installed python -m tests.parity.zoo_case vitdet_b FILE.pkl OUTPUT.pt
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import vitdet_d2  # isort: skip  (decides which Detectron2 this process uses)
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from torch import nn

from tests.parity.mask_rcnn_case import CASES, Case, build, inputs, run_eval
from tests.zoo.released_layout import write_released
from vitdet_d2 import runtime
from vitdet_d2.backbones.sizes import vit_arguments
from vitdet_d2.pretrained import load
from vitdet_d2.zoo import for_inference, get_config

assert vitdet_d2.__version__, "the package under test has no version"

_LVIS = {"federated": True, "num_classes": 1203}
MODELS = {
    "vitdet_b": CASES["ti"],
    "cascade_vitdet_b": CASES["ti_cascade"],
    "lvis_vitdet_b": replace(CASES["ti"], **_LVIS),
    "lvis_cascade_vitdet_b": replace(CASES["ti_cascade"], **_LVIS),
}


def read_by_detectron2(case: Case, path: Path) -> nn.Module:
    """Write the file, and read it into another model."""
    source = build(case, "eval")
    if case.cascade:
        # The mean of three stages is nearer to the middle; detections are wanted all the same.
        for name, value in source.state_dict().items():
            if name.endswith("cls_score.weight"):
                value.mul_(3.6)
    write_released(path, {name: value.numpy() for name, value in source.state_dict().items()})
    model = build(case, "eval", seed=1)
    if case.cascade and not case.federated:
        for predictor in model.roi_heads.box_predictor:
            predictor.test_score_thresh = 0.05  # of the COCO recipes; the case has a lower one
    DetectionCheckpointer(model).load(str(path))
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    return model


def read_by_us(name: str, case: Case, path: Path) -> nn.Module:
    """Read the file into the model of a recipe, with the sizes of the case."""
    model = get_config(name).model
    model.backbone.net.update(vit_arguments("ti"))
    model.backbone.square_pad = case.square_pad
    proposals = case.num_proposals
    model.proposal_generator.pre_nms_topk = (2 * proposals, proposals)
    model.proposal_generator.post_nms_topk = (proposals, proposals)
    detector: nn.Module = instantiate(for_inference(model))
    load(detector, path, strict_heads=True)
    return detector


def main() -> None:
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("file", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    case = MODELS[args.name]
    if runtime.current().name == "installed":
        model = read_by_detectron2(case, args.file)
    else:
        model = read_by_us(args.name, case, args.file)
    # In float64 nothing but the order of sums differs.
    torch.save(run_eval(model.double(), inputs(case)), args.output)


if __name__ == "__main__":
    main()

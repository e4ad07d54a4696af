# SPDX-License-Identifier: Apache-2.0
"""Measure the goldens on Detectron2's own ViT and SimpleFeaturePyramid, in float64.

    export PYTHONPATH=DETECTRON2_CHECKOUT VITDET_D2_RUNTIME=installed
    python -m tests.backbones.make_golden_vit

Written with detectron2 02b5c4e, torch 2.15, CPU. Stored are four fixed projections of every output
and gradient, and one output as a whole, to look at when a projection differs.
"""

from __future__ import annotations

from pathlib import Path

import vitdet_d2  # isort: skip
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.vit import SimpleFeaturePyramid, ViT
from safetensors.torch import save_file

from tests.backbones.vit_case import CASES, PYRAMID, TINY, fingerprint, pixels, run

GOLDEN = Path(__file__).with_name("golden_vit.safetensors")


def main() -> None:
    """Write the file."""
    assert vitdet_d2.__version__
    stored = {}
    for case, (arguments, hw) in CASES.items():
        outputs, gradients = run(ViT(**{**TINY, **arguments}), pixels(hw))
        stored[f"{case}/output"] = fingerprint(outputs["last_feat"])
        if case == "base":
            stored["base/whole_output"] = outputs["last_feat"].float()
        for name, gradient in gradients.items():
            stored[f"{case}/gradient/{name}"] = fingerprint(gradient)
    pyramid = SimpleFeaturePyramid(
        ViT(**TINY), in_feature="last_feat", top_block=LastLevelMaxPool(), **PYRAMID
    )
    outputs, gradients = run(pyramid, pixels((64, 96)))
    for name, value in outputs.items():
        stored[f"pyramid/output/{name}"] = fingerprint(value)
    for name, value in gradients.items():
        stored[f"pyramid/gradient/{name}"] = fingerprint(value)
    save_file({k: v.contiguous() for k, v in stored.items()}, GOLDEN)


if __name__ == "__main__":
    main()

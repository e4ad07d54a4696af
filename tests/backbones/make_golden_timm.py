# SPDX-License-Identifier: Apache-2.0
"""Measure the goldens on Detectron2's own SwinTransformer and MViT, in float64.

    export PYTHONPATH=DETECTRON2_CHECKOUT VITDET_D2_RUNTIME=installed
    python -m tests.backbones.make_golden_timm

Written with detectron2 02b5c4e, torch 2.15, CPU. Stored are four fixed projections of every output
and gradient, by Detectron2's names.
"""

from __future__ import annotations

from pathlib import Path

import vitdet_d2  # isort: skip
from detectron2.modeling.backbone.mvit import MViT
from detectron2.modeling.backbone.swin import SwinTransformer
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.backbones.timm_parity import IMAGES, THEIRS
from tests.backbones.vit_case import fingerprint, pixels, run

GOLDEN = Path(__file__).with_name("golden_timm.safetensors")
CLASSES: dict[str, type[nn.Module]] = {"swin": SwinTransformer, "mvit": MViT}


def main() -> None:
    """Write the file."""
    assert vitdet_d2.__version__
    stored: dict[str, Tensor] = {}
    for kind, cls in CLASSES.items():
        for size, hw in IMAGES.items():
            model = cls(**THEIRS[kind]).eval()
            outputs, gradients = run(model, pixels(hw))
            for i, value in enumerate(outputs.values()):
                stored[f"{kind}/{size}/output/{i}"] = fingerprint(value)
            if size == "odd":  # all blocks, in windows that are padded
                for name, gradient in gradients.items():
                    stored[f"{kind}/{size}/gradient/{name}"] = fingerprint(gradient)
    save_file({k: v.contiguous() for k, v in stored.items()}, GOLDEN)


if __name__ == "__main__":
    main()

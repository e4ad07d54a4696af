# SPDX-License-Identifier: Apache-2.0
"""Compare whole ViT + SimpleFeaturePyramid backbones with those of an installed Detectron2.

    export PYTHONPATH=DETECTRON2_CHECKOUT VITDET_D2_RUNTIME=installed
    python -m benchmarks.parity_backbones b --sizes 1024x1024 800x1216

Both get the same weights from a formula of name and shape (nothing is zero) and the same image, and
run in float32 without gradients. Prints max|a-b| / max|b| over the levels of the pyramid, and the
CPU seconds of each; exits with 1 when a difference exceeds 1e-5. One model is in memory at a time.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from functools import partial

import vitdet_d2  # isort: skip
import torch
from detectron2.modeling.backbone import vit as original
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn

from tests.closed_form import fill_, image
from vitdet_d2.backbones import VIT_SIZES, ViT, vit_arguments
from vitdet_d2.necks import SimpleFeaturePyramid

TOLERANCE = 1e-5


def build(vit: type[nn.Module], pyramid: type[nn.Module], size: str) -> nn.Module:
    """Return the backbone of the ViTDet recipes."""
    net = vit(
        **vit_arguments(size),
        drop_path_rate=0.1,
        window_size=14,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
    )
    arguments = {"in_feature": "last_feat", "out_channels": 256, "square_pad": 1024}
    return pyramid(
        net, scale_factors=(4.0, 2.0, 1.0, 0.5), top_block=LastLevelMaxPool(), **arguments
    )


@torch.no_grad()
def features(model: nn.Module, hw: tuple[int, int]) -> tuple[dict[str, Tensor], float]:
    """Return the pyramid of one image, and the CPU seconds it took."""
    x = ((image("x", *hw) - 127.5) / 60)[None]
    start = time.process_time()
    outputs = model(x)
    return outputs, time.process_time() - start


def main() -> int:
    """Run the comparisons named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", choices=list(VIT_SIZES))
    parser.add_argument("--sizes", nargs="+", default=["1024x1024", "800x1216"])
    arguments = parser.parse_args()
    sizes = [(int(h), int(w)) for h, w in (size.split("x") for size in arguments.sizes)]
    if original.ViT is ViT:
        parser.error("needs an installed Detectron2; the bundled one re-exports our own ViT")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    print(f"vitdet_d2 {vitdet_d2.__version__} against {original.__file__}")
    worst = 0.0
    for size in arguments.models:
        theirs = fill_(build(original.ViT, original.SimpleFeaturePyramid, size).eval())
        expected = [features(theirs, hw) for hw in sizes]
        del theirs
        ours = fill_(build(ViT, SimpleFeaturePyramid, size).eval())
        for hw, (reference, their_time) in zip(sizes, expected, strict=True):
            outputs, our_time = features(ours, hw)
            assert outputs.keys() == reference.keys(), "the levels differ"
            errors = {
                name: ((outputs[name] - b).abs().max() / b.abs().max()).item()
                for name, b in reference.items()
            }
            worst = max(worst, *errors.values())
            levels = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
            print(f"ViT-{size.upper()} {hw[0]}x{hw[1]}: {levels}", end="")
            print(f"; CPU seconds {our_time:.1f}, original {their_time:.1f}", flush=True)
    print(f"largest difference {worst:.1e}, allowed {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Compare the whole ViT-B Mask R-CNN at 1024 x 1024 with that of an installed Detectron2.

Needs Detectron2 on the path, about 20 GB of memory and some minutes; run from the root of the
repository:

    python benchmarks/parity_mask_rcnn.py [--case ti|b] [--dtype float32|float64]

Both runtimes run with closed-form weights in processes of their own (tests/parity). Printed are the
differences as max|a-b| / max|b|, for boxes in pixels.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the shared case is part of the tests

import torch
from torch import Tensor

from tests.parity.two_runtimes import run_in_process


def _difference(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return float((a - b).abs().max() / b.abs().max())


def main() -> None:
    """Run both runtimes and print the differences."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--case", choices=("tiny", "ti", "b"), default="b")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = (
            run_in_process(name, args.case, args.dtype, Path(folder))
            for name in ("bundled", "installed")
        )
    print(f"torch {torch.__version__}, case {args.case}, {args.dtype}")
    print("state-dict keys and shapes equal:", ours["keys"] == theirs["keys"])
    for i, (a, b) in enumerate(zip(ours["eval"], theirs["eval"], strict=True)):
        same = a["classes"].tolist() == b["classes"].tolist()
        num_classes = len(b["classes"].unique())
        print(f"image {i}: {len(b['classes'])} detections of {num_classes} classes, same: {same}")
        if same:
            wrong = (a["masks"] != b["masks"]).sum() / (a["masks"] | b["masks"]).sum()
            print(f"  boxes {float((a['boxes'] - b['boxes']).abs().max()):.2e} px")
            print(f"  scores {_difference(a['scores'], b['scores']):.2e}")
            print(f"  mask pixels {float(wrong):.2e}")
    for name, loss in theirs["train"]["losses"].items():
        print(f"{name} {_difference(ours['train']['losses'][name], loss):.2e}")
    gradients = theirs["train"]["gradients"]
    worst = max(gradients, key=lambda k: _difference(ours["train"]["gradients"][k], gradients[k]))
    value = _difference(ours["train"]["gradients"][worst], gradients[worst])
    print(f"worst of {len(gradients)} gradients: {value:.2e} ({worst})")


if __name__ == "__main__":
    main()

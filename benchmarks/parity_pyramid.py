# SPDX-License-Identifier: Apache-2.0
"""Compare PVT v1, PVT v2 and MiT at full size with their official classes.

    python -m benchmarks.parity_pyramid PVT_CHECKOUT SEGFORMER_CHECKOUT --models pvt_tiny mit_b0

The official model gets weights from a formula of name and shape (nothing is zero), ours those, by
name. Both run the same image in float32. Prints max|a-b| / max|b| over the four maps, and the CPU
seconds of a forward pass and of one with backward pass; exits with 1 when a difference exceeds
1e-5. PVT v1 is compared at sizes at which the official code is right.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import vitdet_d2  # isort: skip
import torch
from torch import Tensor, nn

from tests.backbones.make_golden_pyramid import Named, import_file
from tests.closed_form import fill_, image
from vitdet_d2.backbones import PVT, MiT, PVTv2, mit_arguments, pvt_arguments, pvt_v2_arguments
from vitdet_d2.backbones.pvt_sizes import MIT_SIZES, PVT_SIZES, PVT_V2_SIZES

TOLERANCE = 1e-5
MODELS = [
    *(f"pvt_{size}" for size in PVT_SIZES),
    *(f"pvt_v2_{size}" for size in PVT_V2_SIZES),
    *(f"mit_{size}" for size in MIT_SIZES),
]


def ours(name: str) -> nn.Module:
    """Return our model of a size."""
    family, _, size = name.partition("_")
    if family == "mit":
        return MiT(**mit_arguments(size))
    if size.startswith("v2_"):
        return PVTv2(**pvt_v2_arguments(size.removeprefix("v2_")))
    return PVT(**pvt_arguments(size))


def seconds(run: Callable[[], object]) -> float:
    """Return the CPU seconds of a call: the best of two."""
    times = []
    for _ in range(2):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def step(net: nn.Module, x: Tensor) -> None:
    """Run forward and backward."""
    sum(value.sum() for value in net(x).values()).backward()


def main() -> int:
    """Run the comparisons named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pvt", type=Path)
    parser.add_argument("segformer", type=Path)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--sizes", nargs="+", default=["224x224"])
    parser.add_argument("--time", action="store_true")
    arguments = parser.parse_args()
    sizes = [(int(h), int(w)) for h, w in (size.split("x") for size in arguments.sizes)]
    v1, v2 = (import_file(arguments.pvt / "detection" / name) for name in ("pvt.py", "pvt_v2.py"))
    folder = arguments.segformer / "mmseg" / "models" / "backbones"
    mit = import_file(folder / "mix_transformer.py")
    print(f"vitdet_d2 {vitdet_d2.__version__}, torch {torch.__version__}", end=", ")
    print(f"{torch.get_num_threads()} threads, {platform.machine()}")
    worst = 0.0
    for name in arguments.models:
        family = mit if name.startswith("mit") else v2 if "_v2_" in name else v1
        made = getattr(family, name)(**({} if family is mit else {"pretrained": None}))
        theirs, net = Named(fill_(made.eval())), ours(name).eval()
        missing = net.load_state_dict(theirs.state_dict(), strict=False).missing_keys
        assert not missing, "every parameter has a name in the official model"
        for hw in sizes:
            x = ((image("x", *hw) - 127.5) / 60)[None]
            with torch.no_grad():
                expected, maps = theirs(x), net(x)
                errors = {
                    key: ((maps[key] - b).abs().max() / b.abs().max()).item()
                    for key, b in expected.items()
                }
                worst = max(worst, *errors.values())
                text = ", ".join(f"{key} {error:.1e}" for key, error in errors.items())
                if arguments.time:
                    forward = [seconds(lambda m=m, x=x: m(x)) for m in (net, theirs)]
                    text += "; forward {:.2f} s, original {:.2f} s".format(*forward)
            if arguments.time:
                both = [seconds(lambda m=m, x=x: step(m, x)) for m in (net, theirs)]
                text += "; with backward {:.2f} s, original {:.2f} s".format(*both)
            print(f"{name} {hw[0]}x{hw[1]}: {text}", flush=True)
    print(f"largest difference {worst:.1e}, allowed {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())

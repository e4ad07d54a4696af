# SPDX-License-Identifier: Apache-2.0
"""The benchmark's five recipes at Ti size on the digits: initialise, train, stop, resume, evaluate.

    python -m benchmarks.transfer_digits [--folder FOLDER] [--iterations 600] [--only mae ...]

Real weights are nowhere needed: each source's file is written in its real layout, ViT-Ti, with
weights as a new ViT has them, from the key lists of the official classes. A run is evaluated after
a quarter, stopped by SIGTERM soon after, resumed, and evaluated at its end. Exits with 1 if the
verdict of an initialisation is not full, a run cannot be resumed, or its box AP50 does not rise by
10 from the first evaluation to the last.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import vitdet_d2  # isort: skip
import torch
from torch import Tensor

from tests.pretrained import key_lists

MIN_RISE = 10.0
# Initialisation -> key list of the official class at size B, and how the source is called.
SOURCES = {
    "random": None,
    "supervised": ("deit", "deit"),
    "mocov3": ("moco", "mocov3"),
    "beit": ("beit_pt", "beit"),
    "mae": ("mae", "mae"),
}
# From B to Ti: width, width of query, key and value, hidden width, heads.
NARROWER = {768: 192, 2304: 576, 3072: 768, 12: 3}
# What makes the recipes small: images of 192 px, so 12 x 12 tokens, and thin heads.
OVERRIDES = """
data.image_size=192 data.flip_prob=0 data.min_scale=0.8 data.max_scale=1.25
dataloader.train.dataset.names=digits_train dataloader.test.dataset.names=digits_val
+dataloader.train.mapper.instance_mask_format=bitmask
dataloader.train.total_batch_size=4 dataloader.train.num_workers=0 dataloader.test.num_workers=0
model.backbone.net.embed_dim=192 model.backbone.net.num_heads=3 model.backbone.net.window_size=6
model.backbone.net.drop_path_rate=0 model.backbone.out_channels=64
model.proposal_generator.head.in_channels=64 model.proposal_generator.head.conv_dims=[64]
model.proposal_generator.pre_nms_topk=[300,200] model.proposal_generator.post_nms_topk=[150,100]
model.roi_heads.batch_size_per_image=32 model.roi_heads.positive_fraction=0.375
model.roi_heads.box_head.input_shape.channels=64 model.roi_heads.box_head.conv_dims=[64]
model.roi_heads.box_head.fc_dims=[256] model.roi_heads.box_predictor.input_shape.channels=256
model.roi_heads.mask_head.input_shape.channels=64 model.roi_heads.mask_head.conv_dims=[64,64]
optimizer.lr=1e-3 train.seed=0 train.log_period=10
""".split()


def write_weights(path: Path, key_list: str) -> None:
    """Write a file in a source's layout, with the values of a new ViT-Ti."""
    generator = torch.Generator().manual_seed(0)

    def value(name: str, shape: torch.Size) -> Tensor:
        # The last number of a bias table is heads; that of positions and kernels is kept.
        narrow = [NARROWER.get(side, side) for side in shape]
        if len(narrow) == 1 and name.endswith("weight"):
            return torch.ones(narrow)
        if "gamma" in name:
            return torch.full(narrow, 0.1)
        if len(narrow) == 1:
            return torch.zeros(narrow)
        return 0.02 * torch.randn(narrow, generator=generator)

    state = {name: value(name, like.shape) for name, like in key_lists.read(key_list).items()}
    torch.save({"model": state}, path)


def metrics(run: Path) -> list[dict[str, float]]:
    """Return the lines of evaluations."""
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    return [line for line in lines if "bbox/AP50" in line]


def train(kind: str, folder: Path, iterations: int) -> tuple[list[dict[str, float]], str, float]:
    """Train, stop in the middle, resume; return evaluations, the report's verdict and seconds.

    Raises:
        SystemExit: the run ended in another way.
    """
    run = folder / kind
    command = [
        sys.executable, "-m", "vitdet_d2", "train", "--config-file", f"benchmark_vit_b_{kind}",
        "--num-gpus", "0",
    ]  # fmt: skip
    overrides = [*OVERRIDES, f"train.max_iter={iterations}", f"train.output_dir={run}"]
    if (found := SOURCES[kind]) is not None:
        key_list, source = found
        write_weights(folder / f"{kind}.pth", key_list)
        overrides += [
            f"train.init_checkpoint={folder / kind}.pth",
            f"train.init_options.source={source}",
        ]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, *overrides, f"train.eval_period={iterations // 4}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not _has_reached(run, iterations // 4 + 10):
        time.sleep(1)
    process.send_signal(signal.SIGTERM)
    if process.wait() != 128 + signal.SIGTERM:
        raise SystemExit(f"{kind}: stopped with exit code {process.returncode}; see {run}/log.txt")
    subprocess.run(
        [*command, "--resume", *overrides, "train.eval_period=0"], check=True, capture_output=True
    )
    seconds = time.perf_counter() - start
    log = (run / "log.txt").read_text()
    verdicts = [line for line in log.splitlines() if "verdict" in line]
    verdict = verdicts[0].partition("INFO: ")[2] if verdicts else "none"
    return metrics(run), verdict, seconds


def _has_reached(run: Path, iteration: int) -> bool:
    path = run / "metrics.json"
    if not path.is_file():
        return False
    # What follows the last line break may still be written.
    lines = path.read_text().rpartition("\n")[0].splitlines()
    return bool(lines) and json.loads(lines[-1])["iteration"] >= iteration


def main() -> int:
    """Run all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--iterations", type=int, default=480)
    parser.add_argument("--only", nargs="+", choices=SOURCES, default=list(SOURCES))
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    good = True
    print(f"torch {torch.__version__}, {os.environ.get('OMP_NUM_THREADS', 'all')} threads")
    print("initialisation  box AP50 by evaluation, mask AP50 at the end, seconds, verdict")
    for kind in options.only:
        found, verdict, seconds = train(kind, folder, options.iterations)
        boxes = [line["bbox/AP50"] for line in found]
        good &= boxes[-1] - boxes[0] >= MIN_RISE
        good &= SOURCES[kind] is None or "verdict: all that" in verdict
        row = ", ".join(f"{ap:.1f}" for ap in boxes)
        print(
            f"{kind:<14}  {row}, {found[-1]['segm/AP50']:.1f}, {seconds:.0f}, {verdict}", flush=True
        )
    return 0 if good else 1


if __name__ == "__main__":
    assert vitdet_d2.__version__, "the package has no version"
    raise SystemExit(main())

# SPDX-License-Identifier: Apache-2.0
"""A training run of a second: a small random model on a few small images, all engine parts real.

Model, mapper and evaluator draw from every generator, so that a generator that is not restored
shows in the weights. A run can be made to wait at a place until a test lets it go.
"""

from __future__ import annotations

import vitdet_d2  # isort: skip  (decides which Detectron2 this process uses)

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import LazyCall
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.evaluation import DatasetEvaluator
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from fvcore.common.param_scheduler import MultiStepParamScheduler
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from vitdet_d2.data.loader import build_detection_train_loader
from vitdet_d2.engine.checkpoint_store import CheckpointStore
from vitdet_d2.engine.parallel import wrap_parallel
from vitdet_d2.engine.settings import read_settings
from vitdet_d2.engine.train import do_train
from vitdet_d2.engine.trainer import Trainer

assert vitdet_d2.__version__, "the package under test has no version"

NUM_IMAGES = 7
CLASSES = ("round", "square")


def write_data(folder: Path) -> None:
    """Seven images of 16 px, wide and tall, one box each, as COCO JSON."""
    images, annotations = [], []
    for i in range(NUM_IMAGES):
        width, height = (20, 16) if i % 3 else (16, 20)
        pixels = np.random.RandomState(i).randint(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "width": width, "height": height})
        annotations.append(
            {
                "id": i + 1,
                "image_id": i + 1,
                "category_id": 1 + i % 2,
                "bbox": [2.0, 2.0, 8.0, 8.0],
                "area": 64.0,
                "iscrowd": 0,
                "segmentation": [[2.0, 2.0, 10.0, 2.0, 10.0, 10.0, 2.0, 10.0]],
            }
        )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "tiny.json").write_text(json.dumps(content))


class Pause:
    """Waits at one place of one iteration for a file, and says by another file that it does."""

    def __init__(self, folder: str, place: str, iteration: int, rank: int = 0) -> None:
        self.folder, self.place, self.iteration, self.rank = Path(folder), place, iteration, rank

    def __call__(self, place: str, iteration: int) -> None:
        if (place, iteration, comm.get_rank()) != (self.place, self.iteration, self.rank):
            return
        (self.folder / "waiting").touch()
        while not (self.folder / "go").exists():
            time.sleep(0.002)


class TinyModel(nn.Module):
    """Two losses with dropout; ``nan_at`` makes one of them NaN at a call on a rank."""

    def __init__(self, nan_at: tuple[int, int] | None = None, ballast: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.out = nn.Linear(8, 2)
        self.ballast = nn.Parameter(torch.rand(ballast)) if ballast else None
        self.calls = 0
        self.nan_at = nan_at
        self.pause: Pause | None = None

    def forward(self, batch: list[dict[str, Any]]) -> Any:
        x = torch.stack([sample["image"] for sample in batch])
        x = nn.functional.dropout(self.norm(self.conv(x)).relu(), 0.3, self.training)
        scores = self.out(x.mean((2, 3)))
        if not self.training:
            return [{"scores": s} for s in scores]
        if self.pause is not None:
            self.pause("step", self.calls)
        losses: dict[str, Tensor] = {
            "loss_size": (scores[:, 0] - 1).square().mean(),
            "loss_place": (scores[:, 1] + 1).abs().mean(),
        }
        if self.ballast is not None:
            losses["loss_size"] = losses["loss_size"] + 1e-3 * self.ballast.square().mean()
        if self.nan_at == (self.calls, comm.get_rank()):
            losses["loss_place"] = losses["loss_place"] * float("nan")
        self.calls += 1
        return losses


class TinyMapper:
    """Reads, crops and brightens by all three generators; notes which image it read."""

    def __init__(self, notes: str | None = None) -> None:
        self.notes = notes

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        image = np.asarray(Image.open(record["file_name"]).convert("RGB"), dtype=np.float32) / 255
        y, x = np.random.randint(4), random.randrange(4)
        crop = torch.from_numpy(image[y : y + 12, x : x + 12].copy()).permute(2, 0, 1)
        if self.notes is not None:
            with open(self.notes, "a") as file:
                file.write(f"{Path(record['file_name']).name} {y} {x}\n")
        return {**record, "image": crop * torch.rand(())}


class TinyEvaluator(DatasetEvaluator):
    """Draws from all generators, as careless evaluators do; its score depends on the weights."""

    def __init__(self, with_score: bool = False) -> None:
        self.count = 0
        self.score = 0.0
        self.with_score = with_score
        self.pause: Pause | None = None

    def reset(self) -> None:
        self.count = 0
        self.score = 0.0

    def process(self, inputs: Any, outputs: Any) -> None:
        torch.rand(3), np.random.rand(3), random.random()
        if PAUSE is not None:
            PAUSE("eval", self.count)
        self.count += len(inputs)
        self.score += sum(float(output["scores"].sum()) for output in outputs)

    def evaluate(self) -> dict[str, Any]:
        torch.rand(3), np.random.rand(3), random.random()
        total = sum(comm.all_gather(self.count))
        # Of rank 0's images: the other ranks' batch norms have statistics of their own.
        results = {"AP": float(total), **({"score": self.score} if self.with_score else {})}
        return {"bbox": results} if comm.is_main_process() else {}


PAUSE: Pause | None = None


def config(data: str | Path, output_dir: str | Path, **train: Any) -> DictConfig:
    """The recipe; keyword arguments change ``train``."""
    data = str(data)
    seed = train.pop("seed", 3)
    model = {key: train.pop(key) for key in ("nan_at", "ballast") if key in train}
    notes = train.pop("notes", None)
    batch = train.pop("total_batch_size", 2)
    evaluator = {"with_score": True} if train.pop("with_score", False) else {}
    recipe = {
        "model": LazyCall(TinyModel)(**model),
        "dataloader": {
            "train": LazyCall(build_detection_train_loader)(
                dataset=LazyCall(get_detection_dataset_dicts)(names="named_by_data"),
                mapper=LazyCall(TinyMapper)(notes=notes),
                total_batch_size=batch,
                num_workers=0,
            ),
            "test": LazyCall(build_detection_test_loader)(
                dataset=LazyCall(get_detection_dataset_dicts)(
                    names="named_by_data", filter_empty=False
                ),
                mapper=LazyCall(TinyMapper)(),
                num_workers=0,
            ),
            "evaluator": LazyCall(TinyEvaluator)(**evaluator),
        },
        "optimizer": LazyCall(torch.optim.AdamW)(
            params=LazyCall(get_default_optimizer_params)(base_lr=0.01),
            lr=0.01,
        ),
        "lr_multiplier": LazyCall(WarmupParamScheduler)(
            scheduler=LazyCall(MultiStepParamScheduler)(
                values=[1.0, 0.1], milestones=[8], num_updates=12
            ),
            warmup_length=0.3,
            warmup_factor=0.1,
        ),
        "train": {
            "output_dir": str(output_dir),
            "init_checkpoint": "",
            "max_iter": 12,
            "amp": {"enabled": False},
            "ddp": {"broadcast_buffers": False},
            "checkpointer": {"period": 2, "max_to_keep": 100},
            "eval_period": 5,
            "log_period": 3,
            "device": "cpu",
            "seed": seed,
            **train,
        },
        "data": {
            "train_json": f"{data}/tiny.json",
            "train_images": data,
            "val_json": f"{data}/tiny.json",
            "val_images": data,
            "keep_empty": False,
        },
    }
    return OmegaConf.create(recipe, flags={"allow_objects": True})


def _pause_everywhere(pause: Pause) -> None:
    """Let the run wait in a forward pass, in an evaluation, before or after a save's rename."""
    global PAUSE
    PAUSE = pause
    forward = TinyModel.forward

    def pausing_forward(self: TinyModel, batch: Any) -> Any:
        self.pause = pause
        return forward(self, batch)

    TinyModel.forward = pausing_forward
    replace = os.replace

    def pausing_replace(source: Any, target: Any) -> None:
        name = Path(target).name
        if name.startswith("model_0") and name.endswith(".pth"):
            pause("save", int(name[6:13]))
        if name == "model_final.pth":
            pause("final", 0)
        replace(source, target)
        if name == "last_checkpoint":
            pause("saved", int(Path(target).read_text()[6:13]))

    os.replace = pausing_replace


def train(
    data: str,
    output_dir: str,
    *,
    resume: str = "never",
    pause: dict[str, Any] | None = None,
    rank: int = 0,
    world_size: int = 1,
    **changes: Any,
) -> None:
    """A job for the zygote."""
    if world_size > 1:
        join(output_dir, rank, world_size)
    setup_logger(name="vitdet_d2", distributed_rank=0)
    if pause is not None:
        _pause_everywhere(Pause(**pause))
    do_train(config(data, output_dir, **changes), resume=resume)


def join(folder: str, rank: int, world_size: int) -> None:
    """Connect the processes over a file, which needs no port."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/.meet", rank=rank, world_size=world_size
    )
    comm.create_local_process_group(world_size)


def save_forever(folder: str, megabytes: int) -> None:
    """Checkpoint after checkpoint of the given size; a job for the zygote."""
    store = CheckpointStore(folder, max_to_keep=3)
    for iteration in range(10_000):
        weights = torch.full((megabytes << 18,), float(iteration))
        store.save({"model": {"w": weights}}, iteration=iteration, meta={})


def gradients(
    folder: str,
    *,
    batch: int | None = None,
    accumulate: int = 1,
    rank: int = 0,
    world_size: int = 1,
) -> None:
    """Write the gradients of one step: of this rank's batches, or in one process of `batch`.

    Rank ``r`` of two has the batches ``r``, ``r + 2``, ...
    """
    if world_size > 1:
        join(folder, rank, world_size)
    torch.manual_seed(0)
    model = TinyModel()
    model.norm = nn.GroupNorm(2, 8)
    settings = read_settings(config(folder, folder))
    numbers = [rank + 2 * i for i in range(accumulate)] if batch is None else [batch]
    batches = []
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        images = [{"image": torch.rand(3, 12, 12, generator=generator)} for _ in range(3)]
        batches.append(images)
    torch.nn.functional.dropout = lambda x, *_: x
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    wrapped = wrap_parallel(model, settings)
    exchanges: list[int] = []

    # DDP looks at annotations, and does not know them as text.
    def counting(group, bucket):
        exchanges.append(1)
        return allreduce_hook(group, bucket)

    if world_size > 1:
        wrapped.register_comm_hook(None, counting)
    Trainer(wrapped, batches, optimizer, accumulate=accumulate).train(0, 1)
    name = f"rank_{rank}" if batch is None else f"single_{batch}"
    Path(folder, f"exchanges_{name}").write_text(str(len(exchanges)))
    torch.save({k: p.grad for k, p in model.named_parameters()}, f"{folder}/{name}.pth")

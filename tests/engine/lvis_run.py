# SPDX-License-Identifier: Apache-2.0
"""The LVIS recipe, brought to a size for tests, on a few pictures in LVIS's format."""

from __future__ import annotations

import vitdet_d2  # isort: skip  (decides which Detectron2 this process uses)

import json
from pathlib import Path

import numpy as np
from detectron2.utils.logger import setup_logger
from omegaconf import OmegaConf
from PIL import Image

from tests.evaluation import toy_lvis
from vitdet_d2.engine.evaluate import do_eval
from vitdet_d2.engine.recipes import load_recipe
from vitdet_d2.engine.train import do_train

assert vitdet_d2.__version__, "the package under test has no version"

TINY = [
    "data.image_size=64",
    "model.backbone.net.embed_dim=16",
    "model.backbone.net.depth=2",
    "model.backbone.net.num_heads=2",
    "model.backbone.net.window_size=2",
    "model.backbone.net.window_block_indexes=[0]",
    "model.backbone.out_channels=8",
    "model.proposal_generator.head.in_channels=8",
    "model.proposal_generator.batch_size_per_image=16",
    "model.proposal_generator.post_nms_topk=[20, 20]",
    "model.roi_heads.batch_size_per_image=16",
    "model.roi_heads.mask_head.input_shape.channels=8",
    "model.roi_heads.mask_head.conv_dims=[8, 8]",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "optimizer.params.lr_factor_func.num_layers=2",
    # The rarest class of the toy data is in one of six images.
    "dataloader.train.sampler.repeat_factors.repeat_thresh=0.4",
    "train.init_checkpoint=''",
    "train.seed=3",
    "train.log_period=1",
    "train.device=cpu",
]
# Of Mask R-CNN's one head, and of the cascade's three.
_HEAD = [
    ("box_head", "input_shape.channels=8"),
    ("box_head", "conv_dims=[8]"),
    ("box_head", "fc_dims=[16]"),
    ("box_predictor", "input_shape.channels=16"),
    # A random model gives every class a chance of a half.
    ("box_predictor", "test_score_thresh=0.4"),
]


def write_data(folder: Path) -> None:
    """Pictures of noise with brighter ellipses, and their annotations for training and testing."""
    for split, seed in (("train", 1), ("val", 2)):
        document = toy_lvis.ground_truth(seed)
        for image in document["images"]:
            del image["coco_url"]
            image["file_name"] = f"{split}_{image['id']}.png"
            random = np.random.RandomState(image["id"])
            shape = (toy_lvis.HEIGHT, toy_lvis.WIDTH, 3)
            pixels = random.randint(0, 128, shape, dtype=np.uint8)
            for annotation in document["annotations"]:
                if annotation["image_id"] == image["id"]:
                    x, y, width, height = map(int, annotation["bbox"])
                    pixels[y : y + height, x : x + width] += np.uint8(
                        10 * annotation["category_id"]
                    )
            Image.fromarray(pixels).save(folder / image["file_name"])
        (folder / f"{split}.json").write_text(json.dumps(document))


def overrides(data: str, output_dir: str, *, cascade: bool = False) -> list[str]:
    """What makes a recipe tiny and names the data."""
    files = [f"data.{s}_json={data}/{s}.json" for s in ("train", "val")]
    images = [f"data.{s}_images={data}" for s in ("train", "val")]
    heads = [
        f"model.roi_heads.{part}s.{stage}.{change}"
        if cascade
        else f"model.roi_heads.{part}.{change}"
        for part, change in _HEAD
        for stage in range(3 if cascade else 1)
    ]
    return [*TINY, *heads, *files, *images, f"train.output_dir={output_dir}"]


def train(
    data: str, output_dir: str, *, recipe: str, resume: str = "never", max_iter: int = 6
) -> None:
    """A job for the zygote."""
    setup_logger(name="vitdet_d2", distributed_rank=0)
    changes = [f"train.max_iter={max_iter}", "train.checkpointer.period=2", "train.eval_period=0"]
    tiny = overrides(data, output_dir, cascade="cascade" in recipe)
    do_train(load_recipe(recipe, [*tiny, *changes]), resume=resume)


def evaluate(data: str, output_dir: str, *, recipe: str, weights: str) -> None:
    """A job for the zygote: evaluate weights, without any training data."""
    tiny = overrides(data, output_dir)
    cfg = load_recipe(recipe, [*tiny, "data.train_json=null", f"train.init_checkpoint={weights}"])
    OmegaConf.update(cfg, "dataloader.train.dataset.names", "not_there")
    results = do_eval(cfg)
    Path(output_dir, "again.json").write_text(json.dumps(results))

# SPDX-License-Identifier: Apache-2.0
"""Every ViTDet recipe loads, builds on the meta device, and holds what its header says."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import transforms as T
from omegaconf import OmegaConf

from vitdet_d2.backbones import VIT_SIZES, ViT, vit_arguments

ROOT = Path(__file__).parents[2]
SIZES = ["ti", "s", "b", "l", "h"]
KEYS = {"model", "dataloader", "optimizer", "lr_multiplier", "train", "data"}


def load(size):
    return LazyConfig.load(str(ROOT / "projects" / f"vitdet_{size}.py"))


@pytest.fixture(scope="module", params=SIZES)
def recipe(request):
    """Give the size, the recipe, and its model on the meta device."""
    cfg = load(request.param)
    with torch.device("meta"):
        model = instantiate(cfg.model)
    return request.param, cfg, model


def test_keys_and_size(recipe):
    size, cfg, model = recipe
    assert set(cfg) == KEYS
    net = model.backbone.net
    assert isinstance(net, ViT)
    row = VIT_SIZES[size]
    assert len(net.blocks) == row.depth
    assert net.blocks[0].attn.num_heads == row.num_heads
    assert net.pos_embed.shape == (1, 197, row.embed_dim)
    windows = [i for i, block in enumerate(net.blocks) if block.window_size == 14]
    assert windows == vit_arguments(size)["window_block_indexes"]
    grid = cfg.data.image_size // 16
    assert net.blocks[row.depth - 1].attn.rel_pos_h.shape[0] == 2 * grid - 1
    assert model.backbone.padding_constraints["square_size"] == cfg.data.image_size


def test_optimizer_and_schedule_build(recipe):
    size, cfg, model = recipe
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    decay, blocks = {"b": (0.7, 12), "l": (0.8, 24), "h": (0.9, 32)}.get(size, (1.0, 12))
    lowest = min(group["lr"] for group in optimizer.param_groups)
    assert lowest == pytest.approx(1e-4 * decay ** (blocks + 1))
    multiplier = instantiate(cfg.lr_multiplier)
    assert multiplier(0.0) == pytest.approx(0.001)
    iterations = cfg.train.max_iter
    for step, before, after in zip(
        cfg.lr_multiplier.scheduler.milestones, (1.0, 0.1), (0.1, 0.01), strict=True
    ):
        assert multiplier((step - 1) / iterations) == before
        assert multiplier(step / iterations) == after


def test_epochs_of_the_header(recipe):
    size, cfg, _ = recipe
    images = cfg.train.max_iter * cfg.dataloader.train.total_batch_size
    epochs = {"b": 100, "l": 100, "h": 75}.get(size, 50)
    assert images / 118000 == pytest.approx(epochs, abs=0.01)


def test_image_size_and_augmentation_stand_in_one_place():
    cfg = LazyConfig.apply_overrides(
        load("ti"),
        [
            "data.image_size=320",
            "data.flip_prob=0",
            "data.min_scale=1",
            "data.max_scale=1",
            "model.backbone.net.drop_path_rate=0",
            "model.roi_heads.batch_size_per_image=64",
        ],
    )
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert model.backbone.padding_constraints["square_size"] == 320
    assert model.backbone.net.blocks[2].attn.rel_pos_w.shape[0] == 2 * 20 - 1
    assert not [m for m in model.modules() if type(m).__name__ == "DropPath"]
    assert model.roi_heads.batch_size_per_image == 64
    augmentations = instantiate(cfg.dataloader.train.mapper.augmentations)
    shapes = [_augmented(augmentations, (h, w)) for h, w in ((480, 640), (300, 100))]
    assert shapes == [(240, 320), (320, 107)]
    (resize,) = instantiate(cfg.dataloader.test.mapper.augmentations)
    assert _augmented([resize], (480, 640)) == (240, 320)


@pytest.mark.parametrize("name", ["quickstart", "vitdet_ti", "vitdet_b"])
def test_images_at_test_may_be_larger(name):
    path = str(ROOT / "projects" / f"{name}.py")
    plain = LazyConfig.load(path)
    cfg = LazyConfig.apply_overrides(LazyConfig.load(path), ["data.test_image_size=1280"])
    (resize,) = instantiate(cfg.dataloader.test.mapper.augmentations)
    assert _augmented([resize], (480, 640)) == (960, 1280)
    (resize,) = instantiate(plain.dataloader.test.mapper.augmentations)
    assert _augmented([resize], (480, 640))[1] == plain.data.image_size
    for part in ("dataloader.train.mapper", "model", "optimizer"):
        before, after = (OmegaConf.select(c, part) for c in (plain, cfg))
        assert OmegaConf.to_container(before, resolve=True) == OmegaConf.to_container(
            after, resolve=True
        )


def _augmented(augmentations, hw):
    left_bright = torch.zeros(*hw, 3, dtype=torch.uint8).numpy()
    left_bright[:, : hw[1] // 2] = 255
    data = T.AugInput(left_bright)
    T.AugmentationList(list(augmentations))(data)
    assert data.image[0, 0, 0] == 255, "the image was flipped"
    return data.image.shape[:2]


def test_jitter_of_the_full_recipe():
    flip, resize, crop = instantiate(load("b").dataloader.train.mapper.augmentations)
    assert (flip.prob, flip.horizontal) == (0.5, True)
    assert (resize.min_scale, resize.max_scale) == (0.1, 2.0)
    assert tuple(crop.crop_size) == (resize.target_height, resize.target_width) == (1024, 1024)
    assert not crop.pad


def test_recipe_files_are_short():
    paths = [*ROOT.glob("projects/*.py"), *ROOT.glob("configs/**/*.py")]
    lengths = {path.name: len(path.read_text().splitlines()) for path in paths}
    assert {name: length for name, length in lengths.items() if length > 80} == {}


@pytest.mark.parametrize("size", SIZES)
def test_header_states_the_exact_command(size):
    text = (ROOT / "projects" / f"vitdet_{size}.py").read_text()
    assert f"python train_net.py --config-file projects/vitdet_{size}.py --num-gpus" in text
    assert "not measured here yet" in text.lower()


def test_model_part_works_alone():
    model = LazyConfig.load(str(ROOT / "configs/models/mask_rcnn_vitdet.py")).model
    with torch.device("meta"):
        assert instantiate(model).backbone.padding_constraints["square_size"] == 1024


@pytest.mark.parametrize("name", ["quickstart", *(f"vitdet_{size}" for size in SIZES)])
def test_parts_of_a_recipe_stand_alone(name):
    """As in another project's recipe, which takes the model or the data only."""
    path = str(ROOT / "projects" / f"{name}.py")
    whole = LazyConfig.load(path)
    model = LazyConfig.load(path, "model")
    dataloader = LazyConfig.load(path, "dataloader")
    optimizer = LazyConfig.load(path, "optimizer")
    assert model.backbone.net.img_size == model.backbone.square_pad == whole.data.image_size
    assert dataloader.image_size == whole.data.image_size
    for split in ("train", "test"):
        alone, inside = (
            OmegaConf.to_container(part[split].mapper.augmentations, resolve=True)
            for part in (dataloader, whole.dataloader)
        )
        assert alone == inside
    factor = optimizer.params.lr_factor_func
    assert factor is None or factor.num_layers == whole.model.backbone.net.depth

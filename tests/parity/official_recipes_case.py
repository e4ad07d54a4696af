# SPDX-License-Identifier: Apache-2.0
"""What Detectron2's official ViTDet recipes become in whichever Detectron2 is active, as JSON.

    VITDET_D2_RUNTIME=bundled python -m tests.parity.official_recipes_case CHECKOUT out.json

Models are built on the meta device: names, shapes and settings are compared, not numbers.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import vitdet_d2  # isort: skip  (decides which Detectron2 this process uses)
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.utils.registry import _convert_target_to_string, locate
from omegaconf import OmegaConf
from torch import Tensor, nn

assert vitdet_d2.__version__, "the package under test has no version"

CONFIGS = "projects/ViTDet/configs"
# Of any part of a model that is no parameter; both runtimes have them under these names.
SETTINGS = (
    "allow_low_quality_matches anchor_boundary_thresh aspect_ratios batch_size_per_image beta "
    "box_in_features box_reg_loss_type canonical_box_size canonical_level drop_prob eps "
    "fed_loss_num_classes image_size in_feature in_features input_format kernel_size labels "
    "loss_weight mask_in_features max_level min_box_size min_level nms_thresh num_classes "
    "num_stages offset out_channels output_size positive_fraction post_nms_topk pre_nms_topk "
    "proposal_append_gt sampling_ratio scale_clamp scales smooth_l1_beta spatial_scale "
    "square_pad stride strides test_nms_thresh test_score_thresh test_topk_per_image thresholds "
    "use_fed_loss use_sigmoid_ce vis_period weights window_size aligned num_heads scale padding"
).split()


def recipes(checkout: Path) -> list[str]:
    """Return the ViT recipes, relative to the folder of recipes."""
    folder = checkout / CONFIGS
    return sorted(str(p.relative_to(folder)) for p in folder.glob("*/*mask_rcnn_vitdet_*.py"))


def simple(value: Any) -> Any:
    """Return a JSON form of a setting, None for anything else than numbers, text and lists."""
    if isinstance(value, Tensor):
        return value.tolist() if value.device.type == "cpu" and value.numel() < 20 else None
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): simple(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [simple(item) for item in value]
    return None


def parts_of(owner: Any, path: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield modules, and the plain objects that they hold (matchers, box transforms)."""
    yield path, owner
    plain = {} if depth > 2 else vars(owner)
    for name, value in plain.items():
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        items = value if is_list else [value]
        for number, item in enumerate(items):
            if type(item).__module__.startswith("detectron2.modeling") and not isinstance(
                item, nn.Module
            ):
                yield from parts_of(item, f"{path}.{name}[{number}]", depth + 1)


def settings_of(model: nn.Module) -> dict[str, Any]:
    """Return every known setting of every part of a model."""
    found = {}
    for path, module in model.named_modules():
        for name, part in parts_of(module, path):
            for key in SETTINGS:
                value = simple(vars(part).get(key))
                if value is not None:
                    found[f"{name}:{key}"] = value
    return found


@contextmanager
def meta_device() -> Iterator[None]:
    """Build without memory; small tables stay real, so that drop path rates can be read."""
    linspace = torch.linspace
    torch.linspace = partial(linspace, device="cpu")  # type: ignore[assignment]
    try:
        with torch.device("meta"):
            yield
    finally:
        torch.linspace = linspace


def call(target: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return a call with its arguments, and the defaults of those that are not given."""
    function = locate(target) if isinstance(target, str) else target
    signature = inspect.signature(getattr(function, "__wrapped__", function))
    defaults = {
        p.name: plain(p.default)
        for p in signature.parameters.values()
        if p.default is not p.empty and p.name not in given
    }
    return {"call": _convert_target_to_string(function), "given": given, "defaults": defaults}


def plain(value: Any) -> Any:
    """Return a JSON form of a recipe's part."""
    if isinstance(value, Mapping):
        items = {str(key): plain(item) for key, item in value.items() if key != "_target_"}
        return call(value["_target_"], items) if "_target_" in value else items
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, partial):
        return {"partial": value.func.__name__, "kwargs": plain(value.keywords)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", None) or repr(value)


def edges_and_samples(cfg: Any) -> list[int]:
    """Return iterations: all around every change of the learning rate, and each 97th."""
    last = cfg.train.max_iter
    edges = [0, round(cfg.lr_multiplier.warmup_length * last), last, *_milestones(cfg)]
    around = {i for edge in edges for i in range(edge - 3, edge + 4)}
    return sorted(i for i in around | set(range(0, last, 97)) if 0 <= i < last)


def _milestones(cfg: Any) -> list[int]:
    return list(cfg.lr_multiplier.scheduler.milestones)


def describe(path: Path) -> dict[str, Any]:
    """Return all that a run of a recipe depends on."""
    cfg = LazyConfig.load(str(path))
    with meta_device():
        model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = [
        {
            **{k: v for k, v in g.items() if k != "params"},
            "names": [names[id(p)] for p in g["params"]],
        }
        for g in optimizer.param_groups
    ]
    multiplier = instantiate(cfg.lr_multiplier)
    last = cfg.train.max_iter
    buffers = {name: list(b.shape) for name, b in model.named_buffers()}
    anchors = instantiate(cfg.model.proposal_generator.anchor_generator).cell_anchors
    return {
        "state": {k: [list(v.shape), str(v.dtype)] for k, v in model.state_dict().items()},
        "trainable": [name for name, p in model.named_parameters() if p.requires_grad],
        "buffers": buffers,
        "anchors": [a.tolist() for a in anchors],
        "pixels": [plain(list(cfg.model[key])) for key in ("pixel_mean", "pixel_std")],
        "settings": settings_of(model),
        "optimizer": type(optimizer).__name__,
        "groups": groups,
        "rates": [[i, multiplier(i / last)] for i in edges_and_samples(cfg)],
        "loader": plain(cfg.dataloader),
        "train": plain(OmegaConf.to_container(cfg.train)),
    }


def main() -> None:
    """Describe the recipes of a checkout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    # Detectron2's model zoo imports a module that current environments lack.
    stand_in = types.SimpleNamespace(
        resource_filename=lambda _, path: str(arguments.checkout / path)
    )
    sys.modules["pkg_resources"] = stand_in  # type: ignore[assignment]
    described = {
        name: describe(arguments.checkout / CONFIGS / name) for name in recipes(arguments.checkout)
    }
    arguments.output.write_text(json.dumps(described), encoding="utf-8")


if __name__ == "__main__":
    main()

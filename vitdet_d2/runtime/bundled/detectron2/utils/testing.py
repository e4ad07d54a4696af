# SPDX-License-Identifier: Apache-2.0
"""Helpers for the tests of projects that build on Detectron2.

Source: the behaviour of detectron2 ``utils/testing.py``, without its parts on export.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.model_zoo import get_config
from detectron2.structures import Boxes, Instances, ROIMasks
from omegaconf import DictConfig
from torch import Tensor, nn

from vitdet_d2.runtime.absent import absent_attribute

__all__ = [
    "assert_instances_allclose",
    "get_model_no_weights",
    "random_boxes",
    "reload_lazy_config",
    "reload_script_model",
]

__getattr__ = absent_attribute(__name__)

# Boxes are hundreds of pixels, so that their rounding errors are that much larger.
_BOX_SCALE = 100


def get_model_no_weights(config_path: str) -> nn.Module:
    """Return the model of a recipe of the model zoo, with random weights.

    Args:
        config_path: as in ``model_zoo.get_config``.
    """
    return instantiate(get_config(config_path).model)


def random_boxes(
    num_boxes: int, max_coord: float = 100, device: torch.device | str = "cpu"
) -> Tensor:
    """Return ``(num_boxes, 4)`` XYXY boxes with sides of at least one pixel.

    Args:
        num_boxes: how many.
        max_coord: upper limit of every coordinate, at least 2.
        device: where they are made; two draws from the device's global generator each.
    """
    corner_and_size = (torch.rand(num_boxes, 4, device=device) * (max_coord * 0.5)).clamp(min=1.0)
    corner, size = corner_and_size.split(2, dim=1)
    return torch.cat([corner, corner + size], dim=1)


def reload_lazy_config(cfg: DictConfig) -> Any:
    """Return what is left of a recipe after saving it as YAML and loading it again."""
    with tempfile.TemporaryDirectory(prefix="detectron2") as folder:
        path = str(Path(folder) / "recipe.yaml")
        LazyConfig.save(cfg, path)
        return LazyConfig.load(path)


def reload_script_model(module: Any) -> Any:
    """Return a scripted function or module after saving and loading it."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def assert_instances_allclose(
    input: Instances,
    other: Instances,
    *,
    rtol: float = 1e-5,
    msg: str = "",
    size_as_tensor: bool = False,
) -> None:
    """Compare two ``Instances``, field by field.

    Args:
        input: one of them.
        other: must have the same fields.
        rtol: tolerance of floating-point fields, relative to their largest value; of boxes and
            masks, in units of 100.
        msg: put before the message.
        size_as_tensor: image sizes may be tensors on one side and tuples on the other.

    Raises:
        AssertionError: they differ; the message says in what.
        TypeError: a field is neither boxes nor masks nor a tensor.
    """
    prefix = f"{msg.rstrip()} " if msg else ""
    sizes = [input.image_size, other.image_size]
    if size_as_tensor:
        sizes = [tuple(torch.as_tensor(size).tolist()) for size in sizes]
    _require(sizes[0] == sizes[1], f"{prefix}image_size is {sizes[0]} and {sizes[1]}")
    names = sorted(input.get_fields()), sorted(other.get_fields())
    _require(names[0] == names[1], f"{prefix}the fields are {names[0]} and {names[1]}")
    for name in names[0]:
        first, second = input.get(name), other.get(name)
        if isinstance(first, (Boxes, ROIMasks)):
            close = torch.allclose(first.tensor, second.tensor, rtol=1e-5, atol=_BOX_SCALE * rtol)
        elif not isinstance(first, Tensor):
            raise TypeError(f"{prefix}field {name!r}: cannot compare {type(first).__name__}")
        elif first.is_floating_point() and first.numel():
            close = torch.allclose(first, second, rtol=1e-5, atol=rtol * float(first.abs().max()))
        else:
            close = torch.equal(first, second)
        _require(close, f"{prefix}field {name!r} differs: {first} and {second}")


def _require(condition: bool, message: str) -> None:
    # An explicit raise: these checks must not vanish under `python -O`.
    if not condition:
        raise AssertionError(message)

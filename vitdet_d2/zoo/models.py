# SPDX-License-Identifier: Apache-2.0
"""Recipes and working models by name."""

from __future__ import annotations

import copy
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from vitdet_d2.checks.square_pad import refuse_cropping
from vitdet_d2.zoo.cached_file import CachedFile, fetch
from vitdet_d2.zoo.catalogue import find
from vitdet_d2.zoo.initialisations import initialisation, require_address
from vitdet_d2.zoo.python_recipe import load_python_recipe
from vitdet_d2.zoo.recipe_names import find_recipe


def get_config(name: str) -> DictConfig:
    """Return a recipe by name.

    Args:
        name: ours, such as ``vitdet_b``, or Detectron2's, such as ``COCO/mask_rcnn_vitdet_b``.

    Raises:
        RecipeError: there is no such recipe, or not yet.
    """
    return load_python_recipe(find_recipe(name))


def get(name: str, trained: bool = True, device: str | torch.device | None = None) -> nn.Module:
    """Return the model of a recipe in eval mode, ready for images.

    Its input is a list of dictionaries with ``image``, a ``(3, H, W)`` tensor in RGB from 0 to
    255, and optionally ``height`` and ``width`` of the result, as Detectron2's models take it.
    An image larger than the square that the model pads to is an error, and never cropped.

    Args:
        name: ours, such as ``vitdet_b``, or Detectron2's, such as ``COCO/mask_rcnn_vitdet_b``.
        trained: with its released weights, downloaded at the first use; else with random ones.
        device: None: the GPU if there is one, else the CPU.

    Raises:
        RecipeError: there is no such recipe, or no checkpoint of it.
        DownloadError: the weights cannot be downloaded now.
        WeightsError: what was downloaded is not these weights.
    """
    entry = find(name) if trained else None
    cfg = get_config(name)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model: nn.Module = instantiate(for_inference(cfg.model))
    if entry is not None:
        # It reads names through this package.
        from vitdet_d2.pretrained import load

        load(model, entry.address, strict_heads=True)
    return refuse_cropping(model.to(device).eval())


def download(name: str) -> CachedFile:
    """Return the released checkpoint or the initialisation of a name, downloaded and verified.

    Args:
        name: of any row of the catalogue, also of one whose backbone is not here yet; or of an
            initialisation.

    Raises:
        RecipeError: there is nothing of this name.
        DownloadError: it cannot be downloaded now.
        WeightsError: what was downloaded is not these weights, or they have no address.
    """
    row = initialisation(name)
    return fetch(find(name).address if row is None else require_address(row))


def for_inference(model: DictConfig) -> DictConfig:
    """Return a model's recipe without what training alone needs.

    The federated loss wants the class frequencies of the training data, which prediction has not;
    weights that timm would download are replaced by those of the detector.

    Args:
        model: ``cfg.model``, which is left as it is.
    """
    model = copy.deepcopy(model)
    OmegaConf.set_struct(model, False)
    _switch_off(model)
    return model


def _switch_off(node: Any) -> None:
    if isinstance(node, DictConfig):
        if "use_fed_loss" in node:
            node["use_fed_loss"] = False
            node.pop("get_fed_loss_cls_weights", None)
        if _is_timm(node) and "pretrained" in node:
            node["pretrained"] = False
        children: list[Any] = [node._get_node(key) for key in node]
    elif isinstance(node, ListConfig):
        children = [node._get_node(index) for index in range(len(node))]
    else:
        return
    for child in children:
        _switch_off(child)


def _is_timm(node: DictConfig) -> bool:
    target = node.get("_target_")
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    return name.rpartition(".")[2] == "TimmBackbone"

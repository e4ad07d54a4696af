# SPDX-License-Identifier: Apache-2.0
"""Fitting the names of a bare backbone's weights to those of a whole model.

Names of Caffe2 (Detectron 1) are not translated here.

Source: the behaviour of detectron2 ``checkpoint/c2_model_loading.py``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

logger = logging.getLogger(__name__)


def align_and_update_state_dicts(
    model_state_dict: Mapping[str, Tensor],
    ckpt_state_dict: Mapping[str, Any],
    c2_conversion: bool = False,
) -> dict[str, Any]:
    """Give every tensor of a file the name of the model's tensor that ends with its name.

    A model's ``backbone.net.blocks.0.norm1.weight`` takes the file's ``blocks.0.norm1.weight``. Of
    several names that fit, the longest is taken; a tensor of another shape is left out and told.
    The final norm of a plain ViT (``norm.weight``) fits every norm layer by its name, and belongs
    to none; it is left out.

    Args:
        model_state_dict: the model's tensors by name.
        ckpt_state_dict: the file's.
        c2_conversion: whether the file has Caffe2's names.

    Returns:
        The file's tensors; those that fit have the model's names.

    Raises:
        NotImplementedError: ``c2_conversion``.
        ValueError: one tensor fits several places.
    """
    if c2_conversion:
        raise NotImplementedError(
            "Caffe2 (Detectron 1) weights are not supported by the bundled runtime; convert the "
            "file with an installed Detectron2"
        )
    available = _without_final_norm(ckpt_state_dict)
    places: dict[str, str] = {}  # name in the file -> name in the model
    for model_name in sorted(model_state_dict):
        name = next((end for end in _endings(model_name) if end in available), None)
        if name is None:
            continue
        wanted, found = tuple(model_state_dict[model_name].shape), tuple(available[name].shape)
        if wanted != found:
            logger.warning(
                "%s is not loaded: its shape is %s, and %s of the model has %s",
                name,
                found,
                model_name,
                wanted,
            )
            continue
        if name in places:
            raise ValueError(
                f"{name} fits {places[name]} and {model_name} of the model; rename it in the file"
            )
        places[name] = model_name
    if not places:
        logger.warning("no name of the file fits the model")
    else:
        logger.info(
            "%d of %d tensors of the model found, all of them below '%s'",
            len(places),
            len(model_state_dict),
            _longest_common_prefix_str(list(places.values())).rpartition(".")[0],
        )
    return {places.get(name, name): value for name, value in available.items()}


def _longest_common_prefix_str(names: list[str]) -> str:
    return os.path.commonprefix(names)  # noqa: RUF071  (characters, not folders, are wanted)


def _endings(name: str) -> Iterator[str]:
    """Yield the name itself and what follows each of its dots, longest first."""
    parts = name.split(".")
    for start in range(len(parts)):
        yield ".".join(parts[start:])


def _without_final_norm(state: Mapping[str, Any]) -> dict[str, Any]:
    is_plain_vit = "blocks.0.norm1.weight" in state
    dropped = {"norm.weight", "norm.bias"} if is_plain_vit else set()
    return {name: value for name, value in state.items() if name not in dropped}

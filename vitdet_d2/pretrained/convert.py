# SPDX-License-Identifier: Apache-2.0
"""Files of any known source, written as ours (``.safetensors``) or as Detectron2's (``.pkl``).

Detectron2's loader goes by names where a file says so: all names are whole
(``backbone.net.blocks.0...``), and heuristics, which match by the ends of names, are off.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.container import unwrap
from vitdet_d2.pretrained.encoder import BLOCK_BIAS, POSITIONS, SHARED_BIAS, Encoder
from vitdet_d2.pretrained.fit import fit
from vitdet_d2.pretrained.other_detector import encoder_within
from vitdet_d2.pretrained.reader import read_weights
from vitdet_d2.pretrained.recognise import encoder_of

Layout = Literal["vitdet", "detectron2"]

# Of a ViT below a pyramid, in every recipe of ViTDet.
DETECTRON2_PREFIX = "backbone.net."
# What Detectron2's ViT cannot have; LayerScale is folded.
_ONLY_OURS = (SHARED_BIAS, BLOCK_BIAS, "norm_pre.", ".mlp.w1.", ".mlp.ffn_ln.")


def convert(
    weights: str | os.PathLike[str], *, to: Layout = "vitdet", source: str | None = None
) -> dict[str, Tensor]:
    """Bring a file to the names of our ViT, or of a detector of Detectron2.

    Args:
        weights: path, address or name, as `read_weights` takes it.
        to: ``vitdet``: the names of a bare ViT of ours; ``detectron2``: those of its backbone in
            a detector, with LayerScale folded. The names of a whole detector stay.
        source: name of the source, where the keys cannot tell it.

    Raises:
        WeightsError: the file cannot be read, is of no known source, or has parts that
            Detectron2's ViT has not.
    """
    path = os.fspath(weights)
    file = unwrap(path, read_weights(weights))
    file = encoder_within(file) or file
    if file.is_detector:
        return dict(file.state)
    encoder = encoder_of(path, file, source)
    if to == "detectron2":
        _require_plain(path, encoder)
    fitted = fit(
        path, encoder, _wanted(encoder, to), has_class_position=encoder.num_prefix > 0,
        layer_scale="fold" if to == "detectron2" else "keep",
    )  # fmt: skip
    prefix = DETECTRON2_PREFIX if to == "detectron2" else ""
    return {prefix + name: tensor.contiguous() for name, tensor in fitted.tensors.items()}


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] = {}
) -> None:
    """Write tensors and texts as ``.safetensors``."""
    # Tensors of a file may share their memory, which this format does not know.
    save_file({name: value.clone() for name, value in tensors.items()}, path, dict(metadata))


def write_detectron2(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as a pickle of Detectron2's model zoo: arrays, with an author."""
    content: dict[str, Any] = {
        "model": {name: _as_array(value) for name, value in tensors.items()},
        # Without an author the file is taken for one of Caffe2, and its names are changed.
        "__author__": "vitdet_d2",
        "matching_heuristics": False,
    }
    with open(path, "wb") as file:
        pickle.dump(content, file)


def _wanted(encoder: Encoder, to: Layout) -> dict[str, Tensor]:
    """Return the encoder's own shapes, with at most one row before the positions of patches."""
    wanted = dict(encoder.tensors)
    if to == "detectron2":
        wanted = {name: value for name, value in wanted.items() if not name.endswith(".gamma")}
    if POSITIONS in wanted and encoder.num_prefix > 1:
        wanted[POSITIONS] = wanted[POSITIONS][:, encoder.num_prefix - 1 :]
    return wanted


def _require_plain(path: str, encoder: Encoder) -> None:
    """Refuse what only our ViT has.

    Raises:
        WeightsError: the encoder has such parts.
    """
    parts = [name for name in encoder.tensors if any(part in name for part in _ONLY_OURS)]
    needs = encoder.needs
    if needs.rope is not None:
        parts.append(f"{needs.rope} rotary positions")
    if needs.act == "quick_gelu":
        parts.append("the activation quick_gelu")
    if parts:
        raise WeightsError(
            f"{path}: {encoder.source.title} has parts that Detectron2's ViT has not: "
            f"{', '.join(parts[:4])}; convert it to vitdet, and take our ViT with their options"
        )


def _as_array(value: Tensor) -> Any:
    # NumPy has no bfloat16.
    value = value.float() if value.dtype == torch.bfloat16 else value
    return value.detach().cpu().numpy()

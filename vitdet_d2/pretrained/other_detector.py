# SPDX-License-Identifier: Apache-2.0
"""Whole detectors whose backbone is in the names of EVA, of which the backbone is taken.

EVA's fork of Detectron2 keeps queries, keys and values, gates and rotations under names of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.sources.eva01 import EVA01
from vitdet_d2.pretrained.sources.eva02 import EVA02

_BACKBONE = "backbone.net."
_FIRST_BLOCK = "blocks.0."
# Of EVA-02, where there is no model to compare with: our ViT has no such names.
_NEVER_OURS = ("attn.q_proj.", "attn.rope.", "mlp.w12.")


def encoder_within(file: Unwrapped, model: Collection[str] | None = None) -> Unwrapped | None:
    """Return the backbone of a whole detector of EVA; None: it is no such one, or it fits as it is.

    Args:
        file: of a whole detector.
        model: names of the ViT that the weights are for; None: any of ours.
    """
    if not file.is_detector:
        return None
    state = file.state
    names = {n.removeprefix(_BACKBONE): n for n in state if n.startswith(_BACKBONE)}
    inner = dataclasses.replace(
        file,
        state={name: state[full] for name, full in names.items()},
        wrappers=(*file.wrappers, _BACKBONE),
        beside=tuple(name for name in state if not name.startswith(_BACKBONE)),
        is_detector=False,
    )
    if not any(source.matches(inner) for source in (EVA02, EVA01)):
        return None
    block = [name for name in names if name.startswith(_FIRST_BLOCK)]
    if model is None:
        is_other = any(part in name for name in block for part in _NEVER_OURS)
    else:
        is_other = any(name not in model for name in block)
    return inner if is_other else None

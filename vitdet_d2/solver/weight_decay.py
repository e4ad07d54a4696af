# SPDX-License-Identifier: Apache-2.0
"""Parameters that weight decay treats like others, by the last part of their names.

Detectron2's groups know norms by their class and biases by the name ``bias``. These lists say which
parameters of our ViT belong to them, and which are positions.

Source: BEiT's fine-tuning (github.com/microsoft/unilm, beit/optim_factory.py), which decays no
vectors and no position embeddings; tables of biases: Swin, arXiv 2103.14030, its official code.
"""

from __future__ import annotations

# LayerScale's factors, as the factors of norms.
NORM_LIKE = ("gamma",)
# Biases of query and value alone, as any bias.
BIAS_LIKE = ("q_bias", "v_bias")
# What is added for the sake of places. Decomposed tables are none: ViTDet decays them.
POSITION_LIKE = (
    "pos_embed",
    "relative_position_bias_table",
    "rel_pos_bias_window",
    "rel_pos_bias_global",
)


def without_decay() -> dict[str, dict[str, float]]:
    """Return the overrides that exempt positions and factors, but no biases: as ViTDet does.

    For the argument ``overrides`` of Detectron2's ``get_default_optimizer_params``, beside
    ``weight_decay_norm=0.0``.
    """
    return {name: {"weight_decay": 0.0} for name in (*POSITION_LIKE, *NORM_LIKE)}

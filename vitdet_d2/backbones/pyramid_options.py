# SPDX-License-Identifier: Apache-2.0
"""The arguments that all pyramid transformers have, in one object, and whether they fit together.

Vocabulary: a *stage* is a patch embedding and the blocks after it; stages count from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitdet_d2.errors import RecipeError
from vitdet_d2.layers.recompute import Recompute, check_recompute

# Stage by stage: their maps' names, as a ResNet's in Detectron2, and strides.
MAP_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


@dataclass(frozen=True, kw_only=True)
class PyramidOptions:
    """What PVT v1, v2 and MiT are built from; see `vitdet_d2.backbones.PVT` for each."""

    embed_dims: Sequence[int]
    depths: Sequence[int]
    num_heads: Sequence[int]
    mlp_ratios: Sequence[float]
    sr_ratios: Sequence[int]
    qkv_bias: bool
    drop_path_rate: float
    out_features: Sequence[str]
    in_chans: int
    frozen_stages: int
    use_act_checkpoint: Recompute

    def __post_init__(self) -> None:
        """Check every argument.

        Raises:
            RecipeError: one has another length than there are stages, or a value that cannot be.
        """
        for name in ("embed_dims", "depths", "num_heads", "mlp_ratios", "sr_ratios"):
            _check_per_stage(name, getattr(self, name))
        for stage, (dim, heads) in enumerate(
            zip(self.embed_dims, self.num_heads, strict=True), start=1
        ):
            if dim % heads:
                raise RecipeError(
                    f"embed_dims: expected a multiple of num_heads={heads} for stage {stage}, got "
                    f"{dim}"
                )
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise RecipeError(
                f"drop_path_rate: expected 0 <= drop_path_rate < 1, got {self.drop_path_rate}"
            )
        _check_out_features(self.out_features)
        if not 0 <= self.frozen_stages <= self.num_stages:
            raise RecipeError(
                f"frozen_stages: expected 0 to {self.num_stages}, the stages that out_features="
                f"{list(self.out_features)} needs, got {self.frozen_stages}"
            )
        check_recompute("use_act_checkpoint", self.use_act_checkpoint)

    @property
    def num_stages(self) -> int:
        """Stages up to the last map; those beyond would never be trained and are not built."""
        return max(list(MAP_STRIDES).index(name) for name in self.out_features) + 1


def _check_per_stage(name: str, values: Sequence[float]) -> None:
    """Require one positive number per stage.

    Raises:
        RecipeError: there are more or fewer, or one is not positive.
    """
    if len(values) != len(MAP_STRIDES) or min(values) <= 0:
        raise RecipeError(
            f"{name}: expected {len(MAP_STRIDES)} positive numbers, one per stage, got "
            f"{list(values)}"
        )


def _check_out_features(names: Sequence[str]) -> None:
    """Require names of maps, each once and in order.

    Raises:
        RecipeError: a name is unknown or stands twice, they are out of order, or there is none.
    """
    if isinstance(names, str) or not names or list(names) != [n for n in MAP_STRIDES if n in names]:
        raise RecipeError(
            f"out_features: expected some of {', '.join(MAP_STRIDES)}, in this order, got "
            f"{names if isinstance(names, str) else list(names)}"
        )

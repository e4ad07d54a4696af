# SPDX-License-Identifier: Apache-2.0
"""What PVT v1, PVT v2 and MiT share: four stages of blocks, each on a map of half the size.

Images ``(B, C, H, W)``; token maps ``(B, h, w, C)``. Stage ``S`` (from 1) has the modules
``patch_embedS``, ``blockS`` and, where stages end with a norm, ``normS``: the names of the released
files.

Source: PVT, arXiv 2102.12122, figure 3; equals ``detection/pvt.py`` and ``detection/pvt_v2.py`` of
github.com/whai362/PVT.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from detectron2.modeling.backbone.backbone import Backbone
from torch import Tensor, nn

from vitdet_d2.backbones.block_steps import BlockStep
from vitdet_d2.backbones.pyramid_options import MAP_STRIDES, PyramidOptions
from vitdet_d2.layers.mlp import hidden_width
from vitdet_d2.layers.pyramid_block import BLOCK_EPS, PyramidBlock
from vitdet_d2.layers.recompute import recomputed

# Standard deviation of new weights and position embeddings, as in ViT.
INIT_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class PyramidParts:
    """What differs between the members of the family, as functions that build it.

    Attributes:
        patch_embed: from stage, channels before and channels after; maps ``(B, C, H, W)`` to
            tokens ``(B, h, w, C)``.
        attention: from channels, heads, whether there are biases, and reduction ratio.
        mlp: from channels and hidden channels.
        stage_norm: whether a norm ends each stage, before its map goes anywhere.
    """

    patch_embed: Callable[[int, int, int], nn.Module]
    attention: Callable[[int, int, bool, int], nn.Module]
    mlp: Callable[[int, int], nn.Module]
    stage_norm: bool


class PyramidTransformer(Backbone):
    """Stages of blocks with maps ``res2`` to ``res5`` at strides 4, 8, 16 and 32."""

    def __init__(self, options: PyramidOptions, parts: PyramidParts) -> None:
        """Build the stages; the subclass initialises and freezes them.

        Args:
            options: sizes, and what is returned and trained.
            parts: what the stages consist of.
        """
        super().__init__()
        self.embed_dims = tuple(options.embed_dims)
        self.depths = tuple(options.depths)
        self.num_stages = options.num_stages
        self.frozen_stages = 0
        self.use_act_checkpoint = options.use_act_checkpoint
        # On the CPU also when the model is built on the meta device, which holds no numbers.
        rates = torch.linspace(0, options.drop_path_rate, sum(self.depths), device="cpu").tolist()
        widths = (options.in_chans, *self.embed_dims)
        for i in range(self.num_stages):
            stage, dim, before = i + 1, widths[i + 1], sum(self.depths[:i])
            self.add_module(f"patch_embed{stage}", parts.patch_embed(stage, widths[i], dim))
            blocks = [
                PyramidBlock(
                    dim,
                    attn=parts.attention(
                        dim, options.num_heads[i], options.qkv_bias, options.sr_ratios[i]
                    ),
                    mlp=parts.mlp(dim, hidden_width(dim, options.mlp_ratios[i])),
                    drop_path=rate,
                )
                for rate in rates[before : before + self.depths[i]]
            ]
            self.add_module(f"block{stage}", nn.ModuleList(blocks))
            norm = nn.LayerNorm(dim, eps=BLOCK_EPS) if parts.stage_norm else nn.Identity()
            self.add_module(f"norm{stage}", norm)

        self._out_features = list(options.out_features)
        channels = dict(zip(MAP_STRIDES, self.embed_dims, strict=True))
        self._out_feature_channels = {name: channels[name] for name in self._out_features}
        self._out_feature_strides = {name: MAP_STRIDES[name] for name in self._out_features}

    @property
    def size_divisibility(self) -> int:
        """Image sides should be multiples of the last stride; what is beyond may not be seen."""
        return self._out_feature_strides[self._out_features[-1]]

    def block_steps(self) -> list[BlockStep]:
        """Return all blocks in order; the first of a stage with all that lies between stages."""
        steps = []
        before: list[nn.Module | nn.Parameter] = []
        for stage in range(1, self.num_stages + 1):
            embed, blocks, norm = self._modules_of(stage)
            before += [embed, *self._positions_of(stage)]
            for block in blocks.children():
                steps.append(BlockStep(block=block, before=tuple(before)))
                before = []
            before = [norm]
        return steps

    def freeze_stages(self, count: int) -> None:
        """Exclude the first stages from training, for good: no gradients, no drop path.

        Args:
            count: how many stages, with their embeddings and norms.
        """
        self.frozen_stages = count
        for stage in range(1, count + 1):
            for module in self._modules_of(stage):
                module.requires_grad_(False)
            for position in self._positions_of(stage):
                position.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> PyramidTransformer:
        """Set training or evaluation; what is frozen stays in evaluation.

        Args:
            mode: whether to train.
        """
        super().train(mode)
        for stage in range(1, self.frozen_stages + 1):
            for module in self._modules_of(stage):
                module.eval()
        return self

    def _modules_of(self, stage: int) -> Iterator[nn.Module]:
        for kind in ("patch_embed", "block", "norm"):
            yield self.get_submodule(f"{kind}{stage}")

    def _positions_of(self, stage: int) -> list[nn.Parameter]:
        """Return the position embedding of a stage, if it has one."""
        own = dict(self.named_parameters(recurse=False))
        return [own[name] for name in (f"pos_embed{stage}",) if name in own]

    def _enter(self, stage: int, x: Tensor) -> Tensor:
        """Return the tokens ``(B, h, w, C)`` that a stage's first block sees."""
        return self.get_submodule(f"patch_embed{stage}")(x)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Extract the feature maps.

        Args:
            x: images ``(B, in_chans, H, W)``, normalised.

        Returns:
            The maps of ``out_features``, each ``(B, C, h, w)``; where a side is no multiple of 32,
            ``h`` and ``w`` are what the stages' convolutions leave of it.

        Raises:
            ValueError: the images are too small for the spatial reduction.
        """
        maps = {}
        for stage, name in enumerate(list(MAP_STRIDES)[: self.num_stages], start=1):
            x = self._enter(stage, x)
            how = self.use_act_checkpoint if stage > self.frozen_stages else False
            for block in self.get_submodule(f"block{stage}").children():
                x = recomputed(block, x, how=how)
            x = self.get_submodule(f"norm{stage}")(x).permute(0, 3, 1, 2)  # to (B, C, h, w)
            if name in self._out_features:
                maps[name] = x
        return maps


def init_weights(module: nn.Module) -> None:
    """Initialise one linear layer or norm; convolutions keep torch's default.

    Args:
        module: any; others stay as they are.

    Source: PVT's released code, version 1.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def init_weights_v2(module: nn.Module) -> None:
    """Initialise one layer, convolutions too: by the values that each output channel feeds.

    Args:
        module: any; others stay as they are.

    Source: PVT's released code, version 2.
    """
    init_weights(module)
    if isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        fan_out = height * width * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)

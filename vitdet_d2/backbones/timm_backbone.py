# SPDX-License-Identifier: Apache-2.0
"""Any feature extractor of timm as a detection backbone.

Shape legend: ``B`` images, ``C`` channels of a map, ``H, W`` its sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from vitdet_d2.backbones.freezing import freeze_upstream
from vitdet_d2.backbones.timm_models import (
    build_model,
    choose_levels,
    describe_architecture,
)
from vitdet_d2.backbones.timm_mvit import use_any_size, use_hybrid_windows
from vitdet_d2.backbones.timm_swin import use_padded_windows
from vitdet_d2.errors import RecipeError

_CHANNELS_LAST = (0, 2, 3, 1)
_CHANNELS_FIRST = (0, 3, 1, 2)


class TimmBackbone(Backbone):
    """A hierarchical model of timm that returns maps of several strides.

    The model is the attribute ``net``, without what comes after the last map that is asked for; its
    parameters have timm's names.

    Source: timm, github.com/huggingface/pytorch-image-models, `forward_intermediates`.
    """

    net: Any

    def __init__(
        self,
        name: str,
        out_indices: Sequence[int] | None = None,
        pretrained: bool = False,
        in_chans: int = 3,
        img_size: int | Sequence[int] | None = None,
        drop_path_rate: float | None = None,
        window_size: int | None = None,
        out_norm: Callable[[int], nn.Module] | None = None,
        frozen_stages: int = 0,
        use_act_checkpoint: bool = False,
    ) -> None:
        """Build a model of timm.

        Args:
            name: timm's name, such as ``"swin_base_patch4_window7_224"``, with or without the tag
                of its weights.
            out_indices: which of timm's levels are returned, increasing; negative numbers count
                from the last. None: those of strides 4, 8, 16 and 32.
            pretrained: whether timm's weights are downloaded and loaded.
            in_chans: channels of the images.
            img_size: the only height and width (a number: both) of images, for models that have
                one; None: any size.
            drop_path_rate: of stochastic depth, at the last block; None: timm's default.
            window_size: for MViTv2 alone: side of the windows of its detectors' hybrid attention in
                the first stage, in tokens (theirs: 56); the class token is left out. None: every
                block attends over the whole map.
            out_norm: makes a norm over the channels of each returned map, such as
                `layer_norm(eps)`; None: maps are returned as they are.
            frozen_stages: of how many levels, from the image on, everything that they are computed
                from is not trained; timm's list of levels counts, with a stem if it is one. 0:
                everything is trained.
            use_act_checkpoint: whether stages are computed again in the backward pass, in place of
                keeping what is inside them.

        Raises:
            RecipeError: no such model, levels or options, or no weights; the message says what the
                model accepts.
        """
        super().__init__()
        architecture = describe_architecture(name)
        levels = choose_levels(architecture, out_indices)
        size = _pair(img_size)
        self.name = name
        self.img_size = size
        self._indices = [level.index for level in levels]
        self.net = build_model(
            architecture,
            pretrained=pretrained,
            in_chans=in_chans,
            drop_path_rate=drop_path_rate,
            img_size=size,
        )
        use_padded_windows(self.net)
        use_any_size(self.net)
        if window_size is not None:
            use_hybrid_windows(name, self.net, window_size)
        self.net.prune_intermediate_layers(self._indices, prune_norm=True, prune_head=True)
        self._out_features = [level.name for level in levels]
        self._out_feature_strides = {level.name: level.stride for level in levels}
        self._out_feature_channels = {level.name: level.channels for level in levels}
        self._has_norms = out_norm is not None
        if out_norm is not None:
            for level in levels:
                self.add_module(f"norm{level.index}", out_norm(level.channels))
        self._frozen: list[str] = []
        self._image_shape = (in_chans, *(size or architecture.made_for))
        self.frozen_stages = 0
        self.freeze_stages(frozen_stages)
        self._use_act_checkpoint = False
        self.use_act_checkpoint = use_act_checkpoint

    @property
    def size_divisibility(self) -> int:
        """Multiple of image sides at which no map is cut off."""
        return math.lcm(*self._out_feature_strides.values())

    @property
    def padding_constraints(self) -> dict[str, int]:
        """The square that images are padded to, for a model of one size."""
        if self.img_size is None or self.img_size[0] != self.img_size[1]:
            return {}
        return {"square_size": self.img_size[0]}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Extract the feature maps.

        Args:
            x: images ``(B, in_chans, H, W)``, normalised.

        Returns:
            ``{name: (B, C, H / stride, W / stride)}``, in the order of the levels.

        Raises:
            RecipeError: the model is built for images of another size.
        """
        size = (x.shape[2], x.shape[3])
        if self.img_size is not None and size != self.img_size:
            raise RecipeError(
                f"timm model {self.name!r} is built for images of {self.img_size[0]}x"
                f"{self.img_size[1]} alone, got {size[0]}x{size[1]}; pad them (FPN's square_pad, "
                "for a square), or build it with another img_size"
            )
        maps = self._maps(x, self._indices)
        self._check(maps, size)
        if self._has_norms:
            maps = [_normalise(norm, m) for norm, m in zip(self._norms(), maps, strict=True)]
        return dict(zip(self._out_features, maps, strict=True))

    def train(self, mode: bool = True) -> TimmBackbone:
        """Change the mode of everything that is not frozen.

        Args:
            mode: training, or evaluation.
        """
        super().train(mode)
        for name in self._frozen:
            self.net.get_submodule(name).eval()
        return self

    @property
    def use_act_checkpoint(self) -> bool:
        """Whether stages are computed again in the backward pass."""
        return self._use_act_checkpoint

    @use_act_checkpoint.setter
    def use_act_checkpoint(self, value: bool) -> None:
        if value == self._use_act_checkpoint:
            return
        if not isinstance(value, bool):
            raise RecipeError(
                f"use_act_checkpoint: models of timm are computed again as a whole or not at all; "
                f"expected true or false, got {value!r}"
            )
        try:
            self.net.set_grad_checkpointing(value)
        except (AssertionError, AttributeError) as error:
            raise RecipeError(
                f"timm model {self.name!r} cannot compute activations again in the backward pass "
                f"({error}); leave activation checkpointing off, or take another model"
            ) from error
        self._use_act_checkpoint = value

    def freeze_stages(self, count: int) -> None:
        """Exclude what the first levels are computed from from training, for good.

        Args:
            count: how many of timm's levels; 0 changes nothing.

        Raises:
            RecipeError: there are fewer levels.
        """
        last = self._indices[-1]
        if not 0 <= count <= last + 1:
            raise RecipeError(
                f"frozen_stages={count}: timm model {self.name!r} has {last + 1} levels up to the "
                f"last one that is returned; give 0 to {last + 1}"
            )
        if count <= self.frozen_stages:
            return
        image = torch.zeros(1, *self._image_shape, device=next(self.net.parameters()).device)
        self._frozen = freeze_upstream(self.net, lambda: self._maps(image, [count - 1])[0])
        self.frozen_stages = count
        self.train(self.training)

    def freeze_norms(self, names: Collection[str]) -> None:
        """Exclude the norms of maps that nobody reads from training; they would get no gradient.

        Args:
            names: of maps; those without a norm are left as they are.
        """
        for name, norm in zip(self._out_features, self._norms(), strict=False):
            if name in names:
                norm.requires_grad_(False)

    def _norms(self) -> list[nn.Module]:
        """Return the norms of the maps, by name: others may have been put in their places."""
        if not self._has_norms:
            return []
        return [self.get_submodule(f"norm{index}") for index in self._indices]

    def _maps(self, x: Tensor, indices: list[int]) -> list[Tensor]:
        """Run the model up to the last of some levels.

        Raises:
            RecipeError: it does not take images of this size.
        """
        try:
            maps: list[Tensor] = self.net.forward_intermediates(
                x, indices=indices, stop_early=True, output_fmt="NCHW", intermediates_only=True
            )
        except AssertionError as error:  # how timm says that a size does not fit
            reason = f" ({error})" if str(error) else ""
            raise RecipeError(
                f"timm model {self.name!r} does not take images of {x.shape[2]}x{x.shape[3]}"
                f"{reason}; pad them to the size that it was trained on or a multiple of it, or "
                "take another model"
            ) from error
        return maps

    def _check(self, maps: Sequence[Tensor], size: tuple[int, int]) -> None:
        """Require maps of the sizes that their strides promise.

        Raises:
            RecipeError: they are not, as with convolutions that do not pad.
        """
        for (name, stride), feature in zip(self._out_feature_strides.items(), maps, strict=True):
            got = (feature.shape[2], feature.shape[3])
            if any(
                side % stride == 0 and length != side // stride
                for side, length in zip(size, got, strict=True)
            ):
                raise RecipeError(
                    f"timm model {self.name!r} cannot feed a pyramid: its map {name!r} of stride "
                    f"{stride} has the size {got[0]}x{got[1]} for images of {size[0]}x{size[1]}; "
                    "take another model"
                )


def _normalise(norm: nn.Module, x: Tensor) -> Tensor:
    """Normalise over the channels of ``(B, C, H, W)``."""
    normalised: Tensor = norm(x.permute(_CHANNELS_LAST))
    return normalised.permute(_CHANNELS_FIRST)


def _pair(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Return height and width.

    Raises:
        RecipeError: they are not two positive numbers.
    """
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < 1:
        raise RecipeError(f"img_size: expected one number, or height and width, got {size}")
    return pair[0], pair[1]

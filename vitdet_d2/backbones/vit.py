# SPDX-License-Identifier: Apache-2.0
"""The plain Vision Transformer as a detection backbone: one map at the stride of a patch.

Arguments, state-dict keys, initialisation and numerics are Detectron2's; what it lacks (strategies
across windows by name, maps of several blocks, parts that some pre-trained models have) is off by
default. Images ``(B, C, H, W)``; token
maps ``(B, h, w, C)`` with ``h = H // patch_size``.

Source: ViTDet, arXiv 2203.16527, section 3; equals `ViT` in detectron2/modeling/backbone/vit.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from detectron2.modeling.backbone.backbone import Backbone
from torch import Tensor, nn

from vitdet_d2.backbones.block_options import check_block_options
from vitdet_d2.backbones.cross_window import CrossWindow, plan_blocks
from vitdet_d2.backbones.placement import check_block_indexes
from vitdet_d2.errors import RecipeError
from vitdet_d2.layers.absolute_position import get_abs_pos
from vitdet_d2.layers.activation import ACTIVATIONS, Activation
from vitdet_d2.layers.attend import AttentionMethod
from vitdet_d2.layers.attention import Attention, QkvBias, RelPosBias
from vitdet_d2.layers.bias_strips import table_to_strips
from vitdet_d2.layers.bias_table import num_offsets
from vitdet_d2.layers.block import Block, MlpKind
from vitdet_d2.layers.patch_embed import PatchEmbed
from vitdet_d2.layers.recompute import Recompute, check_recompute, recomputed
from vitdet_d2.layers.residual_block import ConvBlockKind
from vitdet_d2.layers.rotary import RopeKind

# Standard deviation of new weights and position embeddings, as in BERT, ViT and MAE.
INIT_STD = 0.02


class ViT(Backbone):
    """Plain ViT whose blocks attend in windows or globally.

    Maps: ``out_feature``, after the last block, and before it ``stage1``, ``stage2``, ... if
    ``out_block_indexes`` asks for them, all of the same stride and width.
    """

    def __init__(
        self,
        img_size: int = 1024,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: QkvBias = True,
        drop_path_rate: float = 0.0,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        use_abs_pos: bool = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        window_size: int = 0,
        window_block_indexes: Sequence[int] = (),
        residual_block_indexes: Sequence[int] = (),
        use_act_checkpoint: Recompute = False,
        pretrain_img_size: int = 224,
        pretrain_use_cls_token: bool = True,
        out_feature: str = "last_feat",
        cross_window: CrossWindow | None = None,
        cross_window_indexes: Sequence[int] | None = None,
        conv_block: ConvBlockKind = "bottleneck",
        out_block_indexes: Sequence[int] = (),
        layer_scale_init: float | None = None,
        act: Activation | None = None,
        mlp: MlpKind = "gelu",
        mlp_norm: bool = False,
        pre_norm: bool = False,
        rope: RopeKind | None = None,
        rel_pos_bias: RelPosBias | None = None,
    ) -> None:
        """Build the backbone.

        Args:
            img_size: side of the training images, in pixels; sets the size of the relative position
                tables of global blocks. Other image sizes work: the tables are resized.
            patch_size: side of a patch, in pixels.
            in_chans: channels of the images.
            embed_dim: channels of a token.
            depth: number of blocks.
            num_heads: attention heads of each block.
            mlp_ratio: hidden width of the perceptrons, in multiples of ``embed_dim``.
            qkv_bias: whether query, key and value have a bias; ``"qv"``: query and value only, as
                ``q_bias`` and ``v_bias`` (BEiT, EVA).
            drop_path_rate: rate of the last block; it grows linearly from 0 at the first.
            norm_layer: makes the norm of a given width.
            act_layer: makes the activation.
            use_abs_pos: whether absolute position embeddings are added to the patches.
            use_rel_pos: whether relative positions are added to the attention logits.
            rel_pos_zero_init: whether their tables start at zero.
            window_size: side of the attention windows, in tokens.
            window_block_indexes: blocks that attend in windows; all others attend globally. Where
                it is not empty it wins over ``cross_window``.
            residual_block_indexes: blocks that a convolutional residual block follows; wins in the
                same way.
            use_act_checkpoint: whether blocks are computed again in the backward pass, which
                saves memory; ``"selective"``: only what is cheap of them, see
                `vitdet_d2.layers.recompute`.
            pretrain_img_size: side of the pre-training images, in pixels; sets the size of the
                absolute position embedding.
            pretrain_use_cls_token: whether that embedding has a class token, which is not used.
            out_feature: name of the output map.
            cross_window: how information crosses the windows, ``"global"``, ``"conv"``,
                ``"shifted"`` or ``"none"``, see `vitdet_d2.backbones.cross_window`; None: the two
                lists above alone decide, as in Detectron2.
            cross_window_indexes: at which blocks it does; None: at the last of each quarter, with
                ``"shifted"`` at every second block. See `vitdet_d2.backbones.placement`.
            conv_block: kind of the convolutional residual blocks: ``"naive"``, ``"basic"`` or
                ``"bottleneck"``.
            out_block_indexes: blocks, in increasing order, after which the map is returned, too,
                as ``stage1``, ``stage2``, ...
            layer_scale_init: first value of a learned factor for every channel of every branch
                (BEiT, DeiT III, DINOv2, DINOv3); None: no factors.
            act: the activation by name, ``"gelu"``, ``"quick_gelu"`` (OpenAI's CLIP) or
                ``"gelu_tanh"`` (Google's ViT); None: ``act_layer``.
            mlp: the perceptron, ``"gelu"``: two layers with the activation between them, or
                ``"swiglu"``: gated by SiLU (EVA-02, DINOv2 g).
            mlp_norm: whether the gated perceptron has a norm of its hidden layer (EVA-02).
            pre_norm: whether a norm stands before the first block (CLIP).
            rope: rotary positions, ``"half"`` (DINOv3) or ``"interleaved"`` (EVA-02), see
                `vitdet_d2.layers.rotary`; None: none.
            rel_pos_bias: whether a learned bias per head and offset is added to the attention
                logits (BEiT): ``"per_block"``, or ``"shared"`` by all windowed blocks, and another
                one by all global blocks; zero at first. With ``use_rel_pos``, or instead.

        Raises:
            RecipeError: arguments that contradict each other, or blocks that do not exist.
        """
        super().__init__()
        check_block_options(
            embed_dim=embed_dim,
            num_heads=num_heads,
            qkv_bias=qkv_bias,
            layer_scale_init=layer_scale_init,
            act=act,
            has_act_layer=act_layer is not nn.GELU,
            mlp=mlp,
            mlp_norm=mlp_norm,
            rope=rope,
            rel_pos_bias=rel_pos_bias,
        )
        self.patch_size = patch_size
        self.embed_dim = embed_dim
        self.depth = depth
        self.num_heads = num_heads
        self.qkv_bias = qkv_bias
        self.layer_scale_init = layer_scale_init
        self.act = act
        self.mlp = mlp
        self.mlp_norm = mlp_norm
        self.pre_norm = pre_norm
        self.rope = rope
        self.rel_pos_bias = rel_pos_bias
        self.pretrain_use_cls_token = pretrain_use_cls_token
        self.use_act_checkpoint = check_recompute("use_act_checkpoint", use_act_checkpoint)
        self.patch_embed = PatchEmbed(
            kernel_size=(patch_size, patch_size),
            stride=(patch_size, patch_size),
            in_chans=in_chans,
            embed_dim=embed_dim,
        )
        self.pos_embed: nn.Parameter | None = None
        if use_abs_pos:
            num_tokens = (pretrain_img_size // patch_size) ** 2 + int(pretrain_use_cls_token)
            self.pos_embed = nn.Parameter(torch.zeros(1, num_tokens, embed_dim))

        self.norm_pre = norm_layer(embed_dim) if pre_norm else None

        plans = plan_blocks(
            depth,
            window_size,
            cross_window,
            cross_window_indexes,
            conv_block,
            window_block_indexes,
            residual_block_indexes,
        )
        grid = img_size // patch_size
        # On the CPU also when the model is built on the meta device, which holds no numbers.
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            Block(
                dim=embed_dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                drop_path=rate,
                norm_layer=norm_layer,
                act_layer=act_layer if act is None else ACTIVATIONS[act],
                use_rel_pos=use_rel_pos,
                rel_pos_zero_init=rel_pos_zero_init,
                window_size=plan.window_size,
                use_residual_block=plan.conv_block is not None,
                input_size=(grid, grid),
                conv_block=plan.conv_block or conv_block,
                shift=plan.shift,
                layer_scale_init=layer_scale_init,
                rope=rope,
                mlp=mlp,
                mlp_norm=mlp_norm,
                rel_pos_bias=rel_pos_bias,
            )
            for plan, rate in zip(plans, rates, strict=True)
        )
        self._window, self._grid = (window_size, window_size), (grid, grid)
        self._add_shared_tables()

        self._stages = _name_stages(out_block_indexes, depth)
        if out_feature in self._stages.values():
            raise RecipeError(
                f"out_feature: expected another name than those of the maps of out_block_indexes "
                f"({', '.join(self._stages.values())}), got {out_feature!r}"
            )
        self._out_features = [*self._stages.values(), out_feature]
        self._out_feature_channels = dict.fromkeys(self._out_features, embed_dim)
        self._out_feature_strides = dict.fromkeys(self._out_features, patch_size)

        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=INIT_STD)
        self.apply(_init_weights)

    def _add_shared_tables(self) -> None:
        """Add what blocks of the same kind share, where such blocks exist."""
        self.rel_pos_bias_window: nn.Parameter | None = None
        self.rel_pos_bias_global: nn.Parameter | None = None
        if self.rel_pos_bias != "shared":
            return
        if any(block.window_size for block in self.blocks):
            self.rel_pos_bias_window = self._new_table(self._window)
        if not all(block.window_size for block in self.blocks):
            self.rel_pos_bias_global = self._new_table(self._grid)

    def _new_table(self, hw: tuple[int, int]) -> nn.Parameter:
        return nn.Parameter(torch.zeros(num_offsets(hw), self.num_heads))

    def _shared_biases(self, hw: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
        """Return the shared biases of windowed blocks, and of global ones on a grid, if any.

        Once for all blocks, and outside of what activation checkpointing computes again.
        """
        tables = (self.rel_pos_bias_window, self.rel_pos_bias_global)
        grids = ((self._window, self._window), (self._grid, hw))
        in_windows, everywhere = (
            None if table is None else table_to_strips(table, old_hw, new_hw)
            for table, (old_hw, new_hw) in zip(tables, grids, strict=True)
        )
        return in_windows, everywhere

    @property
    def size_divisibility(self) -> int:
        """Image sides must be multiples of a patch; what is beyond is not seen."""
        return self._out_feature_strides[self._out_features[-1]]

    def windowed_maps(self) -> dict[str, int]:
        """Return the maps that come from a block of windows alone, with the block's number.

        Such a map has not exchanged anything between windows since an earlier block.
        """
        ends = {**{name: i for i, name in self._stages.items()}, self._out_features[-1]: -1}
        return {
            name: i % self.depth
            for name, i in ends.items()
            if self.blocks[i].window_size and not self.blocks[i].use_residual_block
        }

    def set_attention_method(self, method: AttentionMethod) -> None:
        """Choose how every block computes attention; the numbers agree up to rounding.

        Args:
            method: ``"auto"`` (the default), or one of the ways of `vitdet_d2.layers.attend`.
        """
        for module in self.modules():
            if isinstance(module, Attention):
                module.method = method

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Extract the feature maps.

        Args:
            x: images ``(B, in_chans, H, W)``, normalised; rows and columns beyond a multiple of
                the patch size are ignored.

        Returns:
            ``{out_feature: (B, embed_dim, H // patch_size, W // patch_size)}``, after the maps of
            the stages, of the same shape.
        """
        x = self.patch_embed(x)
        hw = (x.shape[1], x.shape[2])
        if self.pos_embed is not None:
            x = x + get_abs_pos(self.pos_embed, self.pretrain_use_cls_token, hw)
        if self.norm_pre is not None:
            x = self.norm_pre(x)
        in_windows, everywhere = self._shared_biases(hw)
        maps = {}
        for i, block in enumerate(self.blocks):
            strips = in_windows if block.window_size else everywhere
            # Only with biases: what wraps a block may expect the map alone.
            given = (x,) if strips is None else (x, strips)
            x = recomputed(block, *given, how=self.use_act_checkpoint)
            if i in self._stages:
                maps[self._stages[i]] = x
        maps[self._out_features[-1]] = x
        return {name: x.permute(0, 3, 1, 2) for name, x in maps.items()}  # to (B, C, h, w)


def _name_stages(out_block_indexes: Sequence[int], depth: int) -> dict[int, str]:
    """Return the name of the map after each block that ends a stage.

    Raises:
        RecipeError: the blocks do not exist, or are not in increasing order.
    """
    indexes = check_block_indexes("out_block_indexes", out_block_indexes, depth)
    if list(indexes) != sorted(indexes):
        raise RecipeError(f"out_block_indexes: expected increasing numbers, got {list(indexes)}")
    return {index: f"stage{stage}" for stage, index in enumerate(indexes, start=1)}


def _init_weights(module: nn.Module) -> None:
    """Initialise linear layers and torch's own layer norms; convolutions keep torch's default."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)

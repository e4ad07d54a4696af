# SPDX-License-Identifier: Apache-2.0
"""Google's ViTs, from ``.npz`` files of vision_transformer (AugReg too) and big_vision.

Names are paths. Dense kernels have inputs first, those of attention one axis for the heads. Blocks
are numbered as flax did before its ``linen`` (``LayerNorm_2``, ``MlpBlock_3``) or as it does now
(``LayerNorm_1``, ``MlpBlock_0``), or lie on the first axis of one tensor for all.

Source: google-research/vision_transformer, ``vit_jax/models_vit.py``; google-research/big_vision,
``models/vit.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable, Part, Take, Target
from vitdet_d2.pretrained.normalisation import HALF
from vitdet_d2.pretrained.source import COMMON_HEADS, Needs, Source
from vitdet_d2.pretrained.sources.plain import count_before_grid

_KERNEL = "embedding/kernel"
_STACKED, _NUMBERED = "Transformer/encoderblock/", "Transformer/encoderblock_"
_POSITIONS = ("pos_embedding", "Transformer/posembed_input/pos_embedding")


def _turned(kernel: Tensor) -> Tensor:
    return kernel.T  # (in, out) -> (out, in)


def _heads_to_rows(kernel: Tensor) -> Tensor:
    return kernel.flatten(1).T  # (C, heads, C') -> (heads * C', C)


def _heads_to_columns(kernel: Tensor) -> Tensor:
    return kernel.flatten(0, 1).T  # (heads, C', C) -> (C, heads * C')


def _flat(bias: Tensor) -> Tensor:
    return bias.flatten()  # (heads, C') -> (heads * C',)


def _to_convolution(kernel: Tensor) -> Tensor:
    return kernel.permute(3, 2, 0, 1)  # (h, w, in, out) -> (out, in, h, w)


def _block(attention: str, norm2: str, mlp: str) -> dict[str, Target]:
    """Return the table of a block, whose parts flax has numbered in one of its ways."""
    theirs, ours = f"{_NUMBERED}{{n}}/", "blocks.{n}."
    table: dict[str, Target] = {}
    for norm, name in (("LayerNorm_0", "norm1"), (norm2, "norm2")):
        table[f"{theirs}{norm}/scale"] = f"{ours}{name}.weight"
        table[f"{theirs}{norm}/bias"] = f"{ours}{name}.bias"
    for index, part in enumerate(("query", "key", "value")):
        weight, bias = f"{ours}attn.qkv.weight", f"{ours}attn.qkv.bias"
        table[f"{theirs}{attention}/{part}/kernel"] = Part(weight, index, _heads_to_rows)
        table[f"{theirs}{attention}/{part}/bias"] = Part(bias, index, _flat)
    out = f"{theirs}{attention}/out/"
    table[f"{out}kernel"] = Take(f"{ours}attn.proj.weight", _heads_to_columns)
    table[f"{out}bias"] = f"{ours}attn.proj.bias"
    for dense, name in (("Dense_0", "fc1"), ("Dense_1", "fc2")):
        table[f"{theirs}{mlp}/{dense}/kernel"] = Take(f"{ours}mlp.{name}.weight", _turned)
        table[f"{theirs}{mlp}/{dense}/bias"] = f"{ours}mlp.{name}.bias"
    return table


TABLE: KeyTable = {
    _KERNEL: Take("patch_embed.proj.weight", _to_convolution),
    "embedding/bias": "patch_embed.proj.bias",
    **dict.fromkeys(_POSITIONS, "pos_embed"),
    **_block("MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3"),
    **_block("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"),
    "cls": None,
    "Transformer/encoder_norm/{rest}": None,
    "MAPHead_0/{rest}": None,
    "pre_logits/{rest}": None,
    "head/{rest}": None,
}
# The optimiser's state, and the text tower of models for images and texts.
BESIDE = ("opt/{rest}", "extra/{rest}", "states/{rest}", "params/{rest}", "txt/{rest}", "t", "b")


def _matches(file: Unwrapped) -> bool:
    return _KERNEL in file.state


def _unstacked(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Give each block its own names where blocks lie on the first axis."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(_STACKED):
            rest = name.removeprefix(_STACKED)
            result |= {f"{_NUMBERED}{n}/{rest}": block for n, block in enumerate(tensor)}
        else:
            result[name] = tensor
    return result


def _num_prefix(file: Unwrapped) -> int:
    """Rows before a square: big_vision's class tokens have none."""
    positions = next(file.state[name] for name in _POSITIONS if name in file.state)
    return count_before_grid(positions.shape[1], "cls" in file.state)


def _heads(file: Unwrapped) -> Mapping[int, int]:
    """Read the heads off the kernels, the only ones that show them."""
    for name, kernel in file.state.items():
        if name.startswith("Transformer/") and name.endswith("/query/kernel"):
            return {kernel.shape[-3]: kernel.shape[-2]}
    return COMMON_HEADS


def _needs(file: Unwrapped) -> Needs:  # noqa: ARG001
    return Needs(act="gelu_tanh")  # flax's default; what timm runs is the exact one


def _refuse(file: Unwrapped) -> str | None:
    if "conv_root/kernel" in file.state:
        return (
            "a hybrid, whose patches come from a ResNet (conv_root, gn_root, block1, ...), which a "
            "plain ViT has not; take a file without R26, R50 or another R in its name"
        )
    if not any(name in file.state for name in _POSITIONS):
        return (
            f"no position embedding in it ({' or '.join(_POSITIONS)}): the model computed them; "
            "take a model that learned them"
        )
    return None


GOOGLE = Source(
    name="google",
    title="Google's ViT",
    matches=_matches,
    table=TABLE,
    beside=BESIDE,
    normalisation=HALF,
    num_prefix=_num_prefix,
    needs=_needs,
    heads=_heads,
    refuse=_refuse,
    prepare=_unstacked,
)

# SPDX-License-Identifier: Apache-2.0
"""Whether a model is what an encoder was trained as: every difference is an error or a note.

A part that is left out, or a wrong activation, gives features that look right and are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from vitdet_d2.errors import WeightsError
from vitdet_d2.layers.mlp import hidden_width
from vitdet_d2.pretrained.encoder import BLOCK_BIAS, POSITIONS, SHARED_BIAS, Encoder
from vitdet_d2.pretrained.family import PLAIN_VIT
from vitdet_d2.pretrained.source import Needs
from vitdet_d2.pretrained.sources import SOURCES
from vitdet_d2.pretrained.traits import Traits

RECIPE_PREFIX = PLAIN_VIT.recipe_prefix
_SHARED, _PER_BLOCK = "rel_pos_bias=shared", "rel_pos_bias=per_block"


# Activations that differ by less than 1e-3, so that a note is enough.
_NEAR = {"gelu", "gelu_tanh"}


class _Lack(NamedTuple):
    what: str
    keys: list[str]
    option: str


# Part of a name, what it is, the option that makes it, the option that leaves it out. The
# function of the model depends on it either way.
_BOTH_WAYS = (
    ("norm_pre.", "a norm before the blocks", "pre_norm=True", "pre_norm=False"),
    (".mlp.w1.", "gated perceptrons", "mlp=swiglu", "mlp=gelu"),
    (".mlp.ffn_ln.", "norms in its perceptrons", "mlp_norm=True", "mlp_norm=False"),
)
# Part of a name, parts of the names in a model that take it, what it is, the option. A model that
# has it, and a file that has not, go together, since it starts as nothing.
_IN_THE_FILE = (
    (".ls1.gamma", (".ls1.gamma",), "LayerScale", "layer_scale_init=1.0"),
    (SHARED_BIAS, ("rel_pos_bias_", BLOCK_BIAS), "a bias of relative positions", _SHARED),
    (f".{BLOCK_BIAS}", (f".{BLOCK_BIAS}",), "biases of relative positions", _PER_BLOCK),
    (".attn.rel_pos_h", (".attn.rel_pos_h",), "relative positions", "use_rel_pos=True"),
    (POSITIONS, (POSITIONS,), "absolute positions", "use_abs_pos=True"),
    (".attn.qkv.bias", (".attn.qkv.bias", ".attn.q_bias"), "biases of queries", "qkv_bias=True"),
)


def check_needs(
    path: str,
    encoder: Encoder,
    model: Mapping[str, Tensor],
    traits: Traits,
    *,
    keep_layer_scale: bool,
) -> tuple[str, ...]:
    """Compare an encoder with a ViT.

    Args:
        path: of the file, for messages.
        encoder: from the file.
        model: state dict of the ViT; names and shapes alone are read.
        traits: of the ViT.
        keep_layer_scale: whether LayerScale must not be folded into the layers before it.

    Returns:
        Notes on differences that are small, or that nothing can be done about.

    Raises:
        WeightsError: the model lacks what the encoder needs, or has what it was trained without;
            all of it is named, with the options that cure it.
    """
    lacks = [
        *_lacks_of_tensors(encoder, model, keep_layer_scale),
        *_lacks_of_width(encoder, model),
        *_lacks_of_facts(encoder, traits),
    ]
    if lacks:
        wanted = "; ".join(
            f"{lack.what}{f' ({_some(lack.keys)})' if lack.keys else ''}" for lack in lacks
        )
        options = " ".join(f"{RECIPE_PREFIX}{lack.option}" for lack in lacks)
        raise WeightsError(
            f"{path}: {encoder.source.title} does not fit this ViT: {wanted}. In a recipe: "
            f"{options}"
        )
    return tuple(_notes(encoder, traits))


def _lacks_of_tensors(
    encoder: Encoder, model: Mapping[str, Tensor], keep_layer_scale: bool
) -> Iterator[_Lack]:
    for part, words, option, without in _BOTH_WAYS:
        keys = [name for name in encoder.tensors if part in name]
        modelled = any(part in name for name in model)
        if keys and not modelled:
            yield _Lack(f"it has {words}", keys, option)
        elif modelled and not keys:
            yield _Lack(f"it has no {words}", [], without)
    for part, takers, words, option in _IN_THE_FILE:
        keys = [name for name in encoder.tensors if part in name]
        may_fold = part.startswith(".ls") and not keep_layer_scale
        if keys and not may_fold and not any(taker in name for name in model for taker in takers):
            yield _Lack(f"it has {words}", keys, option)


def _lacks_of_width(encoder: Encoder, model: Mapping[str, Tensor]) -> Iterator[_Lack]:
    """Compare the perceptrons of the first block; gated ones are often narrower."""
    found, wanted = _hidden(encoder.tensors), _hidden(model)
    if None in (found, wanted) or found == wanted:
        return
    assert found is not None, "checked above"
    ratio = found / encoder.width
    texts = (f"{ratio:.{digits}f}" for digits in range(1, 17))
    fitting = (text for text in texts if hidden_width(encoder.width, float(text)) == found)
    words = f"its perceptrons have {found} hidden channels, the model's {wanted}"
    yield _Lack(words, [], f"mlp_ratio={next(fitting, ratio)}")


def _hidden(tensors: Mapping[str, Tensor]) -> int | None:
    names = ("blocks.0.mlp.fc1.weight", "blocks.0.mlp.w1.weight")
    return next((tensors[name].shape[0] for name in names if name in tensors), None)


def _lacks_of_facts(encoder: Encoder, traits: Traits) -> Iterator[_Lack]:
    needs = encoder.needs
    if needs.rope != traits.rope:
        words = f"it has {needs.rope or 'no'} rotary positions"
        yield _Lack(words, [], f"rope={needs.rope or 'null'}")
    if differs_in_activation(needs, traits):
        yield _Lack(f"trained with {needs.act}, the model has {traits.act}", [], f"act={needs.act}")
    if None not in (encoder.num_heads, traits.num_heads) and encoder.num_heads != traits.num_heads:
        # A plain ViT may be of any of them.
        others = sources_with(encoder.width, traits.num_heads)
        yield _Lack(
            f"a ViT of width {encoder.width} has {encoder.num_heads} attention heads there, the "
            f"model {traits.num_heads} (the shapes are the same, the features are not"
            f"{f'; of these, name the source: {others}' if others else ''})",
            [],
            f"num_heads={encoder.num_heads}",
        )


def differs_in_activation(needs: Needs, traits: Traits) -> bool:
    """Whether a ViT has an activation with which features are wrong.

    Args:
        needs: of the encoder.
        traits: of the ViT.
    """
    return traits.act not in (None, needs.act) and not {needs.act, traits.act} <= _NEAR


def sources_with(width: int, num_heads: int | None) -> str:
    """Return the names of the sources that have so many heads.

    Args:
        width: channels of a token.
        num_heads: attention heads.
    """
    names = [
        source.name
        for source in SOURCES
        if isinstance(source.heads, Mapping) and source.heads.get(width) == num_heads
    ]
    return ", ".join(dict.fromkeys(names))


def _notes(encoder: Encoder, traits: Traits) -> Iterator[str]:
    needs = encoder.needs
    if traits.eps is not None and needs.eps != traits.eps:
        yield (
            f"layer norms were trained with eps={needs.eps:g}, the model has {traits.eps:g}: "
            f"{RECIPE_PREFIX}norm_layer.eps={needs.eps:g} gives the same features"
        )
    if traits.act not in (None, needs.act):
        yield f"trained with {needs.act}, the model has {traits.act}"


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")

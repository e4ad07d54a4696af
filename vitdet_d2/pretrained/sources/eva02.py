# SPDX-License-Identifier: Apache-2.0
"""EVA-02: gated perceptrons and rotary positions; pre-trained, fine-tuned, or out of its detector.

Base and larger have queries, keys and values apart, and a norm inside the perceptron; tiny and
small have both in one matrix each. timm renames the perceptrons.

Source: baaivision/EVA, ``EVA-02/asuka/modeling_finetune.py`` and ``modeling_pretrain.py``,
``EVA-02/det``; timm, ``models/eva.py``.
"""

from __future__ import annotations

import math

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.encoder import STEM
from vitdet_d2.pretrained.key_table import Halves, KeyTable, Part
from vitdet_d2.pretrained.normalisation import CLIP, IMAGENET, Normalisation
from vitdet_d2.pretrained.source import Needs, Source
from vitdet_d2.pretrained.sources.plain import ENCODER, HEADS, OWN

_QKV_WEIGHT, _QKV_BIAS = "blocks.{n}.attn.qkv.weight", "blocks.{n}.attn.qkv.bias"
_GATE, _VALUE = "blocks.{n}.mlp.w1.{rest}", "blocks.{n}.mlp.w2.{rest}"
_OUT = "blocks.{n}.mlp.w3.{rest}"

_ATTENTION: KeyTable = {
    "blocks.{n}.attn.q_proj.weight": Part(_QKV_WEIGHT, 0),
    "blocks.{n}.attn.k_proj.weight": Part(_QKV_WEIGHT, 1),
    "blocks.{n}.attn.v_proj.weight": Part(_QKV_WEIGHT, 2),
    "blocks.{n}.attn.q_bias": Part(_QKV_BIAS, 0),
    "blocks.{n}.attn.v_bias": Part(_QKV_BIAS, 2),
    # timm's names for the same two.
    "blocks.{n}.attn.q_proj.bias": Part(_QKV_BIAS, 0),
    "blocks.{n}.attn.v_proj.bias": Part(_QKV_BIAS, 2),
}
_PERCEPTRON: KeyTable = {
    "blocks.{n}.mlp.w1.{rest}": _GATE,
    "blocks.{n}.mlp.w2.{rest}": _VALUE,
    "blocks.{n}.mlp.w12.{rest}": Halves(_GATE, _VALUE),
    "blocks.{n}.mlp.ffn_ln.{rest}": "blocks.{n}.mlp.ffn_ln.{rest}",
    "blocks.{n}.mlp.w3.{rest}": _OUT,
    # timm's names.
    "blocks.{n}.mlp.fc1_g.{rest}": _GATE,
    "blocks.{n}.mlp.fc1_x.{rest}": _VALUE,
    "blocks.{n}.mlp.fc1.{rest}": Halves(_GATE, _VALUE),
    "blocks.{n}.mlp.norm.{rest}": "blocks.{n}.mlp.ffn_ln.{rest}",
    "blocks.{n}.mlp.fc2.{rest}": _OUT,
}
TABLE: KeyTable = {
    **ENCODER,
    **_ATTENTION,
    # After a plain ViT's, whose fc1 and fc2 it replaces.
    **_PERCEPTRON,
    **OWN,
    # Cosines and sines, computed from the grid; each block of the official models has them too.
    "rope.{rest}": None,
    "rope_win.{rest}": None,
    "rope_glb.{rest}": None,
    "blocks.{n}.attn.rope.{rest}": None,
    **HEADS,
    "mask_token": None,
    "lm_head.{rest}": None,
}

# What is beside the encoder: the text tower of EVA-CLIP, and the other parts of a detector.
DETECTOR = (
    "backbone.{rest}",
    "proposal_generator.{rest}",
    "roi_heads.{rest}",
    "pixel_mean",
    "pixel_std",
)
BESIDE = ("text.{rest}", "logit_scale", *DETECTOR)

# Tokens a side in pre-training, and the span of the rotary positions ever after.
_ROTARY_SPAN = 16
# Side of a patch in pre-training, in pixels, of all sizes.
_PATCH = 14
_NORMED_ATTENTION = ("blocks.0.attn.inner_attn_ln.weight", "blocks.0.attn.norm.weight")


def _is_eva02(file: Unwrapped) -> bool:
    state = file.state
    if "pos_embed" not in state or "reg_token" in state:
        return False
    official = "blocks.0.mlp.w1.weight" in state or "blocks.0.mlp.w12.weight" in state
    if official or "blocks.0.mlp.fc1_g.weight" in state:
        return "blocks.0.attn.q_proj.weight" in state or "blocks.0.attn.q_bias" in state
    return "blocks.0.attn.q_bias" in state and _gate_within_fc1(file)


def _gate_within_fc1(file: Unwrapped) -> bool:
    names = ("blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight")
    if any(name not in file.state for name in names):
        return False
    into, out = (file.state[name] for name in names)
    return into.shape[0] == 2 * out.shape[1]


def _refuse(file: Unwrapped) -> str | None:
    normed = next((name for name in _NORMED_ATTENTION if name in file.state), None)
    if normed is not None:
        return (
            f"the file is one of EVA-02-CLIP, whose attention has a norm of its own ({normed}) "
            "that this ViT has not; take EVA-02's weights of masked image modelling"
        )
    return _refuse_span(file)


def _refuse_span(file: Unwrapped) -> str | None:
    """Refuse pre-training on another grid: its rotary positions count its own tokens."""
    table = file.state.get("rope.freqs_cos")
    if table is None or "mask_token" not in file.state or table.shape[0] == _ROTARY_SPAN**2:
        return None
    side = math.isqrt(table.shape[0])
    return (
        f"pre-trained on {side} x {side} patches, so that its rotary positions span {side}; those "
        f"of this ViT span {_ROTARY_SPAN}, as in all released EVA-02 models"
    )


def num_prefix(file: Unwrapped) -> int:
    """Count the rows before the grid; a detector has no class token, but its position."""
    if "cls_token" in file.state:
        return 1
    rows = file.state["pos_embed"].shape[1]
    return int(math.isqrt(rows) ** 2 != rows)


def _normalisation(file: Unwrapped) -> Normalisation:
    """EVA's detectors normalise images otherwise than its pre-training does."""
    return IMAGENET if is_eva_detector(file) else CLIP


def is_eva_detector(file: Unwrapped) -> bool:
    """Whether the encoder is out of a detector of EVA or EVA-02."""
    return "backbone.net." in file.wrappers or "cls_token" not in file.state


def detector_notes(file: Unwrapped) -> tuple[str, ...]:
    """Say what is left of a whole detector."""
    if not any(name.startswith(("roi_heads.", "backbone.simfp_")) for name in file.beside):
        return ()
    return (
        "a whole detector of EVA, whose backbone alone is taken: its neck and its heads are left "
        "out, and those of the model start anew",
    )


def patch_is_final(file: Unwrapped) -> str | None:
    """Say why a kernel must stay: EVA's patches are of 14 pixels, so others were resized before."""
    side = file.state[STEM].shape[-1]
    if side == _PATCH or "backbone.net." in file.wrappers:
        return None
    return (
        f"EVA's patches have {_PATCH} pixels, so this kernel of {side} was resized already, and "
        "would lose by it again; take the original file, without p14to16 in its name"
    )


EVA02 = Source(
    name="eva02",
    title="EVA-02",
    matches=_is_eva02,
    table=TABLE,
    beside=BESIDE,
    normalisation=_normalisation,
    num_prefix=num_prefix,
    needs=lambda file: Needs(rope="interleaved"),  # noqa: ARG005
    refuse=_refuse,
    notes=detector_notes,
    patch_is_final=patch_is_final,
)

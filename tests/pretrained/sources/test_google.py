# SPDX-License-Identifier: Apache-2.0
"""Google's ``.npz`` files in all their namings, against the features of the official flax model."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.pretrained import golden
from tests.pretrained.encoder_vit import read_file, vit_of
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.normalisation import HALF
from vitdet_d2.pretrained.recognise import encoder_of

# What current flax writes -> what released files have.
PRE_LINEN = {
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "LayerNorm_1": "LayerNorm_2",
    "MlpBlock_0": "MlpBlock_3",
}
POSITIONS = "Transformer/posembed_input/pos_embedding"


def pre_linen(state: dict[str, Tensor]) -> dict[str, Tensor]:
    def rename(name: str) -> str:
        return "/".join(PRE_LINEN.get(part, part) for part in name.split("/"))

    return {rename(name): value for name, value in state.items()}


def stacked(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As big_vision writes it: blocks on the first axis, positions at the root, a pooling head."""
    result = {n: v for n, v in state.items() if "encoderblock" not in n}
    for name in state:
        if "encoderblock_0" in name:
            blocks = [state[name.replace("_0/", f"_{n}/", 1)] for n in range(2)]
            result[name.replace("encoderblock_0", "encoderblock")] = torch.stack(blocks)
    result["pos_embedding"] = result.pop(POSITIONS)
    result["MAPHead_0/probe"] = torch.zeros(1, 1, 24)
    return result


def without_class_token(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {n: v for n, v in stacked(state).items() if n != "cls"}
    return {**state, "pos_embedding": state["pos_embedding"][:, 1:]}


def class_token_without_position(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, POSITIONS: state[POSITIONS][:, 1:]}


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


LAYOUTS = {
    "linen": lambda state: state,
    "pre-linen": pre_linen,
    "optimizer": lambda s: {
        **prefixed("opt/target/", pre_linen(s)),
        "opt/state/step": torch.ones(1),
    },
    "big_vision": lambda s: {**prefixed("params/", stacked(s)), "opt/0/count": torch.ones(1)},
    "two towers": lambda s: {
        **prefixed("params/img/", stacked(s)),
        "params/txt/head/bias": torch.ones(1),
        "params/t": torch.ones(1),
    },
    "no class token": without_class_token,
    "no position of the class token": class_token_without_position,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_naming_gives_the_official_features(tmp_path: Path, layout: str):
    made = golden.load_golden("google")
    state = made.state()
    np.savez(tmp_path / "B_16.npz", **{n: v.numpy() for n, v in LAYOUTS[layout](state).items()})
    encoder = read_file(tmp_path / "B_16.npz")
    assert encoder.source.name == "google"
    assert encoder.normalisation == HALF
    assert encoder.num_heads == 3  # read off the kernels
    assert encoder.num_prefix == (0 if layout.startswith("no ") else 1)
    first = state["cls"][0] + state[POSITIONS][0, :1]
    golden.assert_features(vit_of(encoder, num_heads=3), made, first)


def test_file_in_bfloat16_gives_nearly_the_official_features(tmp_path: Path):
    made = golden.load_golden("google")
    # As numpy writes the type, which it does not know.
    raw = {n: v.bfloat16().view(torch.int16).numpy() for n, v in stacked(made.state()).items()}
    np.savez(tmp_path / "x.npz", **{n: v.view(np.dtype("V2")) for n, v in raw.items()})
    encoder = read_file(tmp_path / "x.npz")
    assert encoder.tensors["patch_embed.proj.weight"].dtype == torch.bfloat16
    found = golden.patch_features(vit_of(encoder, num_heads=3), made.image)
    torch.testing.assert_close(found, made.features, atol=0.1, rtol=0)


def test_exact_gelu_is_near_but_not_the_same():
    made = golden.load_golden("google")
    encoder = encoder_of("x.npz", Unwrapped(state=made.state()))
    assert encoder.needs.act == "gelu_tanh"
    assert encoder.needs.eps == 1e-6
    vit = vit_of(encoder, num_heads=3)
    for module in vit.modules():
        if isinstance(module, torch.nn.GELU):
            module.approximate = "none"
    difference = (golden.patch_features(vit, made.image) - made.features).abs().max()
    assert 3 * golden.TOLERANCE < difference < 5e-3


def test_all_keys_of_a_stacked_file_are_known_on_the_meta_device():
    state = stacked(golden.load_golden("google").state())
    meta = {name: value.to("meta") for name, value in state.items()}
    encoder = encoder_of("x.npz", Unwrapped(state=meta))
    assert encoder.depth == 2
    assert encoder.tensors["blocks.1.attn.qkv.weight"].shape == (72, 24)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"conv_root/kernel": torch.zeros(7, 7, 3, 64)}, "hybrid"),
        ({POSITIONS: None}, "no position embedding"),
        ({"Transformer/encoderblock_0/Extra_0/kernel": torch.zeros(1)}, "no such keys: .*Extra_0"),
    ],
)
def test_other_models_are_refused(change: dict[str, Tensor | None], reason: str):
    state = {**golden.load_golden("google").state(), **change}
    kept = {name: value for name, value in state.items() if value is not None}
    with pytest.raises(WeightsError, match=re.compile(f"Google's ViT.*{reason}")):
        encoder_of("x.npz", Unwrapped(state=kept))

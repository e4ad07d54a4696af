# SPDX-License-Identifier: Apache-2.0
"""Rotary positions: against timm's and transformers' modules, and in windows against a formula."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from timm.layers import RotaryEmbeddingCat, RotaryEmbeddingDinoV3, apply_rot_embed_cat
from torch import Tensor, nn
from transformers import DINOv3ViTConfig
from transformers.models.dinov3_vit import modeling_dinov3_vit

from tests.closed_form import fill_, tensor
from vitdet_d2.layers.attention import Attention
from vitdet_d2.layers.rotary import map_rotation, rotate, window_rotation

GRIDS = [(4, 4), (3, 5), (16, 16), (24, 9)]
HEADS, HEAD_DIM = 2, 8
DIM = HEADS * HEAD_DIM


def queries(hw: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
    return tensor("q", (2, HEADS, hw[0] * hw[1], HEAD_DIM)).to(dtype)


@pytest.mark.parametrize("hw", GRIDS)
def test_half_matches_timm(hw: tuple[int, int]) -> None:
    module = RotaryEmbeddingDinoV3(HEAD_DIM, temperature=100.0, rotate_half=True)
    q = queries(hw)
    expected = apply_rot_embed_cat(q, module.get_embed(list(hw)), half=True)
    # 1e-5: angles reach 2 pi, and are rounded in another order.
    torch.testing.assert_close(
        rotate(q, map_rotation("half", hw, HEAD_DIM, q), "half"), expected, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("hw", GRIDS)
def test_half_matches_transformers(hw: tuple[int, int]) -> None:
    config = DINOv3ViTConfig(hidden_size=DIM, num_attention_heads=HEADS, patch_size=2)
    module = modeling_dinov3_vit.DINOv3ViTRopePositionEmbedding(config).eval()
    cos, sin = module(torch.zeros(1, 3, 2 * hw[0], 2 * hw[1]))
    q = queries(hw)
    expected, _ = modeling_dinov3_vit.apply_rotary_pos_emb(q, q, cos, sin)
    torch.testing.assert_close(
        rotate(q, map_rotation("half", hw, HEAD_DIM, q), "half"), expected, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("hw", GRIDS)
def test_interleaved_matches_timm(hw: tuple[int, int]) -> None:
    module = RotaryEmbeddingCat(
        HEAD_DIM, in_pixels=False, feat_shape=list(hw), ref_feat_shape=[16, 16]
    )
    q = queries(hw)
    expected = apply_rot_embed_cat(q, module.get_embed())
    # 1e-5: angles reach 16.
    torch.testing.assert_close(
        rotate(q, map_rotation("interleaved", hw, HEAD_DIM, q), "interleaved"),
        expected,
        atol=1e-5,
        rtol=0,
    )


def slowly_rotated(x: Tensor, kind: str, places: list[tuple[float, float]]) -> Tensor:
    """Turn every pair of channels of ``(..., N, D)`` as a complex number; places in radians."""
    out = x.clone()
    quarter = HEAD_DIM // 4
    for token, place in enumerate(places):
        for pair in range(2 * quarter):
            step = pair % quarter / quarter
            speed = (100.0 if kind == "half" else 10000.0) ** -step
            turn = cmath.exp(1j * place[pair // quarter] * speed)
            first = pair if kind == "half" else 2 * pair
            second = pair + 2 * quarter if kind == "half" else 2 * pair + 1
            turned = torch.complex(x[..., token, first], x[..., token, second]) * turn
            out[..., token, first], out[..., token, second] = turned.real, turned.imag
    return out


def slowly_attended(attention: Attention, x: Tensor, shift_hw: tuple[int, int]) -> Tensor:
    """Attend over the whole padded map, to the keys of the same window only."""
    B, H, W, C = x.shape
    w = attention.window_size
    Hp, Wp = -(-H // w) * w, -(-W // w) * w
    padded = x.new_zeros(B, Hp, Wp, C)
    padded[:, :H, :W] = x
    bias = attention.qkv.bias
    if bias is None:
        bias = torch.cat([attention.q_bias, torch.zeros(C).to(x), attention.v_bias])
    qkv = (padded @ attention.qkv.weight.t() + bias).reshape(B, Hp * Wp, 3, HEADS, HEAD_DIM)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    places, windows, local = [], [], []
    for row in range(Hp):
        for column in range(Wp):
            moved = [(row - shift_hw[0]) % Hp, (column - shift_hw[1]) % Wp]
            inside = [moved[0] % w, moved[1] % w]
            wrapped = [m >= size - s for m, size, s in zip(moved, (Hp, Wp), shift_hw, strict=True)]
            windows.append((moved[0] // w, moved[1] // w, *wrapped))
            local.append(inside)
            if attention.rope == "half":
                pair = (((row + 0.5) / H * 2 - 1), (column + 0.5) / W * 2 - 1)
                places.append((2 * math.pi * pair[0], 2 * math.pi * pair[1]))
            else:
                places.append((inside[0] / w * 16, inside[1] / w * 16))
    turned_q = slowly_rotated(q, str(attention.rope), places)
    logits = turned_q @ slowly_rotated(k, str(attention.rope), places).mT * HEAD_DIM**-0.5
    for i, own in enumerate(windows):
        for j, other in enumerate(windows):
            if own != other:
                logits[..., i, j] = -math.inf
            elif attention.use_rel_pos:
                for axis, table in enumerate((attention.rel_pos_h, attention.rel_pos_w)):
                    distance = local[i][axis] - local[j][axis] + w - 1
                    logits[..., i, j] += q[..., i, :] @ table[distance]
    out = (logits.softmax(-1) @ v).transpose(1, 2).reshape(B, Hp, Wp, C)
    return attention.proj(out[:, :H, :W])


@pytest.mark.parametrize("kind", ["half", "interleaved"])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize(("hw", "use_rel_pos"), [((5, 4), True), ((6, 3), False), ((2, 7), False)])
def test_windows_match_the_formula(
    kind: str, shift: int, hw: tuple[int, int], use_rel_pos: bool
) -> None:
    attention = Attention(
        DIM,
        HEADS,
        "qv",
        use_rel_pos=use_rel_pos,
        input_size=(3, 3),
        window_size=3,
        shift=shift,
        rope=kind,
    )
    fill_(attention.double())
    x = tensor("x", (2, *hw, DIM))
    moved = tuple(shift if size > 3 else 0 for size in hw)
    with torch.no_grad():
        expected = slowly_attended(attention, x, moved)
        for method in ("explicit", "augmented", "chunked", "tiled"):
            attention.method = method
            torch.testing.assert_close(attention(x), expected)
        attention.rope = None
        assert not torch.allclose(attention(x), expected)


def test_half_sees_the_same_in_windows_as_on_the_map() -> None:
    """A window that spans the map, and windows that cut it, turn tokens alike."""
    like = torch.zeros(1)
    whole = map_rotation("half", (4, 6), HEAD_DIM, like)
    one = window_rotation("half", (4, 6), (6, 6), 6, (0, 0), HEAD_DIM, like)
    many = window_rotation("half", (4, 6), (4, 6), 2, (0, 0), HEAD_DIM, like)
    for part, part_one, part_many in zip(whole, one, many, strict=True):
        assert torch.equal(part_one.unflatten(2, (6, 6))[0, 0, :4], part[0, 0].unflatten(0, (4, 6)))
        cut = part_many.reshape(2, 3, 2, 2, -1).transpose(1, 2).reshape(4, 6, -1)
        assert torch.equal(cut, part[0, 0].unflatten(0, (4, 6)))


@pytest.mark.parametrize("kind", ["half", "interleaved"])
def test_logits_depend_on_distances_only(kind: str) -> None:
    q, k = torch.randn(2, 1, 1, 1, HEAD_DIM, dtype=torch.float64).expand(2, 1, 1, 20, HEAD_DIM)
    turn = map_rotation(kind, (4, 5), HEAD_DIM, q)
    logits = (rotate(q, turn, kind) @ rotate(k, turn, kind).mT)[0, 0].reshape(4, 5, 4, 5)
    torch.testing.assert_close(logits[0, 0, 1, 2], logits[2, 2, 3, 4])
    torch.testing.assert_close(logits[0, 3, 2, 1], logits[1, 4, 3, 2])
    assert not torch.allclose(logits[0, 0, 1, 2], logits[0, 0, 2, 1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_turned_in_float32(dtype: torch.dtype) -> None:
    q = queries((9, 9), dtype)
    turn = map_rotation("interleaved", (9, 9), HEAD_DIM, q)
    assert turn[0].dtype == torch.float32
    exact = rotate(q.double(), map_rotation("interleaved", (9, 9), HEAD_DIM, q.double()), "half")
    out = rotate(q, turn, "half")
    assert out.dtype == dtype
    # Rounded once, at the end.
    torch.testing.assert_close(out.double(), exact, atol=0, rtol=torch.finfo(dtype).eps)


def test_heads_that_cannot_be_turned() -> None:
    with pytest.raises(ValueError, match=r"multiple of 4 \* num_heads=8 with rope='half', got 12"):
        Attention(12, 2, rope="half")


def test_no_parameters_and_the_meta_device() -> None:
    with torch.device("meta"):
        attention = Attention(DIM, HEADS, window_size=3, shift=1, rope="half")
        out = attention(torch.empty(1, 5, 7, DIM))
    assert (out.device.type, out.shape) == ("meta", (1, 5, 7, DIM))
    assert (
        attention.state_dict().keys()
        == nn.ModuleDict({"qkv": nn.Linear(1, 1), "proj": nn.Linear(1, 1)}).state_dict().keys()
    )

# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from tests.closed_form import fill_, tensor
from vitdet_d2.layers.attention import Attention
from vitdet_d2.layers.shifted_window import MASKED, effective_shift, wrap_terms
from vitdet_d2.layers.window_partition import window_partition, window_unpartition

METHODS = ["auto", "explicit", "augmented", "chunked", "tiled"]

# Grid, window, shift. Padding in both axes, in one, in none; a single window along an axis, which
# is not shifted then; a shift of one and of all but one.
LAYOUTS = [
    ((5, 7), 3, 1),
    ((6, 4), 3, 2),
    ((4, 8), 4, 2),
    ((3, 7), 3, 1),
    ((2, 3), 4, 2),
]


def slow_shifted_attention(module, x, window_size, shift):
    """Decide pair by pair who attends to whom, on the padded map, without rolling anything."""
    B, H, W, dim = x.shape
    Hp, Wp = (-(-size // window_size) * window_size for size in (H, W))
    shift_h = shift if Hp > window_size else 0
    shift_w = shift if Wp > window_size else 0
    padded = x.new_zeros(B, Hp, Wp, dim)
    padded[:, :H, :W] = x
    q, k, v = module.qkv(padded).unflatten(-1, (3, module.num_heads, -1)).unbind(-3)

    def window(r, c):
        return ((r - shift_h) // window_size, (c - shift_w) // window_size)

    places = [(r, c) for r in range(Hp) for c in range(Wp)]
    rows = []
    for b in range(B):
        for r, c in [(r, c) for r in range(H) for c in range(W)]:
            heads = []
            for n in range(module.num_heads):
                query = q[b, r, c, n]
                seen = [(i, j) for i, j in places if window(i, j) == window(r, c)]
                logits = []
                for i, j in seen:
                    logit = module.scale * (query @ k[b, i, j, n])
                    if module.use_rel_pos:
                        logit = logit + query @ module.rel_pos_h[r - i + window_size - 1]
                        logit = logit + query @ module.rel_pos_w[c - j + window_size - 1]
                    logits.append(logit)
                weights = torch.stack(logits).softmax(0)
                values = torch.stack([v[b, i, j, n] for i, j in seen])
                heads.append(weights @ values)
            rows.append(torch.cat(heads))
    return module.proj(torch.stack(rows).reshape(B, H, W, dim))


def make(window_size, shift, use_rel_pos=True, qkv_bias=True):
    module = Attention(
        6,
        num_heads=2,
        qkv_bias=qkv_bias,
        use_rel_pos=use_rel_pos,
        input_size=(window_size, window_size),
        window_size=window_size,
        shift=shift,
    )
    return fill_(module.double())


@pytest.mark.parametrize("use_rel_pos", [True, False])
@pytest.mark.parametrize(("hw", "window_size", "shift"), LAYOUTS)
def test_shifted_attention_matches_loops(hw, window_size, shift, use_rel_pos):
    module = make(window_size, shift, use_rel_pos)
    x = tensor("x", (2, *hw, 6))
    expected = slow_shifted_attention(module, x, window_size, shift)
    cotangent = tensor("cotangent", tuple(expected.shape))
    parameters = dict(module.named_parameters())
    expected_gradients = torch.autograd.grad((expected * cotangent).sum(), parameters.values())
    for method in METHODS:
        module.method = method
        actual = module(x)
        torch.testing.assert_close(actual, expected)
        gradients = torch.autograd.grad((actual * cotangent).sum(), parameters.values())
        for name, a, b in zip(parameters, gradients, expected_gradients, strict=True):
            torch.testing.assert_close(a, b, msg=f"{method} {name}")


def test_without_bias_padding_is_zero():
    module = make(3, 1, qkv_bias=False)
    x = tensor("x", (1, 4, 5, 6))
    torch.testing.assert_close(module(x), slow_shifted_attention(module, x, 3, 1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_masked_tokens_have_no_weight_in_low_precision(method, dtype):
    """Values beyond the reach of a token are huge; one of them would show."""
    module = make(3, 1).to(dtype)
    module.method = method
    x = tensor("x", (1, 6, 6, 6)).to(dtype)
    far = x.clone()
    far[:, 1:, 1:] *= 50.0  # beyond the corner token, which is alone in its window
    with torch.no_grad():
        assert torch.equal(module(x)[:, 0, 0], module(far)[:, 0, 0])


def test_terms_by_hand():
    """Rows 0 to 3 in windows of 2, moved by 1: windows hold 1, 2 and 3, 0; columns stay."""
    rows, columns = wrap_terms((4, 2), 2, (1, 0), torch.zeros((), dtype=torch.float64))
    assert rows.shape == columns.shape == (2, 1, 4, 2)
    assert not columns.any()
    assert not rows[0].any()
    apart = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    assert torch.equal(rows[1, 0], MASKED * apart)


def test_an_axis_with_one_window_is_not_shifted():
    assert effective_shift((14, 15), 14, 7) == (0, 7)
    assert effective_shift((64, 3), 14, 7) == (7, 0)


def test_partition_with_shift_round_trip():
    x = tensor("x", (2, 5, 7, 3))
    windows, pad_hw = window_partition(x, 3, shift=(1, 2))
    assert pad_hw == (6, 9)
    # The first window starts at row 1 and column 2.
    assert torch.equal(windows[0], x[0, 1:4, 2:5])
    assert torch.equal(window_unpartition(windows, 3, pad_hw, (5, 7), shift=(1, 2)), x)


@pytest.mark.parametrize("shift", [3, -1])
def test_bad_shift_raises(shift):
    with pytest.raises(ValueError, match=f"0 <= shift < window_size=3, got {shift}"):
        Attention(6, num_heads=2, window_size=3, shift=shift)

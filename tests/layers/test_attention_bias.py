# SPDX-License-Identifier: Apache-2.0
"""Attention with relative position biases, against loops over pairs of tokens."""

import pytest
import torch

from tests.closed_form import fill_, tensor
from vitdet_d2.layers import attend_biased as biased_module
from vitdet_d2.layers.attend import attend
from vitdet_d2.layers.attention import Attention
from vitdet_d2.layers.bias_strips import biases_of_rows, table_to_strips
from vitdet_d2.layers.bias_table import resize_bias_table
from vitdet_d2.layers.block import Block

METHODS = ["auto", "explicit", "augmented", "chunked", "tiled"]


def slow_attention(module, table, table_hw, x, offset=(0, 0)):
    """Pair by pair over a window whose first token is at ``offset`` of an infinite zero map."""
    H, W, dim = x.shape
    q, k, v = module.qkv(x).unflatten(-1, (3, module.num_heads, -1)).unbind(-3)
    h, w = table_hw
    places = [(r, c) for r in range(H) for c in range(W)]
    rows = []
    for r, c in places:
        heads = []
        for n in range(module.num_heads):
            logits = []
            for i, j in places:
                logit = module.scale * (q[r, c, n] @ k[i, j, n])
                logit = logit + table[(r - i + h - 1) * (2 * w - 1) + (c - j + w - 1), n]
                if module.use_rel_pos:
                    logit = logit + q[r, c, n] @ module.rel_pos_h[r - i + H - 1]
                    logit = logit + q[r, c, n] @ module.rel_pos_w[c - j + W - 1]
                logits.append(logit)
            weights = torch.stack(logits).softmax(0)
            values = torch.stack([v[i, j, n] for i, j in places])
            heads.append(weights @ values)
        rows.append(torch.cat(heads))
    return torch.stack(rows).reshape(H, W, dim)


def slow_windows(module, table, x):
    """All windows of one image, padded with zero tokens, which are keys, too."""
    H, W, dim = x.shape
    side = module.window_size
    Hp, Wp = (-(-size // side) * side for size in (H, W))
    padded = torch.zeros(Hp, Wp, dim, dtype=x.dtype)
    padded[:H, :W] = x
    out = [
        [
            slow_attention(module, table, (side, side), padded[r : r + side, c : c + side])
            for c in range(0, Wp, side)
        ]
        for r in range(0, Hp, side)
    ]
    whole = torch.cat([torch.cat(row, dim=1) for row in out], dim=0)
    return whole[:H, :W]


def make(**arguments):
    return fill_(Attention(6, num_heads=2, rel_pos_bias="per_block", **arguments).double())


def compare(module, x, expected):
    """Outputs and the gradients of every parameter, by every method."""
    cotangent = tensor("cotangent", tuple(expected.shape))
    parameters = dict(module.named_parameters())
    wanted = torch.autograd.grad((expected * cotangent).sum(), parameters.values())
    for method in METHODS:
        module.method = method
        actual = module(x)
        torch.testing.assert_close(actual, expected, msg=method)
        with torch.no_grad():
            torch.testing.assert_close(module(x), expected, msg=f"{method}, without gradients")
        gradients = torch.autograd.grad((actual * cotangent).sum(), parameters.values())
        for name, a, b in zip(parameters, gradients, wanted, strict=True):
            torch.testing.assert_close(a, b, msg=f"{method} {name}")


@pytest.mark.parametrize("use_rel_pos", [False, True])
@pytest.mark.parametrize("elements", [1, 200, 300, 1 << 21])
def test_global_attention_matches_loops(use_rel_pos, elements, monkeypatch):
    """Not square; in pieces of one row, of two, of one sample and of all."""
    monkeypatch.setattr(biased_module, "CPU_ELEMENTS", elements)
    module = make(input_size=(3, 4), use_rel_pos=use_rel_pos)
    x = tensor("x", (2, 3, 4, 6))
    table = module.relative_position_bias_table
    assert table.shape == (35, 2)
    slow = torch.stack([slow_attention(module, table, (3, 4), image) for image in x])
    compare(module, x, module.proj(slow))


@pytest.mark.parametrize("hw", [(5, 2), (3, 6), (2, 2)])
def test_other_sizes_resize_the_table(hw):
    module = make(input_size=(3, 4))
    x = tensor("x", (1, *hw, 6))
    table = resize_bias_table(module.relative_position_bias_table, (3, 4), hw)
    compare(module, x, module.proj(slow_attention(module, table, hw, x[0])[None]))


@pytest.mark.parametrize("use_rel_pos", [False, True])
@pytest.mark.parametrize("hw", [(4, 5), (3, 3), (2, 7)])
def test_windows_match_loops_with_padding(hw, use_rel_pos):
    module = make(input_size=(3, 3), window_size=3, use_rel_pos=use_rel_pos)
    x = tensor("x", (2, *hw, 6))
    slow = torch.stack([slow_windows(module, module.relative_position_bias_table, i) for i in x])
    compare(module, x, module.proj(slow))


@pytest.mark.parametrize("use_rel_pos", [False, True])
def test_shifted_windows_keep_opposite_borders_apart(use_rel_pos):
    """Shifted by hand: the smaller windows of the borders one by one, no padding."""
    module = make(input_size=(4, 4), window_size=4, shift=2, use_rel_pos=use_rel_pos)
    small = dict(module.named_parameters())
    x = tensor("x", (1, 8, 8, 6))
    out = torch.zeros(8, 8, 6, dtype=x.dtype)
    for rows in (slice(0, 2), slice(2, 6), slice(6, 8)):
        for columns in (slice(0, 2), slice(2, 6), slice(6, 8)):
            H, W = rows.stop - rows.start, columns.stop - columns.start
            part = make(input_size=(H, W), use_rel_pos=use_rel_pos)
            middle = {"rel_pos_h": H, "rel_pos_w": W}
            state = {
                name: value[4 - middle[name] : 3 + middle[name]] if name in middle else value
                for name, value in small.items()
                if name != "relative_position_bias_table"
            }
            part.load_state_dict(state, strict=False)
            # The table of the whole window has the offsets of the smaller one in its middle.
            table = small["relative_position_bias_table"]
            out[rows, columns] = slow_attention(part, table, (4, 4), x[0, rows, columns])
    expected = module.proj(out[None])
    for method in METHODS:
        module.method = method
        torch.testing.assert_close(module(x), expected, msg=method)


def test_the_index_is_beits():
    """The formula of BEiT's index over a whole grid, written with its own steps."""
    h, w = 3, 4
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    flat = torch.stack([rows.flatten(), columns.flatten()])
    difference = flat[:, :, None] - flat[:, None, :]
    index = (difference[0] + h - 1) * (2 * w - 1) + difference[1] + w - 1
    table = tensor("table", ((2 * h - 1) * (2 * w - 1), 2))
    strips = table_to_strips(table, (h, w), (h, w))
    whole = biases_of_rows(strips, 0, h)
    assert torch.equal(whole, table[index].permute(2, 0, 1))
    for first, last in ((1, 2), (1, 3), (0, 2)):
        some = biases_of_rows(strips, first, last)
        assert torch.equal(some, whole[:, first * w : last * w])


def test_shared_table_is_handed_over():
    own = make(input_size=(3, 4))
    shared = Attention(6, num_heads=2, rel_pos_bias="shared", input_size=(3, 4)).double()
    state = own.state_dict()
    table = state.pop("relative_position_bias_table")
    shared.load_state_dict(state)
    x = tensor("x", (1, 3, 4, 6))
    strips = table_to_strips(table, (3, 4), (3, 4))
    torch.testing.assert_close(shared(x, strips), own(x))
    block = Block(6, 2, rel_pos_bias="shared", input_size=(3, 4)).double()
    assert not torch.equal(block(x, strips), block(x, torch.zeros_like(strips)))


def test_a_new_table_changes_nothing():
    plain = fill_(Attention(6, num_heads=2).double())
    biased = Attention(6, num_heads=2, rel_pos_bias="per_block", input_size=(3, 4)).double()
    assert not biased.relative_position_bias_table.any()
    biased.load_state_dict(plain.state_dict(), strict=False)
    x = tensor("x", (1, 3, 4, 6))
    torch.testing.assert_close(biased(x), plain(x))


@pytest.mark.parametrize("method", ["auto", "augmented", "chunked", "tiled"])
def test_no_map_per_head_is_kept_on_long_sequences(method, monkeypatch):
    """What autograd keeps grows with the tokens, not with their square."""
    kept = {}
    for side in (16, 32):
        monkeypatch.setattr(biased_module, "CPU_ELEMENTS", 2 * side**3)  # one row at a time
        module = make(input_size=(side, side), use_rel_pos=True).float()
        module.method = method
        largest = 0

        def pack(value):
            nonlocal largest
            largest = max(largest, value.numel())
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            out = module(torch.ones(1, side, side, 6))
        kept[side] = largest
        out.sum().backward()
    # The widest: 2 heads, query or key with its terms, 72 columns. An N x N map has 1024.
    assert kept[32] <= 32**2 * 2 * 72
    assert kept[32] < 9 * kept[16]


@pytest.mark.parametrize("method", METHODS)
def test_autocast_keeps_small_gradients(method):
    """Sums over many queries: in bfloat16 they would stop to grow."""
    module = make(input_size=(12, 12)).float()
    x = tensor("x", (1, 12, 12, 6)).float()
    module.method = "explicit"
    module(x).square().sum().backward()
    expected = module.relative_position_bias_table.grad.clone()
    module.zero_grad()
    module.method = method
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    out.float().square().sum().backward()
    error = (module.relative_position_bias_table.grad - expected).abs().max()
    # Eight bits through three products.
    assert error < 0.03 * expected.abs().max()


def test_compiled_block_in_one_graph():
    block = fill_(Block(6, 2, rel_pos_bias="per_block", window_size=3, use_rel_pos=True))
    wide = fill_(Block(6, 2, rel_pos_bias="shared", input_size=(3, 3)))
    strips = table_to_strips(tensor("table", (25, 2)).float(), (3, 3), (4, 5))
    x = tensor("x", (1, 4, 5, 6)).float()
    for module, given in ((block, (x,)), (wide, (x, strips))):
        compiled = torch.compile(module, fullgraph=True, dynamic=False, backend="aot_eager")
        torch.testing.assert_close(compiled(*given), module(*given))


def test_terms_alone_take_the_old_way():
    """Biases of zeros are the formula without them."""
    q, k, v = (tensor(name, (1, 2, 6, 4)) for name in "qkv")
    terms = (tensor("h", (1, 2, 6, 2)), tensor("w", (1, 2, 6, 3)))
    zeros = torch.zeros(2, 3, 3, 3, dtype=torch.float64)
    for method in METHODS:
        expected = attend(q, k, v, terms, 0.5, method)
        torch.testing.assert_close(attend(q, k, v, terms, 0.5, method, zeros), expected)


@pytest.mark.parametrize("tokens_kept", [1, 64])
@pytest.mark.parametrize("elements", [1, 200, 1 << 27])
def test_pieces_of_accelerators_match_those_of_the_cpu(elements, tokens_kept, monkeypatch):
    """Recomputed and kept; in pieces of one row, of two, and of all."""
    monkeypatch.setattr(biased_module, "ELEMENTS", elements)
    monkeypatch.setattr(biased_module, "TOKENS_KEPT", tokens_kept)
    inputs = [tensor(name, (2, 2, 12, 4)).requires_grad_() for name in "qkv"]
    inputs.append(tensor("strips", (2, 4, 5, 4)).requires_grad_())
    cotangent = tensor("cotangent", (2, 2, 12, 4))
    results = []
    for way in (biased_module.attend_biased, biased_module.attend_in_pieces):
        out = way(*inputs, 0.3)
        results.append([out, *torch.autograd.grad((out * cotangent).sum(), inputs)])
        with torch.no_grad():
            torch.testing.assert_close(way(*inputs, 0.3), out)
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_gradients_of_biases():
    inputs = [tensor(name, (2, 2, 6, 4)).requires_grad_() for name in "qkv"]
    strips = tensor("strips", (2, 3, 3, 3)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *given: biased_module.attend_biased(*given, 0.5), (*inputs, strips)
    )
    assert torch.autograd.gradcheck(lambda s: biases_of_rows(s, 0, 2), (strips,))


def test_missing_grid_raises():
    with pytest.raises(ValueError, match="input_size: expected the token grid"):
        Attention(6, num_heads=2, rel_pos_bias="per_block")

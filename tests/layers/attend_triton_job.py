# SPDX-License-Identifier: Apache-2.0
"""Run the kernels of `attend_triton` in Triton's interpreter, which a process chooses at its start.

Prints one JSON object per case: the largest differences of result and gradients from the formula
in float64, each relative to the largest value. bfloat16 is not among the cases: the interpreter
multiplies its bits as integers.
"""

import json

import torch

from tests.closed_form import tensor
from vitdet_d2.layers.attend import attend, attend_explicit
from vitdet_d2.layers.attend_triton import _attend

# batch, heads, H, W, head size, dtype, terms for all heads at once
CASES = [
    (1, 2, 3, 5, 16, torch.float32, False),
    (1, 2, 14, 14, 64, torch.float16, False),  # tiles of four rows
    (2, 1, 3, 20, 24, torch.float32, True),  # tiles of two rows, a row left over
    (1, 1, 2, 70, 80, torch.float32, False),  # several tiles side by side; padded channels
    (1, 1, 3, 64, 64, torch.float32, False),  # tiles of one row
]


def case(B, heads, H, W, C, dtype, shared):
    N = H * W
    qkv = tensor("qkv", (B, N, 3, heads, C), 1.5).to(dtype).requires_grad_()
    of_term = 1 if shared else heads
    terms = [
        tensor(name, (B, of_term, N, size), 2.0).to(dtype).requires_grad_()
        for name, size in (("h", H), ("w", W))
    ]
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    cotangent = tensor("cotangent", (B, heads, N, C)).to(dtype)
    found = []
    for way, digits in ((attend_explicit, torch.float64), (None, dtype)):
        arguments = (*(t.to(digits) for t in (q, k, v)), tuple(t.to(digits) for t in terms), 0.3)
        out = way(*arguments) if way else attend(*arguments, "triton")
        found.append([out, *torch.autograd.grad((out * cotangent).sum(), [qkv, *terms])])
    return [
        float((ours.double() - theirs.double()).abs().max() / theirs.abs().max())
        for theirs, ours in zip(*found, strict=True)
    ]


def masked_keys():
    """Terms of minus infinity take keys out; a whole first tile may be gone."""
    N = 64
    q, k, v = (tensor(name, (1, 1, N, 16)).float() for name in "qkv")
    rel_h, rel_w = torch.zeros(1, 1, N, 4), torch.zeros(1, 1, N, 16)
    rel_h[..., :3] = -torch.inf
    out = attend(q, k, v, (rel_h, rel_w), 0.5, "triton")
    expected = (q @ k[:, :, 48:].transpose(-2, -1) * 0.5).softmax(-1) @ v[:, :, 48:]
    return float((out - expected).abs().max())


def registered():
    """PyTorch's own checks of a custom operator: schema, fake results, gradients, export."""
    q, k, v = (tensor(name, (1, 2, 6, 16)).float().requires_grad_() for name in "qkv")
    terms = [tensor(n, (1, 2, 6, s)).float().requires_grad_() for n, s in (("h", 2), ("w", 3))]
    return sorted(set(torch.library.opcheck(_attend, (q, k, v, *terms, 0.3)).values()))


if __name__ == "__main__":
    torch.manual_seed(0)
    for arguments in CASES:
        print(json.dumps({"case": str(arguments), "differences": case(*arguments)}))
    print(json.dumps({"masked": masked_keys()}))
    print(json.dumps({"registered": registered()}))

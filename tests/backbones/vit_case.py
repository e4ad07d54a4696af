# SPDX-License-Identifier: Apache-2.0
"""Tiny ViTs with weights from a formula, small enough to compare every number."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.closed_form import fill_, image, tensor

TINY = {
    "img_size": 96,
    "embed_dim": 24,
    "depth": 3,
    "num_heads": 3,
    "window_size": 3,
    "window_block_indexes": (0, 1),
    "use_rel_pos": True,
    "pretrain_img_size": 64,
}

# Name -> (arguments, image height and width). Windows of 3 tokens need padding everywhere, the
# tables of the global block are resized except at 96 px.
CASES = {
    "base": ({}, (64, 96)),
    "square": ({}, (96, 96)),
    "ragged_image": ({}, (100, 72)),
    "no_class_token": ({"pretrain_use_cls_token": False}, (64, 96)),
    "same_grid": ({"pretrain_img_size": 96}, (96, 96)),
    "no_bias": ({"qkv_bias": False}, (64, 96)),
    "residual": ({"residual_block_indexes": (1,)}, (64, 96)),
    "no_positions": ({"use_abs_pos": False, "use_rel_pos": False}, (64, 96)),
}

PYRAMID = {"out_channels": 16, "scale_factors": (4.0, 2.0, 1.0, 0.5), "square_pad": 96}


def pixels(hw: tuple[int, int], dtype: torch.dtype = torch.float64) -> Tensor:
    """Return two normalised images that differ."""
    pair = torch.stack([image(f"image{i}", *hw) for i in range(2)])
    return ((pair - 127.5) / 60).to(dtype)


def run(module: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Fill the weights, and return outputs and gradients of a fixed function of all outputs."""
    fill_(module.to(x.dtype))
    x = x.clone().requires_grad_()
    outputs = module(x)
    cotangents = {name: tensor(name, tuple(out.shape)).to(x.dtype) for name, out in outputs.items()}
    sum((outputs[name] * cotangents[name]).sum() for name in outputs).backward()
    gradients = {name: p.grad for name, p in module.named_parameters()}
    return {k: v.detach() for k, v in outputs.items()}, {"input": x.grad, **gradients}


def fingerprint(value: Tensor) -> Tensor:
    """Return four numbers that change when any element does: fixed random projections."""
    flat = value.detach().double().flatten()
    return torch.stack([flat @ tensor(f"projection{i}", (flat.numel(),)) for i in range(4)])

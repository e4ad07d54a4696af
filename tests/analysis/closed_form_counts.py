# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds and parameters of a ViTDet, written out layer by layer from the paper.

Shares nothing with the package but the arguments of its models.
"""

from __future__ import annotations


def vit_products(
    width: int, depth: int, heads: int, *, tokens: int, window: int, num_global: int, patch: int
) -> int:
    """Multiply-adds of a plain ViT on a square map of ``tokens`` x ``tokens``."""
    n = tokens * tokens
    padded = (-(-tokens // window) * window) ** 2
    head = width // heads
    products = n * width * 3 * patch**2
    for block in range(depth):
        is_global = block < num_global  # the order does not matter
        side = tokens if is_global else window
        m = n if is_global else padded
        products += m * width * 3 * width + m * width * width  # qkv, proj
        for _ in range(heads):
            products += 2 * m * side**2 * head  # q k^T and the weighted sum
            products += 2 * m * side * head  # relative positions of both axes
        products += 2 * n * width * 4 * width
    return products


def pyramid_products(width: int, *, tokens: int, out: int = 256) -> int:
    """Multiply-adds of the simple feature pyramid of strides 4, 8, 16, 32."""
    n = tokens * tokens
    half, quarter = width // 2, width // 4
    up4 = n * width * half * 4 + 4 * n * half * quarter * 4
    up2 = n * width * half * 4
    convolutions = 0
    for cells, channels in ((16 * n, quarter), (4 * n, half), (n, width), (n // 4, width)):
        convolutions += cells * (channels * out + out * out * 9)
    return up4 + up2 + convolutions


def vit_parameters(
    width: int, depth: int, heads: int, *, tokens: int, window: int, num_global: int, patch: int
) -> int:
    head = width // heads
    numbers = 3 * patch**2 * width + width + (14 * 14 + 1) * width
    for block in range(depth):
        side = tokens if block < num_global else window
        numbers += 4 * width  # two norms
        numbers += 4 * width**2 + 4 * width  # qkv, proj
        numbers += 8 * width**2 + 5 * width  # the perceptron
        numbers += 2 * (2 * side - 1) * head
    return numbers


def pyramid_parameters(width: int, *, out: int = 256) -> int:
    half, quarter = width // 2, width // 4
    deconvolutions = (
        (width * half * 4 + half) + 2 * half + (half * quarter * 4 + quarter)  # up to stride 4
        + (width * half * 4 + half)  # to stride 8
    )  # fmt: skip
    convolutions = sum(c * out + out * out * 9 + 4 * out for c in (quarter, half, width, width))
    return deconvolutions + convolutions


def rpn_products(*, side: int, out: int = 256) -> int:
    """Two hidden convolutions, three anchors, strides 4 to 64."""
    cells = sum((side // stride) ** 2 for stride in (4, 8, 16, 32, 64))
    return cells * (2 * out * out * 9 + out * 3 * 5)


def box_products(boxes: int, *, classes: int = 80, out: int = 256) -> int:
    return boxes * (4 * 49 * out * out * 9 + 49 * out * 1024 + 1024 * (classes + 1 + 4 * classes))


def mask_products(masks: int, *, classes: int = 80, out: int = 256) -> int:
    return masks * (4 * 196 * out * out * 9 + 196 * out * out * 4 + 784 * out * classes)

# SPDX-License-Identifier: Apache-2.0
"""What is counted of a model's computation, in units of single multiply-adds and numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Work:
    """Work of some layers on one input.

    Attributes:
        flops: two for every multiply-add of convolutions and matrix products, attention included.
        activations: numbers that convolutions and matrix products put out, the map of attention
            weights before the softmax among them.
        padding_flops: how many of ``flops`` go into the padding tokens of attention windows in the
            projections before and after attention, which `vitdet_d2`'s own attention leaves out.
    """

    flops: int = 0
    activations: int = 0
    padding_flops: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            flops=self.flops + other.flops,
            activations=self.activations + other.activations,
            padding_flops=self.padding_flops + other.padding_flops,
        )


def attention_product(
    batch: int, num_heads: int, num_queries: int, num_keys: int, key_dim: int, value_dim: int
) -> Work:
    """Return the work of ``softmax(q k^T) v``, however it is computed.

    Args:
        batch: samples, or windows.
        num_heads: of the queries.
        num_queries: per head.
        num_keys: per head.
        key_dim: channels of a query and of a key.
        value_dim: channels of a value.
    """
    pairs = batch * num_heads * num_queries * num_keys
    return Work(
        flops=2 * pairs * (key_dim + value_dim),
        activations=pairs + batch * num_heads * num_queries * value_dim,
    )

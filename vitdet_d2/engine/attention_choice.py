# SPDX-License-Identifier: Apache-2.0
"""Choose, once per model and device, how attention with relative positions is computed on CUDA.

Which kernel is fastest depends on the device, the shape and the versions of PyTorch and Triton: so
it is tried. Every way runs on random numbers of each shape that the model has; one that fails, or
whose numbers are others, is left out, with the reason in the log.
"""

from __future__ import annotations

import functools
import logging
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitdet_d2.layers.attend import AttentionMethod, FusedMethod, attend
from vitdet_d2.layers.attention import Attention

logger = logging.getLogger(__name__)

# The first is what the others are compared with, and what is taken if all fail.
WAYS: tuple[FusedMethod, ...] = ("augmented", "triton")
# Of the largest value: bfloat16 keeps 8 bits, and results are sums of rounded products.
TOLERANCES = {torch.bfloat16: 3e-2, torch.float16: 4e-3, torch.float32: 1e-4}
# Faster by less than this is within the noise: the first way stays.
MARGIN = 0.05
WARM_UP, REPEATS = 3, 10
IMAGE_TOKENS = 4096  # of 1024 pixels: as many windows are tried as such an image has

Timer = Callable[[Callable[[], object]], float]


@dataclass(frozen=True)
class Case:
    """What the choice depends on.

    Attributes:
        grid: tokens ``(H, W)`` that attend to each other.
        heads: number of heads.
        head_dim: channels of a head.
        dtype: of queries, keys and values.
        needs_grad: whether a backward pass follows.
        device: of the model.
    """

    grid: tuple[int, int]
    heads: int
    head_dim: int
    dtype: torch.dtype
    needs_grad: bool
    device: torch.device


def choose_attention(
    model: nn.Module, dtype: torch.dtype | None, *, training: bool
) -> dict[Case, FusedMethod]:
    """Set the way of every attention layer that leaves it open.

    Nothing happens on other devices than CUDA, where `vitdet_d2.layers.attend.choose_method`
    decides by rules.

    Args:
        model: on its device.
        dtype: what it computes in; None: as its weights are.
        training: whether backward passes follow.

    Returns:
        What was chosen.
    """
    chosen: dict[Case, FusedMethod] = {}
    for layer in _open_layers(model):
        weight = layer.qkv.weight
        if weight.device.type != "cuda":
            continue
        assert layer.input_size is not None, "relative positions have a grid"
        case = Case(
            layer.input_size, layer.num_heads, layer.head_dim, dtype or weight.dtype, training,
            weight.device,
        )  # fmt: skip
        chosen[case] = layer.fastest_on_cuda = fastest(case)
    return chosen


def _open_layers(model: nn.Module) -> Iterable[Attention]:
    """Yield the layers whose terms are relative positions alone."""
    for module in model.modules():
        if isinstance(module, Attention) and module.use_rel_pos and module.rel_pos_bias is None:
            if module.method == "auto":
                yield module


@functools.cache
def fastest(case: Case) -> FusedMethod:
    """Try every way, and return the fastest that is right."""
    return choose(case, _cuda_seconds)


def choose(case: Case, timer: Timer) -> FusedMethod:
    """Try every way of a case.

    Args:
        case: what to try.
        timer: seconds of one call of a function.
    """
    inputs = _inputs(case)
    expected: list[Tensor] | None = None
    found: dict[FusedMethod, float] = {}
    for way in WAYS:
        run = functools.partial(_run, case, way, inputs)
        # Whatever a compiler or a device does not like about a way must not stop a training.
        try:
            results = run()
            if expected is None:
                expected = results
            _require_same(results, expected, TOLERANCES.get(case.dtype, 1e-4))
            found[way] = timer(run)
        except Exception as error:
            logger.warning("Attention by %s is left out for %s: %s", way, _described(case), error)
    best = _best(found)
    times = ", ".join(f"{way} {1e3 * seconds:.2f} ms" for way, seconds in found.items())
    logger.info("Attention of %s: %s (%s)", _described(case), best, times or "nothing ran")
    return best


def _best(seconds: dict[FusedMethod, float]) -> FusedMethod:
    """Return the fastest way, or the first where that is hardly slower."""
    best = min(seconds, key=seconds.__getitem__, default=WAYS[0])
    first = seconds.get(WAYS[0])
    return best if first is None or seconds[best] < (1 - MARGIN) * first else WAYS[0]


def _inputs(case: Case) -> list[Tensor]:
    """Return random queries, keys, values and terms of about one image."""
    H, W = case.grid
    batch = max(1, IMAGE_TOKENS // (H * W))
    # Of their own: a run must not depend on whether a choice was made.
    generator = torch.Generator(case.device).manual_seed(0)
    return [
        torch.randn(
            batch, case.heads, H * W, size,
            dtype=case.dtype, device=case.device, generator=generator,
        ).requires_grad_(case.needs_grad)
        for size in (case.head_dim, case.head_dim, case.head_dim, H, W)
    ]  # fmt: skip


def _run(case: Case, way: AttentionMethod, inputs: list[Tensor]) -> list[Tensor]:
    """Return the result, and the gradients where they are needed."""
    q, k, v, rel_h, rel_w = inputs
    with torch.set_grad_enabled(case.needs_grad):
        out = attend(q, k, v, (rel_h, rel_w), case.head_dim**-0.5, way)
    if not case.needs_grad:
        return [out]
    return [out.detach(), *torch.autograd.grad(out, inputs, torch.ones_like(out))]


def _require_same(results: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Raise if two ways differ by more than rounding.

    Raises:
        ValueError: they do.
    """
    for ours, theirs in zip(results, expected, strict=True):
        difference = (ours - theirs).abs().max().item()
        limit = tolerance * theirs.abs().max().item()
        if not difference <= limit:
            raise ValueError(f"its numbers differ by {difference:.2g}, {limit:.2g} are allowed")


def _described(case: Case) -> str:
    kind = "forward and backward" if case.needs_grad else "forward"
    H, W = case.grid
    return f"{H}x{W} tokens, {case.heads} heads of {case.head_dim}, {case.dtype}, {kind}"


def _cuda_seconds(run: Callable[[], object]) -> float:
    """Return the median time of a call on the device, after warm-up."""
    for _ in range(WARM_UP):
        run()
    seconds = []
    for _ in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return statistics.median(seconds)

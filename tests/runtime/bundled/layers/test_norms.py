# SPDX-License-Identifier: Apache-2.0
"""Normalisation layers: values by hand, gradients, freezing, files of old versions."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from detectron2.layers import FrozenBatchNorm2d, NaiveSyncBatchNorm, get_norm
from torch import nn


def fill(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.linspace(0.5, 1.5, tensor.numel()).view(tensor.shape))
    return module


def test_channel_layer_norm_by_hand() -> None:
    norm = get_norm("LN", 3)
    assert norm is not None
    assert sorted(norm.state_dict()) == ["bias", "weight"]
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1, 2]))
        norm.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    output = norm(torch.tensor([1.0, 4, -2]).reshape(1, 3, 1, 1)).flatten()
    # Measured on detectron2 02b5c4e; eps is 1e-6, not torch's 1e-5.
    torch.testing.assert_close(output, torch.tensor([0.1, 1.4247448444, -2.1494896412]))


def test_channel_layer_norm_matches_the_definition_with_gradients() -> None:
    norm = fill(get_norm("LN", 16)).double()
    x = torch.rand(2, 16, 5, 3, dtype=torch.float64, requires_grad=True)
    centred = x - x.mean(1, keepdim=True)
    scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    expected = scaled * norm.weight[:, None, None] + norm.bias[:, None, None]
    weight = torch.rand_like(expected)
    torch.testing.assert_close(norm(x), expected)
    inputs = (x, norm.weight, norm.bias)
    for ours, theirs in zip(
        torch.autograd.grad((norm(x) * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_channel_layer_norm_is_not_torchs() -> None:
    # Weight decay and weight initialisation recognise torch's class, and must not this one.
    assert not isinstance(get_norm("LN", 8), nn.LayerNorm)
    assert get_norm("LN", 8)(torch.zeros(0, 8, 4, 4)).shape == (0, 8, 4, 4)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("BN", nn.BatchNorm2d), ("SyncBN", nn.SyncBatchNorm), ("nnSyncBN", nn.SyncBatchNorm),
     ("GN", nn.GroupNorm), ("FrozenBN", FrozenBatchNorm2d), ("naiveSyncBN", NaiveSyncBatchNorm),
     ("naiveSyncBN_N", NaiveSyncBatchNorm)],
)  # fmt: skip
def test_norms_by_name(name: str, kind: type[nn.Module]) -> None:
    assert type(get_norm(name, 64)) is kind


def test_no_norm_and_own_norms() -> None:
    assert get_norm("", 4) is None
    assert get_norm(None, 4) is None
    assert get_norm("GN", 64).num_groups == 32
    made = get_norm(lambda channels: nn.GroupNorm(2, channels), 6)
    assert made.num_channels == 6


def test_unknown_norm_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"expected one of LN, GN, BN.*got 'Ln'"):
        get_norm("Ln", 4)


def test_frozen_batch_norm_equals_evaluation() -> None:
    trained = fill(nn.BatchNorm2d(4, eps=1e-3)).eval()
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(trained)
    assert isinstance(frozen, FrozenBatchNorm2d)
    assert not list(frozen.parameters())
    x = torch.rand(2, 4, 3, 3)
    torch.testing.assert_close(frozen(x), trained(x))
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(frozen(leaf), trained(x))
    (gradient,) = torch.autograd.grad(frozen(leaf).sum(), leaf)
    (expected,) = torch.autograd.grad(trained(leaf).sum(), leaf)
    torch.testing.assert_close(gradient, expected)
    assert frozen(leaf.half()).dtype == torch.float16
    back = FrozenBatchNorm2d.convert_frozenbatchnorm2d_to_batchnorm2d(nn.Sequential(frozen))
    torch.testing.assert_close(back.eval()(x), trained(x))


def test_a_fresh_frozen_batch_norm_is_the_identity() -> None:
    x = torch.rand(1, 3, 2, 2)
    torch.testing.assert_close(FrozenBatchNorm2d(3)(x), x)


def test_freezing_replaces_nested_layers_in_place() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.SyncBatchNorm(4)))
    assert FrozenBatchNorm2d.convert_frozen_batchnorm(model) is model
    assert [type(layer) for layer in model[1]] == [FrozenBatchNorm2d] * 2


def test_frozen_batch_norm_reads_old_files() -> None:
    frozen = FrozenBatchNorm2d(2)
    frozen.load_state_dict({"weight": torch.tensor([2.0, 3]), "bias": torch.zeros(2)})
    assert frozen.weight.tolist() == [2, 3]
    assert frozen.running_mean.tolist() == [0, 0]
    assert frozen.running_var.tolist() == [1, 1]
    current = FrozenBatchNorm2d(2).state_dict()
    del current["running_mean"]
    with pytest.raises(RuntimeError, match="running_mean"):
        frozen.load_state_dict(current)


def _half_of_the_batch(rank: int, store: str, mode: str, images: list[int]) -> None:
    """Normalise some images in a process of its own; keep the result and the gradients."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    norm = NaiveSyncBatchNorm(2, stats_mode=mode)
    x = _BATCH[images].requires_grad_()
    y = norm(x)
    (y * _WEIGHTS[images]).sum().backward()
    parts = (y.detach(), x.grad, norm.weight.grad, norm.running_mean, norm.running_var)
    torch.save(parts, f"{store}.{rank}")
    dist.destroy_process_group()


_BATCH = torch.sin(torch.arange(4 * 2 * 3 * 3.0) * 1.7).reshape(4, 2, 3, 3) + 0.5
_WEIGHTS = torch.cos(torch.arange(4 * 2 * 3 * 3.0) * 0.9).reshape(4, 2, 3, 3)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("mode", "split"),
    [("", ([0, 1], [2, 3])), ("N", ([0], [1, 2, 3])), ("N", ([], [0, 1, 2, 3]))],
)
def test_naive_sync_batch_norm_of_two_processes_is_that_of_the_whole_batch(
    mode: str, split: tuple[list[int], list[int]], tmp_path: Path
) -> None:
    context = multiprocessing.get_context("fork")
    store = str(tmp_path / "store")
    processes = [
        context.Process(target=_half_of_the_batch, args=(rank, store, mode, images))
        for rank, images in enumerate(split)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    first, second = (torch.load(f"{store}.{rank}") for rank in (0, 1))

    whole, x = nn.BatchNorm2d(2), _BATCH.clone().requires_grad_()
    y = whole(x)
    (y * _WEIGHTS).sum().backward()
    torch.testing.assert_close(torch.cat([first[0], second[0]]), y.detach())
    torch.testing.assert_close(torch.cat([first[1], second[1]]), x.grad)
    torch.testing.assert_close(first[2] + second[2], whole.weight.grad)
    for mean, variance in (first[3:], second[3:]):
        torch.testing.assert_close(mean, whole.running_mean)
        # torch keeps the unbiased variance, of n / (n - 1) times the size.
        biased = _BATCH.var(dim=(0, 2, 3), correction=0)
        torch.testing.assert_close(variance, 0.9 + 0.1 * biased)


def test_naive_sync_batch_norm_is_batch_norm_in_one_process() -> None:
    ours, torchs = NaiveSyncBatchNorm(4), nn.BatchNorm2d(4)
    x = torch.rand(3, 4, 5, 5)
    torch.testing.assert_close(ours(x), torchs(x))
    torch.testing.assert_close(ours.running_var, torchs.running_var)
    with pytest.raises(ValueError, match="stats_mode: expected '' or 'N', got 'M'"):
        NaiveSyncBatchNorm(4, stats_mode="M")

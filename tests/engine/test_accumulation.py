# SPDX-License-Identifier: Apache-2.0
"""Several batches per step, and clipped gradients, against gradients taken one by one."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitdet_d2.engine.trainer import NonFiniteError, Trainer

NUM_BATCHES = 4


class Model(nn.Module):
    """Two losses that are means over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        y = self.layer(torch.stack([sample["image"] for sample in batch]))
        return {"loss_a": y[:, 0].square().mean(), "loss_b": y[:, 1:].abs().mean()}


def samples(count: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(count, 4, generator=generator)
    return [{"image": image, "file_name": f"{i}.png"} for i, image in enumerate(images)]


def batches(poison: int | None = None) -> Iterator[list[dict[str, Any]]]:
    """Batches of two, without end."""
    drawn = samples(2 * NUM_BATCHES)
    if poison is not None:
        drawn[poison]["image"] = torch.full((4,), float("nan"))
    for i in itertools.count():
        yield [drawn[(2 * i) % len(drawn)], drawn[(2 * i + 1) % len(drawn)]]


def new_model() -> Model:
    torch.manual_seed(0)
    return Model()


def one_step(data: Any, *, lr: float = 0.0, **options: Any) -> tuple[Trainer, Model]:
    model = new_model()
    trainer = Trainer(model, data, torch.optim.SGD(model.parameters(), lr=lr), **options)
    trainer.train(0, 1)
    return trainer, model


def gradient(model: nn.Module, batch: list[dict[str, Any]]) -> list[Tensor]:
    losses = model(batch)
    return list(torch.autograd.grad(sum(losses.values()), list(model.parameters())))


def test_gradient_is_the_mean_of_the_batches() -> None:
    _, model = one_step(batches(), accumulate=NUM_BATCHES)
    reference = new_model()
    singles = [gradient(reference, batch) for batch in itertools.islice(batches(), NUM_BATCHES)]
    for parameter, *parts in zip(model.parameters(), *singles, strict=True):
        mean = sum(parts) / NUM_BATCHES
        assert parameter.grad is not None
        assert (parameter.grad - mean).abs().max() <= 1e-5 * mean.abs().max()
        assert (parts[0] - mean).abs().max() > 1e-2 * mean.abs().max()  # or it would prove nothing


def test_gradient_and_losses_are_those_of_one_large_batch() -> None:
    small, model = one_step(batches(), accumulate=NUM_BATCHES)
    large, reference = one_step([samples(2 * NUM_BATCHES)])
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7)
    for name in ("total_loss", "loss_a", "loss_b", "grad_norm"):
        mine = small.storage.history(name).latest()
        assert mine == pytest.approx(large.storage.history(name).latest(), rel=1e-5)


def test_an_iteration_is_one_step_of_the_optimizer() -> None:
    taken = []

    def counted() -> Iterator[list[dict[str, Any]]]:
        for batch in batches():
            taken.append(batch)
            yield batch

    model = new_model()
    optimizer = torch.optim.AdamW(model.parameters())
    trainer = Trainer(model, counted(), optimizer, accumulate=3)
    trainer.train(0, 5)
    assert len(taken) == 15
    assert {int(state["step"]) for state in optimizer.state.values()} == {5}
    assert [i for _, i in trainer.storage.history("total_loss").values()] == [0, 1, 2, 3, 4]


def test_non_finite_loss_of_one_batch_names_its_images_alone() -> None:
    model = new_model()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(NonFiniteError, match=r"at iteration 0 .* images 4\.png, 5\.png\. Stopped"):
        Trainer(model, batches(poison=5), optimizer, accumulate=NUM_BATCHES).train(0, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("max_grad_norm", [None, 0.25])
def test_scaler_changes_no_step(max_grad_norm: float | None) -> None:
    options = {"accumulate": NUM_BATCHES, "max_grad_norm": max_grad_norm, "lr": 0.5}
    _, plain = one_step(batches(), **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    trainer, scaled = one_step(batches(), grad_scaler=scaler, **options)
    for ours, theirs in zip(scaled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    assert ("grad_norm" in trainer.storage.histories()) == (max_grad_norm is not None)


def test_clipping_shortens_the_mean_gradient_and_logs_the_norm_before() -> None:
    free, plain = one_step(batches(), accumulate=2)
    norm = torch.cat([p.grad.flatten() for p in plain.parameters()]).norm().item()
    assert free.storage.history("grad_norm").latest() == pytest.approx(norm, rel=1e-6)
    limit = norm / 3
    clipped, model = one_step(batches(), accumulate=2, max_grad_norm=limit)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad / 3, rtol=1e-4, atol=1e-7)
    assert clipped.storage.history("grad_norm").latest() == pytest.approx(norm, rel=1e-6)


def test_clipping_leaves_a_short_gradient_as_it_is() -> None:
    _, plain = one_step(batches())
    _, model = one_step(batches(), max_grad_norm=1e3)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_overflow_is_skipped_when_clipping() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    bright = [{**sample, "image": 100 * sample["image"]} for sample in samples(2)]
    trainer, model = one_step([bright], lr=1.0, grad_scaler=scaler, max_grad_norm=1.0)
    assert scaler.get_scale() == 2.0**126
    before = new_model().state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert "grad_norm" not in trainer.storage.histories()


def test_a_norm_beyond_float32_never_reverses_a_step() -> None:
    """Every gradient is finite, so that the scaler takes the step; their norm is not."""
    bright = [{**sample, "image": 1e12 * sample["image"]} for sample in samples(2)]
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    trainer, model = one_step([bright], lr=1.0, grad_scaler=scaler, max_grad_norm=1.0)
    gradients = gradient(new_model(), bright)
    assert all(part.isfinite().all() for part in gradients)
    assert not torch.nn.utils.get_total_norm(gradients).isfinite()
    before = new_model().state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert "grad_norm" not in trainer.storage.histories()

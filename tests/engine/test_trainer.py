# SPDX-License-Identifier: Apache-2.0
"""One step: equal to Detectron2's, and stopped before it counts when something is not finite."""

from __future__ import annotations

import copy
import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.utils.events import EventStorage
from torch import nn

from vitdet_d2.engine.trainer import NonFiniteError, Trainer


class Model(nn.Module):
    """Three losses, whose sum in single precision depends on the order."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.seen_dtype: torch.dtype | None = None

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        x = torch.stack([sample["image"] for sample in batch])
        y = self.layer(nn.functional.dropout(x, 0.5, self.training))
        self.seen_dtype = y.dtype
        return {f"loss_{i}": y[:, i].float().square().mean() * 10.0 ** (3 * i) for i in range(3)}


def batches(poison: float | None = None, at: int = -1) -> Any:
    generator = torch.Generator().manual_seed(0)
    for i in itertools.count():
        images = torch.randn(2, 4, generator=generator)
        if i == at:
            images[1, 1] = poison
        yield [{"image": x, "file_name": f"{i}_{j}.png"} for j, x in enumerate(images)]


def parts() -> tuple[Model, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Model()
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def test_steps_and_metrics_equal_detectron2() -> None:
    histories, weights = [], []
    for kind in (SimpleTrainer, Trainer):
        model, optimizer = parts()
        torch.manual_seed(1)
        trainer = kind(model, batches(), optimizer)
        trainer.train(0, 5)
        histories.append({k: h.values() for k, h in trainer.storage.histories().items()})
        weights.append(model.state_dict())
    ours, theirs = histories[1], histories[0]
    assert set(ours) == {*theirs, "grad_norm"}
    for name in ("total_loss", "loss_0", "loss_1", "loss_2"):
        assert ours[name] == theirs[name]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name])


class Scaled(Model):
    """Finite losses whose gradient is not: the derivative of a root at zero."""

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        losses = super().forward(batch)
        if batch[0]["file_name"] == "3_0.png":
            losses["loss_0"] = losses["loss_0"] + (self.layer.weight * 0).abs().sum().sqrt()
        return losses


@pytest.mark.parametrize(
    ("kind", "poison"), [(Model, float("nan")), (Model, float("inf")), (Scaled, None)]
)
def test_non_finite_stops_before_the_step(kind: type[Model], poison: float | None) -> None:
    torch.manual_seed(0)
    model = kind()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.25)
    saved: list[Any] = []

    class Keep(HookBase):
        def after_step(self) -> None:
            saved.append(copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"])))

    trainer = Trainer(model, batches(poison, 3 if poison is not None else -1), optimizer)
    trainer.last_checkpoint = "run/model_0000001.pth"
    trainer.register_hooks([Keep()])
    with pytest.raises(NonFiniteError, match="not finite at iteration 3 on rank 0 of 1") as info:
        trainer.train(0, 10)
    message = str(info.value)
    for part in ("loss_0=", "loss_2=", "learning rate 0.25", "3_0.png, 3_1.png", "cause"):
        assert part in message
    assert "last good checkpoint: run/model_0000001.pth" in message
    assert "\n" not in message
    assert len(saved) == 3
    weights, moments = saved[-1]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name])
    for index, moment in optimizer.state_dict()["state"].items():
        assert all(torch.equal(moment[k], v) for k, v in moments[index].items())


def test_a_model_that_finds_nan_itself_stops_with_the_same_kind_of_error() -> None:
    model, optimizer = parts()
    before = copy.deepcopy(model.state_dict())

    def refuse(_: object) -> None:
        raise FloatingPointError("boxes with NaN")

    model.forward = refuse
    trainer = Trainer(model, batches(), optimizer)
    trainer.last_checkpoint = "model_0000003.pth"
    with pytest.raises(NonFiniteError, match=r"NaN; at iteration 4 on rank 0, images .*0000003"):
        trainer.train(4, 6)
    assert all(torch.equal(t, before[k]) for k, t in model.state_dict().items())


def test_autocast_reaches_the_forward_pass_only() -> None:
    model, optimizer = parts()
    Trainer(model, batches(), optimizer, autocast_dtype=torch.bfloat16).train(0, 1)
    assert model.seen_dtype == torch.bfloat16
    assert model.layer.weight.dtype == torch.float32
    Trainer(model, batches(), optimizer).train(0, 1)
    assert model.seen_dtype == torch.float32


def test_scaler_skips_an_overflow_instead_of_stopping() -> None:
    model, optimizer = parts()
    before = copy.deepcopy(model.state_dict())
    # A scale at which every gradient overflows; the first steps only halve it.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    trainer = Trainer(model, batches(), optimizer, grad_scaler=scaler)
    trainer.train(0, 1)
    assert scaler.get_scale() == 2.0**126
    assert all(torch.equal(t, before[k]) for k, t in model.state_dict().items())


def test_one_loss_without_a_name() -> None:
    model, optimizer = parts()
    model.forward = lambda batch: model.layer(batch[0]["image"]).sum()
    trainer = Trainer(model, batches(), optimizer)
    trainer.train(0, 2)
    assert len(trainer.storage.history("total_loss").values()) == 2


class Careless(HookBase):
    """Draws from every generator."""

    def after_step(self) -> None:
        torch.rand(1), np.random.rand(), random.random()


def test_hooks_do_not_disturb_the_random_state() -> None:
    states = []
    for hooks in ([], [Careless()]):
        model, optimizer = parts()
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        trainer = Trainer(model, batches(), optimizer)
        trainer.register_hooks(hooks)
        trainer.train(0, 3)
        states.append((model.layer.weight.detach().clone(), random.random(), np.random.rand()))
    assert torch.equal(states[0][0], states[1][0])
    assert states[0][1:] == states[1][1:]


def test_every_hook_is_closed_after_a_failure() -> None:
    closed: list[str] = []

    class Closing(HookBase):
        def __init__(self, name: str) -> None:
            self.name = name

        def after_train(self) -> None:
            closed.append(self.name)
            raise OSError(self.name)

    model, optimizer = parts()
    trainer = Trainer(model, batches(float("nan"), 0), optimizer)
    trainer.register_hooks([Closing("first"), Closing("second")])
    with pytest.raises(OSError, match="second"):
        trainer.train(0, 1)
    assert closed == ["first", "second"]
    assert trainer.iter == 0


def test_storage_is_open_while_training_only() -> None:
    model, optimizer = parts()
    trainer = Trainer(model, batches(), optimizer)
    trainer.train(4, 6)
    assert trainer.iter == 6
    assert isinstance(trainer.storage, EventStorage)
    assert [i for _, i in trainer.storage.history("total_loss").values()] == [4, 5]

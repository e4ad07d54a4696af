# SPDX-License-Identifier: Apache-2.0
"""The average of the weights against a slow reference, and in the model's place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vitdet_d2.engine.ema import WeightAverage


class Model(nn.Module):
    """Trained and frozen parameters, one with two names, and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.b = nn.Linear(4, 4, bias=False)
        self.c = nn.Linear(4, 4, bias=False)
        self.c.weight = self.b.weight
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model()


def train_a_little(model: nn.Module, seed: int) -> None:
    """Change parameters and buffers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        for buffer in model.buffers():
            buffer += 1


def test_average_equals_a_slow_reference(model: Model) -> None:
    decay = 0.9
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    slow = {name: model.state_dict()[name].double() for name in names}
    average = WeightAverage(model, decay)
    for step in range(30):
        train_a_little(model, step)
        average.update()
        for name in names:
            now = model.state_dict()[name].double()
            slow[name] = decay * slow[name] + (1 - decay) * now
    state = average.state_dict()
    for name in names:
        torch.testing.assert_close(state[name].double(), slow[name], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(state[name], model.state_dict()[name], atol=1e-2)


def test_the_rest_is_the_models_own(model: Model) -> None:
    average = WeightAverage(model, 0.5)
    train_a_little(model, 0)
    average.update()
    state, own = average.state_dict(), model.state_dict()
    assert list(state) == list(own)
    same = [name for name in own if torch.equal(state[name], own[name])]
    buffers = ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]
    assert same == [*buffers, "frozen.weight", "frozen.bias"]
    assert torch.equal(state["c.weight"], state["b.weight"])


def test_average_stands_in_for_the_weights_and_leaves(model: Model) -> None:
    average = WeightAverage(model, 0.5)
    train_a_little(model, 0)
    average.update()
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parameters = list(model.parameters())

    def look_and_fail() -> None:
        with average.in_place_of_weights():
            for name, tensor in average.state_dict().items():
                assert torch.equal(model.state_dict()[name], tensor)
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        look_and_fail()
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


def test_average_of_bfloat16_weights_is_kept_in_float32() -> None:
    model = nn.Linear(8, 8).bfloat16()
    average = WeightAverage(model, 0.999)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average.restart()
    with torch.no_grad():
        model.weight.fill_(2.0)
    average.update()
    # In bfloat16 a thousandth would be lost: the next number after 1 is 1.0078.
    weight = average.state_dict()["weight"]
    torch.testing.assert_close(weight, torch.full((8, 8), 1.001), rtol=1e-6, atol=0.0)
    with average.in_place_of_weights():
        assert model.weight.dtype == torch.bfloat16


def test_saved_average_continues_exactly(model: Model) -> None:
    average = WeightAverage(model, 0.9)
    train_a_little(model, 0)
    average.update()
    saved = {name: tensor.clone() for name, tensor in average.state_dict().items()}
    other = Model()
    other.load_state_dict(model.state_dict())
    continued = WeightAverage(other, 0.9)
    continued.load_state_dict(saved)
    for each, of in ((model, average), (other, continued)):
        train_a_little(each, 1)
        of.update()
    for name, tensor in average.state_dict().items():
        assert torch.equal(tensor, continued.state_dict()[name])


@pytest.mark.parametrize("change", ["missing", "misshaped"])
def test_average_of_another_model_is_refused(model: Model, change: str) -> None:
    average = WeightAverage(model, 0.9)
    state: dict[str, Tensor] = dict(average.state_dict())
    if change == "missing":
        del state["a.weight"]
    else:
        state["a.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"1 tensors .* for example a\.weight"):
        average.load_state_dict(state)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_decay_outside_its_range_is_refused(model: Model, decay: float) -> None:
    with pytest.raises(ValueError, match="0 < decay < 1"):
        WeightAverage(model, decay)

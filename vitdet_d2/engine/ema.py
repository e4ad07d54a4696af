# SPDX-License-Identifier: Apache-2.0
"""The exponential moving average of a model's weights.

After each step ``average = decay * average + (1 - decay) * weights``, from the first weights on,
for every parameter that is trained, in float32. Buffers and frozen parameters are not averaged:
where the average stands in for the model, they are the model's own.

Source: Polyak averaging as in the Inception recipe, arXiv 1512.00567, section 8; the update of
`torch.optim.swa_utils.get_ema_multi_avg_fn`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from vitdet_d2.engine.sharded_tensors import local, spread


class WeightAverage:
    """The average of one model's weights, on the model's device; the same on every rank."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start at the model's weights.

        Args:
            model: not wrapped for data parallelism; what is trained in it is settled.
            decay: share of the old average in the new one, ``0 < decay < 1``.

        Raises:
            ValueError: the decay lies outside its range.
        """
        if not 0.0 < decay < 1.0:
            raise ValueError(f"decay: expected 0 < decay < 1, got {decay}")
        self.decay = decay
        self._model = model
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._average = {n: p.detach().float().clone() for n, p in self._parameters.items()}
        first_names = {p: n for n, p in self._parameters.items()}
        # A parameter that two modules share has two names in a state dict.
        self._names = {
            name: first_names[p]
            for name, p in model.named_parameters(remove_duplicate=False)
            if p in first_names
        }

    @torch.no_grad()
    def restart(self) -> None:
        """Start again at the model's present weights."""
        for name, parameter in self._parameters.items():
            self._average[name].copy_(parameter)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's weights after a step; nothing waits for the device."""
        if not self._average:
            return
        weights = [local(p).float() for p in self._parameters.values()]  # no copy in float32
        averages = [local(average) for average in self._average.values()]
        torch._foreach_lerp_(averages, weights, 1.0 - self.decay)

    @contextlib.contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """Inside the block the model has the average; nothing is copied, unless precisions differ.

        Training must not go on inside, nor the average be updated; the weights are not sharded.
        """
        own = {name: p.data for name, p in self._parameters.items()}
        try:
            for name, parameter in self._parameters.items():
                parameter.data = self._average[name].to(parameter.dtype)
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.data = own[name]

    def state_dict(self) -> dict[str, Tensor]:
        """The model's state dict with the average in place of what is averaged; shares memory."""
        averaged = {name: self._average[first] for name, first in self._names.items()}
        return {**self._model.state_dict(), **averaged}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a saved average; the model keeps its weights.

        Args:
            state: from `state_dict`.

        Raises:
            ValueError: a tensor is missing or has another shape.
        """
        wrong = [
            name
            for name, average in self._average.items()
            if name not in state or state[name].shape != average.shape
        ]
        if wrong:
            raise ValueError(
                f"average of the weights: {len(wrong)} tensors are missing or have another shape, "
                f"for example {', '.join(wrong[:3])}"
            )
        for name, average in self._average.items():
            average.copy_(spread(state[name], average))

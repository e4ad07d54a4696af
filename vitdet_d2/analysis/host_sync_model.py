# SPDX-License-Identifier: Apache-2.0
"""A model of CUDA on the CPU: which calls would make Python wait for the device.

Two modes see every call: one the functions of Python, which say where a tensor shall go, the other
the operators below them, those of backward passes too.

Source: the CUDA kernels of PyTorch, whose waits `torch.cuda.set_sync_debug_mode` reports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitdet_d2.analysis.host_sync_sides import Sides

# How often an operator waits, whose output's size or whose value the host must know.
WAITS = {
    "aten::_local_scalar_dense": 1,
    "aten::nonzero": 1,
    "aten::masked_select": 1,
    "aten::equal": 1,
    "aten::bincount": 1,
    "aten::histc": 1,
    "aten::_unique": 1,
    "aten::_unique2": 1,
    "aten::unique_dim": 1,
    "aten::unique_consecutive": 1,
    "aten::multinomial": 2,  # it asks whether the weights are valid, and whether all are 0
    "torchvision::nms": 1,
}
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_COPIES = {"aten::copy_"}
_MASKS = (torch.bool, torch.uint8)

_READS = {Tensor.tolist, Tensor.numpy, Tensor.__array__}
_MOVES = {Tensor.to, Tensor.cpu, Tensor.cuda}
_FROM_DATA = {torch.tensor, torch.as_tensor, torch.asarray}

Note = Callable[[str, int], None]


class Functions(TorchFunctionMode):
    """Follows tensors between host and device by what Python asks for."""

    def __init__(self, sides: Sides, note: Note) -> None:
        super().__init__()
        self._sides = sides
        self._note = note
        self._host_devices: list[torch.device] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run the function, and account for copies between host and device."""
        kwargs = kwargs or {}
        if func is torch.device:
            return self._device(args, kwargs)
        if func in _MOVES:
            return self._move(func, args, kwargs)
        if func in _READS and not self._sides.on_host(args[0]):
            self._note(func.__name__, 1)
        output = func(*args, **kwargs)
        if isinstance(output, Tensor):
            if func is Tensor.new_tensor:
                self._from_data(func, output, to_host=self._sides.on_host(args[0]))
            elif not any(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs))):
                self._made(func, output, kwargs)
        return output

    def _move(self, func: Any, args: Sequence[Any], kwargs: Any) -> Any:
        tensor = args[0]
        before = self._sides.on_host(tensor)
        after = self._destination(func, args[1:], kwargs, before)
        output = func(*args, **kwargs)
        if before == after:
            return output
        if output.untyped_storage()._cdata == tensor.untyped_storage()._cdata:
            output = output.clone()  # as between devices, where nothing shares memory
        self._sides.put(output, after)
        if not kwargs.get("non_blocking", False):
            self._note("copy to host" if after else "copy to device", 1)
        return output

    def _device(self, args: Sequence[Any], kwargs: Any) -> torch.device:
        """Remember a device that the work itself calls "cpu"."""
        device = torch.device(*args, **kwargs)
        if args == ("cpu",):
            self._host_devices.append(device)
        return device

    def _destination(self, func: Any, rest: Sequence[Any], kwargs: Any, on_host: bool) -> bool:
        """Whether a tensor moves to the host.

        The word "cpu" means the host; any other `torch.device` is taken for the one that the CPU
        stands for, since code that runs anywhere passes the model's.
        """
        if func is not Tensor.to:
            return func is Tensor.cpu
        targets = [*rest[:1], *(kwargs[key] for key in ("device", "other") if key in kwargs)]
        for target in targets:
            if isinstance(target, Tensor):
                return self._sides.on_host(target)
            if isinstance(target, str):
                return target == "cpu"
            if isinstance(target, torch.device):
                return any(target is device for device in self._host_devices)
        return on_host

    def _made(self, func: Any, output: Tensor, kwargs: Any) -> None:
        """Place what was made of no tensor: on the device where one was named."""
        to_host = kwargs.get("device") is None
        if func in _FROM_DATA:
            self._from_data(func, output, to_host=to_host)
        else:
            self._sides.put(output, to_host)

    def _from_data(self, func: Any, output: Tensor, *, to_host: bool) -> None:
        """Place a tensor made of numbers; they are copied to the device, waiting for it."""
        self._sides.put(output, to_host)
        if not to_host:
            self._note(f"{func.__name__}(device)", 1)


class Operators(TorchDispatchMode):
    """Counts operators whose arguments are on the device and that wait for it."""

    def __init__(self, sides: Sides, note: Note) -> None:
        super().__init__()
        self._sides = sides
        self._note = note

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run the operator, and count its waits."""
        kwargs = kwargs or {}
        name = f"{func.namespace}::{func._opname}"
        if name == "aten::lift_fresh":  # numbers of Python become a tensor
            output = func(*args, **kwargs)
            self._sides.to_host(output)
            return output
        self._count(name, args, kwargs)
        output = func(*args, **kwargs)
        if name not in _COPIES:
            self._sides.follow((args, kwargs), output)
        return output

    def _count(self, name: str, args: Sequence[Any], kwargs: Any) -> None:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not tensors or self._sides.on_host(tensors[0]):
            if name in _COPIES and len(tensors) > 1 and not self._sides.on_host(tensors[1]):
                self._copied("copy to host", args, kwargs)
            return
        if name in WAITS:
            self._note(name, WAITS[name])
        elif name == "aten::repeat_interleave" and kwargs.get("output_size") is None:
            self._note(name, 1)
        elif name in _INDEXING:
            self._count_indices(name, args[1])
        elif name in _COPIES and self._sides.on_host(tensors[1]) and tensors[1].dim():
            self._copied("copy to device", args, kwargs)

    def _count_indices(self, name: str, indices: Sequence[Tensor | None]) -> None:
        given = [index for index in indices if index is not None]
        masks = sum(index.dtype in _MASKS for index in given)
        copies = sum(self._sides.on_host(index) for index in given if index.dtype not in _MASKS)
        if masks:
            self._note(f"{name} by a mask", masks)
        if copies:
            self._note(f"{name} by indices of the host", copies)

    def _copied(self, name: str, args: Sequence[Any], kwargs: Any) -> None:
        if not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False)):
            self._note(name, 1)

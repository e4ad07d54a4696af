# SPDX-License-Identifier: Apache-2.0
"""Tensors in pickles, as placeholders until their storages have been read.

torch writes a tensor as a view of a storage, and the storage as a reference to a part of the file.
Several tensors may share one.

Vocabulary:
    storage: a run of bytes; its key is its name in the file.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import torch

from vitdet_d2.checks.placeholders import Name, Placeholder
from vitdet_d2.checks.safe_names import SAFE_NAMES

_MAX_AXES = 64
# An expanded tensor shows its storage many times over; indices of positions are the honest ones.
_MAX_EXPANDED = 1 << 20

_STORAGES = {
    "HalfStorage": torch.float16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "BFloat16Storage": torch.bfloat16,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}


class Storage:
    """A run of bytes in the file, and the memory it is read into."""

    def __init__(self, key: str, size: int) -> None:
        """Describe it; no memory is made yet.

        Args:
            key: its name in the file.
            size: in bytes.
        """
        self.key = key
        self.size = size
        self._bytes: torch.Tensor | None = None

    def make_room(self) -> memoryview:
        """Return new memory of its size, in which its tensors will be."""
        self._bytes = torch.empty(self.size, dtype=torch.uint8)
        return self._bytes.numpy().data

    def untyped(self) -> torch.UntypedStorage:
        """Return the storage for torch."""
        assert self._bytes is not None, "no room was made for a storage"
        return self._bytes.untyped_storage()


class StorageView(Placeholder):
    """A storage as numbers of one type."""

    def __init__(self, storage: Storage, dtype: torch.dtype) -> None:
        """Look at a storage.

        Args:
            storage: the bytes.
            dtype: of the numbers.
        """
        self.storage = storage
        self.dtype = dtype

    def result(self) -> torch.Tensor:
        """Return all of it as a tensor."""
        length = self.storage.size // self.dtype.itemsize
        return torch.empty(0, dtype=self.dtype).set_(self.storage.untyped(), 0, (length,), (1,))


class TensorView(Placeholder):
    """A tensor in a storage."""

    def __init__(self, view: StorageView, offset: Any, size: Any, stride: Any) -> None:
        """Place a tensor.

        Args:
            view: of its storage.
            offset: its first number.
            size: its shape.
            stride: of each axis, in numbers.

        Raises:
            pickle.UnpicklingError: it is not inside the storage.
        """
        if not isinstance(view, StorageView):
            raise pickle.UnpicklingError("a tensor without a storage")
        self._offset, self._size, self._stride = _checked_place(view, offset, size, stride)
        self._view = view

    def result(self) -> torch.Tensor:
        """Return the tensor."""
        storage = self._view.storage.untyped()
        tensor = torch.empty(0, dtype=self._view.dtype)
        return tensor.set_(storage, self._offset, self._size, self._stride)

    def build(self, state: Any) -> None:
        """Ignore attributes, of which weights have no use.

        Args:
            state: the attributes.
        """


def _checked_place(
    view: StorageView, offset: Any, size: Any, stride: Any
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    if not isinstance(size, (tuple, list)) or not isinstance(stride, (tuple, list)):
        raise pickle.UnpicklingError("a tensor without a shape")
    size, stride = tuple(size), tuple(stride)
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > _MAX_AXES:
        raise pickle.UnpicklingError("a tensor of an impossible shape")
    if not all(isinstance(number, int) and 0 <= number < 2**62 for number in numbers):
        raise pickle.UnpicklingError("a tensor of an impossible shape")
    length = view.storage.size // view.dtype.itemsize
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and last >= length:
        raise pickle.UnpicklingError("a tensor that is larger than its storage")
    if count > max(length, _MAX_EXPANDED) or (not count and offset > length):
        raise pickle.UnpicklingError("a tensor that is larger than its storage")
    return offset, size, stride


def _rebuild(
    view: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,  # noqa: ARG001
    hooks: Any = None,  # noqa: ARG001
    metadata: Any = None,
) -> TensorView:
    if metadata:
        raise pickle.UnpicklingError("a tensor that is conjugate or negative by a flag")
    return TensorView(view, offset, size, stride)


def _rebuild_typed(
    view: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,  # noqa: ARG001
    hooks: Any,  # noqa: ARG001
    dtype: Any,
    metadata: Any = None,
) -> TensorView:
    name = dtype.dotted.rpartition(".")[2] if isinstance(dtype, Name) else ""
    kind = getattr(torch, name, None)
    if not isinstance(kind, torch.dtype) or not isinstance(view, StorageView):
        raise pickle.UnpicklingError("a tensor of an unknown type")
    return _rebuild(StorageView(view.storage, kind), offset, size, stride, metadata=metadata)


def _parameter(data: Any, requires_grad: Any = None, hooks: Any = None, state: Any = None) -> Any:  # noqa: ARG001
    return data


def _subclass(function: Any, kind: Any, arguments: Any, state: Any) -> Any:  # noqa: ARG001
    if not isinstance(function, Name) or function.make not in (
        _rebuild,
        _rebuild_typed,
        _parameter,
    ):
        raise pickle.UnpicklingError("a tensor of an unknown class")
    return function.make(*arguments)


def _tagged(value: Any, kind: Any) -> Any:  # noqa: ARG001
    return value


_UTILS: dict[str, Callable[..., Any] | None] = {
    "_rebuild_tensor": _rebuild,
    "_rebuild_tensor_v2": _rebuild,
    "_rebuild_tensor_v3": _rebuild_typed,
    "_rebuild_parameter": _parameter,
    "_rebuild_parameter_with_state": _parameter,
    "_rebuild_device_tensor_from_cpu_tensor": _parameter,
}
_JIT_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")

_MAKERS: dict[str, Callable[..., Any] | None] = {
    **{f"torch._utils.{name}": make for name, make in _UTILS.items()},
    **{f"torch.jit._pickle.{name}": _parameter for name in _JIT_LISTS},
    "torch.jit._pickle.restore_type_tag": _tagged,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.nn.parameter.Parameter": None,
    "torch.nn.parameter.Buffer": None,
    "torch.Tensor": None,
    "torch.storage.UntypedStorage": None,
    **dict.fromkeys(f"torch.{name}" for name in _STORAGES),
}

TENSOR_NAMES = {**SAFE_NAMES, **{dotted: Name(dotted, make) for dotted, make in _MAKERS.items()}}


def storage_type(name: Any) -> torch.dtype:
    """Return the number type of a class of storages.

    Args:
        name: as the pickle asked for it.

    Raises:
        pickle.UnpicklingError: it is no class of storages.
    """
    last = name.dotted.rpartition(".")[2] if isinstance(name, Name) else ""
    if last not in _STORAGES:
        raise pickle.UnpicklingError("a storage of an unknown type")
    return _STORAGES[last]

# SPDX-License-Identifier: Apache-2.0
"""On which side of a bus every tensor would be, while a CPU stands for an accelerator.

Vocabulary:
    host: memory that Python reads directly. Everything else lies on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves


class Sides:
    """Remembers which memory belongs to the host; views go with their memory."""

    def __init__(self) -> None:
        # By address; a weak reference keeps the address from being given away again.
        self._host: dict[int, StorageWeakRef] = {}

    def on_host(self, tensor: Tensor) -> bool:
        """Whether Python would read the tensor without waiting."""
        return tensor.untyped_storage()._cdata in self._host

    def to_host(self, tensor: Tensor) -> None:
        """Declare the tensor's memory the host's."""
        storage = tensor.untyped_storage()
        self._host[storage._cdata] = StorageWeakRef(storage)

    def to_device(self, tensor: Tensor) -> None:
        """Declare the tensor's memory the device's."""
        self._host.pop(tensor.untyped_storage()._cdata, None)

    def put(self, tensor: Tensor, on_host: bool) -> None:
        """Declare whose memory it is."""
        (self.to_host if on_host else self.to_device)(tensor)

    def follow(self, arguments: Any, output: Any) -> None:
        """Put what an operator returned where its arguments are.

        Tensors without dimensions do not count, beside others: an operator takes those from
        either side.
        """
        inputs = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
        sized = [tensor for tensor in inputs if tensor.dim()] or inputs
        if sized and all(map(self.on_host, sized)):
            for leaf in tree_leaves(output):
                if isinstance(leaf, Tensor):
                    self.to_host(leaf)


def tensors_inside(value: Any) -> Iterator[Tensor]:
    """Find the tensors in nested containers and in the attributes of objects.

    Args:
        value: for example a batch of a detection loader.
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_inside(part)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for part in value:
            yield from tensors_inside(part)
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        yield from tensors_inside(vars(value))

# SPDX-License-Identifier: Apache-2.0
"""The instances of one image: any number of fields of equal length.

Source: the behaviour of detectron2 ``structures/instances.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor


class Instances:
    """A table with one row per instance; columns ("fields") are attributes.

    A field is anything with a length and indexing: a tensor, ``Boxes``, masks, a list. Names that
    begin with an underscore are ordinary attributes. Indexing selects rows of every field::

        instances.gt_classes = torch.tensor([3, 7])
        instances[instances.gt_classes == 3]
    """

    _image_size: tuple[int, int]
    _fields: dict[str, Any]

    def __init__(self, image_size: tuple[int, int], **fields: Any) -> None:
        """Make a table.

        Args:
            image_size: ``(height, width)`` of the image, pixels.
            fields: the first columns, all of the same length.
        """
        self._image_size = image_size
        self._fields = {}
        for name, value in fields.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """``(height, width)`` of the image, pixels."""
        return self._image_size

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        # Only called for what is no ordinary attribute; unpickling asks before `_fields` is there.
        fields = self.__dict__.get("_fields", {})
        if name not in fields:
            raise AttributeError(
                f"Instances has no field {name!r}; it has: {', '.join(fields) or 'none'}"
            )
        return fields[name]

    def set(self, name: str, value: Any) -> None:
        """Add or replace a field.

        Args:
            name: its name.
            value: one item per instance.

        Raises:
            ValueError: its length is not that of the other fields.
        """
        if self._fields and len(value) != len(self):
            raise ValueError(
                f"field {name!r}: expected {len(self)} items like the other fields, "
                f"got {len(value)}"
            )
        self._fields[name] = value

    def has(self, name: str) -> bool:
        """Return whether there is a field of this name."""
        return name in self._fields

    def remove(self, name: str) -> None:
        """Delete a field."""
        del self._fields[name]

    def get(self, name: str) -> Any:
        """Return a field; an unknown name is a ``KeyError``."""
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """Return the fields by name; changing the dictionary changes the instances."""
        return self._fields

    def _with_fields(self, fields: dict[str, Any]) -> Instances:
        result = Instances(self._image_size)
        for name, value in fields.items():
            result.set(name, value)
        return result

    def to(self, *args: Any, **kwargs: Any) -> Instances:
        """Return instances whose fields were moved by their own ``to``, where they have one."""
        return self._with_fields(
            {
                name: value.to(*args, **kwargs) if hasattr(value, "to") else value
                for name, value in self._fields.items()
            }
        )

    def __getitem__(self, item: int | slice | Tensor | Sequence[int]) -> Instances:
        """Select rows; an ``int`` gives one instance.

        Raises:
            IndexError: there is no such instance.
        """
        if type(item) is int:
            if not -len(self) <= item < len(self):
                raise IndexError(f"instance {item} of {len(self)}")
            item %= len(self)
            item = slice(item, item + 1)
        return self._with_fields({name: value[item] for name, value in self._fields.items()})

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without a field has no length; set a field first")

    def __iter__(self) -> NoReturn:
        raise NotImplementedError("Instances is not iterable; iterate over a field, or an index")

    @staticmethod
    def cat(instance_lists: Sequence[Instances]) -> Instances:
        """Put the rows of several tables of one image into one.

        Args:
            instance_lists: at least one; all have the fields of the first.

        Returns:
            The joined table; with a single one, that one itself.

        Raises:
            ValueError: there is none, image sizes differ, or a field cannot be joined.
        """
        if not instance_lists:
            raise ValueError("Instances.cat: expected at least one Instances, got none")
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        sizes = {tuple(instances.image_size) for instances in instance_lists}
        if len(sizes) > 1:
            raise ValueError(f"Instances.cat: the image sizes differ: {sorted(sizes)}")
        return first._with_fields(
            {
                name: _join([instances.get(name) for instances in instance_lists], name)
                for name in first.get_fields()
            }
        )

    def __str__(self) -> str:
        height, width = self._image_size
        count = len(self) if self._fields else 0
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        return (
            f"{type(self).__name__}(num_instances={count}, image_height={height}, "
            f"image_width={width}, fields=[{fields}])"
        )

    __repr__ = __str__


def _join(values: list[Any], name: str) -> Any:
    kind = type(values[0])
    if isinstance(values[0], Tensor):
        return torch.cat(values)
    if isinstance(values[0], list):
        return list(itertools.chain.from_iterable(values))
    if hasattr(kind, "cat"):
        return kind.cat(values)
    raise ValueError(f"Instances.cat: field {name!r} of type {kind.__name__} cannot be joined")

# SPDX-License-Identifier: Apache-2.0
"""Names of data sets: how to obtain their records, and what is known about them."""

from __future__ import annotations

import difflib
import types
from collections import UserDict
from collections.abc import Callable
from typing import Any

__all__ = ["DatasetCatalog", "Metadata", "MetadataCatalog"]

Records = Any  # list[dict], or a torch data set


class _Catalog(UserDict):
    """What both catalogues share: a listing, removal by name, a short text."""

    def list(self) -> list[str]:
        """Return the registered names, oldest first."""
        return [*self.keys()]

    def remove(self, name: str) -> None:
        """Forget ``name``.

        Raises:
            KeyError: nothing of that name is registered.
        """
        self.pop(name)

    def __repr__(self) -> str:
        return f"{type(self).__name__.lstrip('_')}({', '.join(self.keys())})"

    __str__ = __repr__


class _DatasetCatalog(_Catalog):
    """Functions that return a data set's records, by name."""

    def register(self, name: str, func: Callable[[], Records]) -> None:
        """Tie ``func`` to ``name``; registering an equal function again changes nothing.

        Args:
            name: for example ``coco_2017_train``.
            func: takes nothing and returns the same records every time.

        Raises:
            TypeError: ``func`` cannot be called.
            ValueError: the name belongs to another function.
        """
        if not callable(func):
            raise TypeError(f"DatasetCatalog.register({name!r}): func is {func!r}, not callable")
        if name in self and self[name] != func:
            raise ValueError(
                f"data set {name!r} is already registered with another source; "
                f"choose another name, or call DatasetCatalog.remove({name!r}) first"
            )
        self[name] = func

    def get(self, name: str) -> Records:  # type: ignore[override]
        """Call the function of ``name`` and return its records.

        Raises:
            KeyError: nothing of that name is registered.
        """
        if name not in self:
            near = difflib.get_close_matches(name, self.keys(), n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"there are: {self.list()}"
            raise KeyError(f"data set {name!r} is not registered; {hint}")
        return self[name]()


class Metadata(types.SimpleNamespace):
    """Facts about one data set (class names, files); each can be set to one value only."""

    # A class attribute, so that an error about a missing attribute can always name the data set.
    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        raise AttributeError(
            f"data set {self.name!r} has no metadata {key!r}; it has {sorted(self.__dict__)}"
        )

    def __setattr__(self, key: str, value: Any) -> None:
        if key in self.__dict__ and self.__dict__[key] != value:
            raise ValueError(
                f"metadata {key!r} of data set {self.name!r} is {self.__dict__[key]!r} and cannot "
                f"become {value!r}; use another name, or MetadataCatalog.remove({self.name!r})"
            )
        super().__setattr__(key, value)

    def as_dict(self) -> dict[str, Any]:
        """Return a copy of everything that is set."""
        return dict(self.__dict__)

    def set(self, **values: Any) -> Metadata:
        """Set several attributes and return this object."""
        for key, value in values.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """Return the attribute ``key``, or ``default`` where it is not set."""
        return getattr(self, key, default)


class _MetadataCatalog(_Catalog):
    """One :class:`Metadata` per data set, by name."""

    def get(self, name: str) -> Metadata:  # type: ignore[override]
        """Return the metadata of ``name``, made empty on first use.

        Raises:
            ValueError: the name is empty.
        """
        if not name:
            raise ValueError("MetadataCatalog.get: the data set's name is empty")
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()

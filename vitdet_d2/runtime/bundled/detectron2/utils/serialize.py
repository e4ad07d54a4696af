# SPDX-License-Identifier: Apache-2.0
"""Closures that travel to another process.

Source: detectron2 ``utils/serialize.py``.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

__all__ = ["PicklableWrapper"]


class PicklableWrapper:
    """Wrap a callable so that it can be pickled, closures included.

    What pickle itself can write is written by pickle; only closures need ``cloudpickle``.
    Attributes and calls go to the wrapped object.
    """

    def __init__(self, obj: Any) -> None:
        """Wrap once, however often it is applied.

        Args:
            obj: the callable, or a wrapper of it.
        """
        self._obj: Any = obj._obj if isinstance(obj, PicklableWrapper) else obj

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        try:
            pickle.dumps(self._obj)
        except (pickle.PicklingError, AttributeError, TypeError):
            return _cloudpickle().loads, (_cloudpickle().dumps(self._obj),)
        return PicklableWrapper, (self._obj,)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the wrapped object."""
        return self._obj(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "_obj":  # not set yet: unpickling asks before it restores
            raise AttributeError(name)
        return getattr(self._obj, name)


def _cloudpickle() -> Any:
    try:
        import cloudpickle
    except ImportError as error:
        raise ImportError(
            "sending a closure to another process needs cloudpickle: `pip install cloudpickle`, "
            "or use a function at the top level of a module"
        ) from error
    return cloudpickle

# SPDX-License-Identifier: Apache-2.0
"""What stands for the objects of a pickle until it is read to its end.

Vocabulary:
    name: the dotted path of a class or function that a pickle asks for.
    placeholder: stands for an array, a tensor or a settings object; ``result`` says what it is.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Name:
    """What stands on the stack for a class or function; it cannot be called by itself.

    Attributes:
        dotted: the name.
        make: what the file gets when it calls it; None: nothing may, it is only a value.
    """

    dotted: str
    make: Callable[..., Any] | None


class Placeholder:
    """Stands for something until the file is read to its end."""

    def result(self) -> Any:
        """Return what it stands for.

        Raises:
            pickle.UnpicklingError: the file never said.
        """
        raise pickle.UnpicklingError("an unfinished object")

    def build(self, state: Any) -> None:  # noqa: ARG002
        """Take the state that the file gives it.

        Args:
            state: of any type.

        Raises:
            pickle.UnpicklingError: it is no state of such an object.
        """
        raise pickle.UnpicklingError("state for an object that has none")


class Blob(Placeholder):
    """Binary data in memory of its own, which one array takes over without a copy."""

    def __init__(self, memory: np.ndarray, *, is_text: bool = False) -> None:
        """Hold the memory.

        Args:
            memory: bytes, writable.
            is_text: whether Python 2 wrote it, which had no other type for text.
        """
        self._memory: np.ndarray | None = memory
        self._is_text = is_text

    def take(self) -> np.ndarray:
        """Return the memory, once.

        Raises:
            pickle.UnpicklingError: it belongs to another array already.
        """
        # Else a small file could ask for any number of arrays.
        if self._memory is None:
            raise pickle.UnpicklingError("two arrays of the same data")
        memory, self._memory = self._memory, None
        return memory

    def result(self) -> bytes | str:
        """Return plain bytes, or text."""
        data = self.take().tobytes()
        return data.decode("latin1") if self._is_text else data


class LongText(Placeholder):
    """A long text, which may be an array's data as Python 3 writes it for Python 2."""

    def __init__(self, utf8: bytes) -> None:
        """Hold the text.

        Args:
            utf8: as in the file.
        """
        self._utf8: bytes | None = utf8

    def take(self) -> np.ndarray:
        """Return the data that the text encodes, once.

        Raises:
            pickle.UnpicklingError: it belongs to another array already.
        """
        data = self.result().encode("latin1")
        self._utf8 = None
        return np.frombuffer(bytearray(data), np.uint8)

    def result(self) -> str:
        """Return the text.

        Raises:
            pickle.UnpicklingError: it was data.
        """
        if self._utf8 is None:
            raise pickle.UnpicklingError("two arrays of the same data")
        return self._utf8.decode("utf-8", "surrogatepass")


class Settings(Placeholder):
    """A settings object of a training script (``argparse.Namespace``); becomes a dictionary."""

    def __init__(self) -> None:
        """Start empty."""
        self.values: dict[Any, Any] = {}

    def build(self, state: Any) -> None:
        """Take the attributes.

        Raises:
            pickle.UnpicklingError: they are no dictionary.
        """
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("settings that are no dictionary")
        self.values.update(state)

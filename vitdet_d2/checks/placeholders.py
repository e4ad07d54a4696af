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


def short_text(value: Any) -> str:
    """Return a short text that a file gives, or a number as one.

    Args:
        value: of any type; the text of nested tuples could take for ever.

    Raises:
        pickle.UnpicklingError: it is neither.
    """
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if not isinstance(value, (str, int)) or (isinstance(value, str) and len(value) > 100):
        raise pickle.UnpicklingError("something that is no name")
    return str(value)


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
    """Binary data in memory of its own, which arrays take over without a copy.

    Honest files give each array data of its own. Where a file names one for several, they share
    it: copies would let a small file ask for any amount of memory.
    """

    def __init__(self, memory: np.ndarray, *, is_text: bool = False) -> None:
        """Hold the memory.

        Args:
            memory: bytes, writable.
            is_text: whether Python 2 wrote it, which had no other type for text.
        """
        self.memory = memory
        self._is_text = is_text
        self._was_copied = False

    def copy_once(self) -> None:
        """Note that an array had to be copied out of it.

        Raises:
            pickle.UnpicklingError: for the second time.
        """
        if self._was_copied:
            raise pickle.UnpicklingError("several arrays of the same data")
        self._was_copied = True

    def result(self) -> bytes | str:
        """Return plain bytes, or text."""
        data = self.memory.tobytes()
        return data.decode("latin1") if self._is_text else data


class LongText(Placeholder):
    """A long text, which may be an array's data as Python 3 writes it for Python 2."""

    def __init__(self, utf8: bytes) -> None:
        """Hold the text.

        Args:
            utf8: as in the file.
        """
        self._utf8: bytes | None = utf8
        self._blob: Blob | None = None

    def __len__(self) -> int:
        """Return its length in bytes."""
        return len(self._utf8 or b"")

    def encoded(self) -> Blob:
        """Return the data that the text encodes, in place of the text."""
        if self._blob is None:
            data = self.result().encode("latin1")
            self._blob = Blob(np.frombuffer(bytearray(data), np.uint8))
            self._utf8 = None
        return self._blob

    def result(self) -> str:
        """Return the text.

        Raises:
            pickle.UnpicklingError: it was data.
        """
        if self._utf8 is None:
            raise pickle.UnpicklingError("data as a text")
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

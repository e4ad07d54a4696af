# SPDX-License-Identifier: Apache-2.0
"""Reading pickled weights without running what the file asks for.

A pickle is a program for a small machine. Here the machine knows only the steps that weights need,
every name that it is asked for is one of ``SAFE_NAMES`` or an error that says it, and its steps,
its numbers and its memory are bounded by what honest files hold.
"""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from vitdet_d2.checks.placeholders import Blob, LongText, Name, Placeholder, Settings
from vitdet_d2.checks.safe_names import SAFE_NAMES, check_key, dotted_name
from vitdet_d2.errors import WeightsError

# The largest released ViTDet file holds 2.8 GB; larger pickles are no model of ours.
MAX_FILE_BYTES = 16 * 1024**3
# Text lines (names, numbers) of honest pickles have at most some hundred characters.
MAX_LINE_BYTES = 64 * 1024
# A training checkpoint of ViT-H with its optimizer takes some 200,000 steps, half a second here.
MAX_STEPS = 5_000_000
# Shorter data is cheap enough to be copied.
_SHORT_DATA = 256
_SHORT_TEXT = 64 * 1024


class UnsafeNameError(pickle.UnpicklingError):
    """A pickle asks for a name that weight files have no use for."""

    def __init__(self, name: str) -> None:
        """Remember the name.

        Args:
            name: the dotted path.
        """
        super().__init__(f"the file asks for the Python object `{name}`")
        self.name = name


class BoundedFile:
    """A binary file that never hands out (or makes room for) more than it holds."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        """Wrap a file.

        Args:
            file: open, at its beginning.
            size: in bytes.
        """
        self._file = file
        self.left = size

    def read(self, count: int = -1) -> bytes:
        """Read exactly ``count`` bytes.

        Raises:
            EOFError: the file ends before.
        """
        if not 0 <= count <= self.left:
            raise EOFError("the file ends in the middle of a value")
        self.left -= count
        return self._file.read(count)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer.

        Raises:
            EOFError: the file ends before.
        """
        view = memoryview(buffer).cast("B")
        if len(view) > self.left:
            raise EOFError("the file ends in the middle of a value")
        self.left -= len(view)
        done = 0
        while done < len(view):
            count = self._file.readinto(view[done:])  # type: ignore[attr-defined]
            if not count:
                raise EOFError("the file became shorter while it was read")
            done += count
        return done

    def readline(self) -> bytes:
        """Read a line of bounded length."""
        line = self._file.readline(min(MAX_LINE_BYTES, self.left))
        self.left -= len(line)
        return line


# Steps that weight files have no use for: they reach objects without naming them, or make numbers
# of any length.
_REFUSED = (
    pickle.NEXT_BUFFER,
    pickle.READONLY_BUFFER,
    pickle.EXT1,
    pickle.EXT2,
    pickle.EXT4,
    pickle.PERSID,
    pickle.INST,
    pickle.OBJ,
    pickle.LONG4,
)


def _refuse(machine: SafeUnpickler) -> None:  # noqa: ARG001
    raise pickle.UnpicklingError("a step that reading weights never takes")


def _counted(method: Callable[[Any], None]) -> Callable[[Any], None]:
    def step(machine: SafeUnpickler) -> None:
        machine.steps_left -= 1
        if machine.steps_left < 0:
            raise pickle.UnpicklingError(f"it takes more than {MAX_STEPS} steps to read")
        method(machine)

    return step


# The pure-Python reader: the compiled one makes room for a memo as large as the file tells it to.
class SafeUnpickler(pickle._Unpickler):
    """A machine for pickles that makes plain data and placeholders only."""

    stack: list[Any]
    read: Callable[[int], bytes]
    readinto: Callable[[Any], int]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(
        self, file: BoundedFile, names: Mapping[str, Name] = SAFE_NAMES, prefix: str | None = None
    ) -> None:
        """Prepare to read one pickle.

        Args:
            file: at the pickle.
            names: what it may ask for.
            prefix: modules below this one hold no code of Python, and all their names are the same
                as the entry of ``names`` for it.
        """
        super().__init__(file, encoding="latin1")
        self.steps_left = MAX_STEPS
        self._size = self._copies_left = file.left
        self._names = names
        self._prefix = prefix

    def find_class(self, module: str, name: str) -> Name:
        """Return what stands for a name.

        Raises:
            UnsafeNameError: nothing does.
        """
        dotted = dotted_name(module, name)
        if self._prefix is not None and dotted.startswith(f"{self._prefix}."):
            return self._names[self._prefix]
        if dotted not in self._names:
            raise UnsafeNameError(dotted)
        return self._names[dotted]

    def load_reduce(self) -> None:
        """Call what a name stands for.

        Raises:
            pickle.UnpicklingError: it is no name, or one that nothing may call.
        """
        arguments = self.stack.pop()
        self.stack[-1] = self._make(self.stack[-1], arguments)

    def load_newobj(self) -> None:
        """Make an object; the same as a call, here."""
        self.load_reduce()

    def load_newobj_ex(self) -> None:
        """Make an object with named arguments, of which weights have none.

        Raises:
            pickle.UnpicklingError: there are some.
        """
        if self.stack.pop():
            raise pickle.UnpicklingError("an object with named arguments")
        self.load_reduce()

    def _make(self, name: Any, arguments: Any) -> Any:
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("a call of something that is no name")
        if name.make is None:
            raise UnsafeNameError(f"{name.dotted}(...)")
        for argument in arguments:
            self._charge(argument)
        return name.make(*arguments)

    def _charge(self, value: Any) -> None:
        """Count what a call may copy: one step can hand over a large value any number of times.

        Raises:
            pickle.UnpicklingError: it is more than the file holds.
        """
        if isinstance(value, (str, bytes, LongText)):
            # What comes of it cannot exceed an honest file.
            self._copies_left -= len(value)
            if self._copies_left < 0:
                raise pickle.UnpicklingError("the data is larger than the file that holds it")
        elif isinstance(value, (list, tuple, dict)):
            self.steps_left -= len(value)

    def load_build(self) -> None:
        """Give state to a placeholder; attributes of dictionaries are of no use here.

        Raises:
            pickle.UnpicklingError: state for anything else.
        """
        state = self.stack.pop()
        target = self.stack[-1]
        self._charge(state)
        if isinstance(state, tuple):  # of an array: its data is in it
            for part in state:
                self._charge(part)
        if isinstance(target, Placeholder):
            target.build(state)
        elif not isinstance(target, OrderedDict):
            raise pickle.UnpicklingError("state for an object that has none")

    def load_binbytes(self) -> None:
        """Read binary data into memory of its own."""
        self._push_data(int.from_bytes(self.read(4), "little"))

    def load_binbytes8(self) -> None:
        """Read binary data of any length, also an array's memory."""
        self._push_data(int.from_bytes(self.read(8), "little"))

    def load_binstring(self) -> None:
        """Read a text of Python 2, which is binary data."""
        self._push_data(int.from_bytes(self.read(4), "little"), is_text=True)

    def _push_data(self, size: int, *, is_text: bool = False) -> None:
        if size > self._size:
            raise EOFError("the file ends in the middle of a value")
        if size < _SHORT_DATA:
            data = self.read(size)
            self.append(data.decode("latin1") if is_text else data)
            return
        memory = np.empty(size, np.uint8)
        self.readinto(memory.data)
        self.append(Blob(memory, is_text=is_text))

    def load_binunicode(self) -> None:
        """Read a text."""
        self._push_text(int.from_bytes(self.read(4), "little"))

    def load_binunicode8(self) -> None:
        """Read a text of any length."""
        self._push_text(int.from_bytes(self.read(8), "little"))

    def _push_text(self, size: int) -> None:
        data = self.read(size)
        is_short = size < _SHORT_TEXT
        self.append(data.decode("utf-8", "surrogatepass") if is_short else LongText(data))

    def load_setitem(self) -> None:
        """Put an entry into a dictionary."""
        value = self.stack.pop()
        key = self.stack.pop()
        self._update(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        """Put entries into a dictionary."""
        items = self.pop_mark()
        self._update(self.stack[-1], items)

    def load_dict(self) -> None:
        """Make a dictionary of entries."""
        items = self.pop_mark()
        self.append(self._update({}, items))

    def _update(self, table: Any, items: list[Any]) -> Any:
        if not isinstance(table, dict):
            raise pickle.UnpicklingError("an entry for something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            check_key(key)
            table[key] = value
        return table

    def load_additems(self) -> None:
        """Put items into a set, which is a list here.

        Raises:
            pickle.UnpicklingError: it is none.
        """
        items = self.pop_mark()
        target = self.stack[-1]
        if not isinstance(target, list):
            raise pickle.UnpicklingError("items for something that is no set")
        target.extend(items)

    def load_frozenset(self) -> None:
        """Make a set, which is a list here."""
        items = self.pop_mark()  # changes what `append` is
        self.append(items)


_OWN = {
    pickle.REDUCE: SafeUnpickler.load_reduce,
    pickle.NEWOBJ: SafeUnpickler.load_newobj,
    pickle.NEWOBJ_EX: SafeUnpickler.load_newobj_ex,
    pickle.BUILD: SafeUnpickler.load_build,
    pickle.BINBYTES: SafeUnpickler.load_binbytes,
    pickle.BINBYTES8: SafeUnpickler.load_binbytes8,
    pickle.BYTEARRAY8: SafeUnpickler.load_binbytes8,
    pickle.BINSTRING: SafeUnpickler.load_binstring,
    pickle.BINUNICODE: SafeUnpickler.load_binunicode,
    pickle.BINUNICODE8: SafeUnpickler.load_binunicode8,
    pickle.SETITEM: SafeUnpickler.load_setitem,
    pickle.SETITEMS: SafeUnpickler.load_setitems,
    pickle.DICT: SafeUnpickler.load_dict,
    pickle.EMPTY_SET: pickle._Unpickler.load_empty_list,  # type: ignore[attr-defined]
    pickle.ADDITEMS: SafeUnpickler.load_additems,
    pickle.FROZENSET: SafeUnpickler.load_frozenset,
}
SafeUnpickler.dispatch.update({code[0]: method for code, method in _OWN.items()})
SafeUnpickler.dispatch = {
    **dict.fromkeys(range(256), _refuse),
    **{code: _counted(method) for code, method in SafeUnpickler.dispatch.items()},
    **dict.fromkeys((code[0] for code in _REFUSED), _refuse),
}


def plain(value: Any) -> Any:
    """Replace placeholders by what they stand for.

    Args:
        value: a result of unpickling.

    Returns:
        The same nest of dictionaries, lists and tuples; what was shared stays shared.

    Raises:
        WeightsError: the nest is deeper than any checkpoint.
        pickle.UnpicklingError: something in it was never finished.
    """
    try:
        return _plain(value, {})
    except RecursionError:
        raise WeightsError(
            "refused: the data is nested too deeply to be a checkpoint; check where it is from"
        ) from None


def _plain(value: Any, done: dict[int, Any]) -> Any:
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, Name):
        return value.dotted
    if isinstance(value, Placeholder) and not isinstance(value, Settings):
        done[id(value)] = value.result()
        return done[id(value)]
    items = value.values if isinstance(value, Settings) else value
    if isinstance(items, dict):
        table: dict[Any, Any] = {}
        done[id(value)] = table
        for key, item in items.items():
            table[_plain(key, done)] = _plain(item, done)
        return table
    if isinstance(items, list):
        entries: list[Any] = []
        done[id(value)] = entries
        entries.extend(_plain(item, done) for item in items)
        return entries
    if isinstance(items, tuple):
        done[id(value)] = tuple(_plain(item, done) for item in items)
        return done[id(value)]
    return value


def load_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a pickle of plain data: containers, numbers, texts and numpy arrays.

    Args:
        path: a local file; pickled by any Python, also by Python 2.

    Returns:
        The object, made of built-in containers, numbers, texts and arrays only.

    Raises:
        WeightsError: the file is too large, damaged, or asks for anything else; the message names
            what.
    """
    size = Path(path).stat().st_size
    check_size(path, size)
    try:
        with open(path, "rb") as file:
            return plain(SafeUnpickler(BoundedFile(file, size)).load())
    except Exception as error:
        raise WeightsError(explained(path, error)) from None


def check_size(path: str | os.PathLike[str], size: int) -> None:
    """Refuse files that are larger than any model.

    Args:
        path: the file.
        size: in bytes.

    Raises:
        WeightsError: it is.
    """
    if size > MAX_FILE_BYTES:
        raise WeightsError(
            f"{path}: a pickle of {size} bytes is larger than any model ({MAX_FILE_BYTES}); "
            "convert it to .safetensors where it was made"
        )


def explained(path: str | os.PathLike[str], error: Exception) -> str:
    """Return the message for a pickle that could not be read.

    A hostile or damaged program can fail in any way; none of them ran anything but our code.

    Args:
        path: the file.
        error: what was raised while it was read.
    """
    if isinstance(error, UnsafeNameError):
        return (
            f"{path}: refused, the file asks for the Python object `{error.name}`, which weights "
            "do not need and which could run code. If you trust where it is from, load it there "
            "and save only its tensors, best as .safetensors"
        )
    if isinstance(error, WeightsError):
        return f"{path}: {error}"
    reason = f"{type(error).__name__}: {error}"
    return (
        f"{path}: cut off, damaged, or no pickle of weights ({reason[:200]}); get the file again, "
        "and compare its size and checksum with the source's"
    )

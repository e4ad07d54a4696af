# SPDX-License-Identifier: Apache-2.0
"""The names that pickled weights may ask for, and what they get instead.

A pickle is a program that asks for classes and functions by name. The few names that honest weight
files use are replaced by the functions below, which can only make numbers, texts, containers and
arrays; what is of no use to weights (paths, devices, dates) becomes a text.
"""

from __future__ import annotations

import datetime
import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, cast

from vitdet_d2.checks.pickled_arrays import Array, Dtype, from_buffer, scalar
from vitdet_d2.checks.placeholders import Blob, LongText, Name, Settings, short_text


def _encode(text: Any, encoding: Any = "latin1") -> bytes | Blob:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("a text that is no binary data")
    if isinstance(text, LongText):
        return text.encoded()
    if not isinstance(text, str):
        raise pickle.UnpicklingError("a text that is no binary data")
    return text.encode("latin1")


def _bytes(*arguments: Any) -> bytes:
    if arguments:
        raise pickle.UnpicklingError("bytes made of something else")
    return b""


def _bytearray(data: Any = b"", encoding: Any = "latin-1") -> Any:
    return data if isinstance(data, bytes) else _encode(data, encoding)


def _table(items: Any = ()) -> OrderedDict[Any, Any]:
    if isinstance(items, dict):
        return OrderedDict(items)
    table: OrderedDict[Any, Any] = OrderedDict()
    for key, value in items:
        check_key(key)
        table[key] = value
    return table


def _default_table(factory: Any = None, items: Any = ()) -> OrderedDict[Any, Any]:
    if factory is not None and not isinstance(factory, Name):
        raise pickle.UnpicklingError("a dictionary with an unknown default")
    return _table(items)


def _list(items: Any = (), limit: Any = None) -> list[Any]:  # noqa: ARG001
    return list(items)


def _set(items: Any = ()) -> list[Any]:
    # As a list: a set could only hold what can be hashed, placeholders have another hash.
    return list(items)


def _complex(real: Any, imaginary: Any) -> complex:
    return complex(float(real), float(imaginary))


def _range(*limits: Any) -> list[Any]:
    return list(limits)  # not its numbers, of which there may be any number


def _path(*parts: Any) -> str:
    texts = [part.result() if isinstance(part, LongText) else part for part in parts]
    return "/".join(text.rstrip("/\\") for text in texts) or "/"


def _device(kind: Any, index: Any = None) -> str:
    return short_text(kind) if index is None else f"{short_text(kind)}:{short_text(index)}"


def _moment(kind: type[datetime.date | datetime.time]) -> Callable[..., str]:
    def make(state: Any, zone: Any = None) -> str:
        # Python 2 and protocol 2 write the ten bytes as text.
        data = state.encode("latin1") if isinstance(state, str) else state
        if not isinstance(data, bytes) or not 4 <= len(data) <= 10:
            raise pickle.UnpicklingError("a date of an unknown format")
        text = cast(Any, kind)(data).isoformat()
        return f"{text} {zone}" if isinstance(zone, str) else text

    return make


def _duration(days: Any = 0, seconds: Any = 0, microseconds: Any = 0) -> str:
    return str(datetime.timedelta(int(days), int(seconds), int(microseconds)))


def _zone(offset: Any, name: Any = "") -> str:
    return f"UTC+{short_text(offset)} {short_text(name)}".strip()


def check_key(key: Any) -> None:
    """Refuse keys whose hash could take for ever: tuples of tuples.

    Args:
        key: of a dictionary.

    Raises:
        pickle.UnpicklingError: it is one.
    """
    if isinstance(key, tuple) and (len(key) > 100 or any(isinstance(part, tuple) for part in key)):
        raise pickle.UnpicklingError("a key that is no name")


def _all(modules: Sequence[str], table: dict[str, Any]) -> dict[str, Any]:
    return {f"{module}.{name}": make for module in modules for name, make in table.items()}


_PATHS = dict.fromkeys(
    ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"), _path
)
_SCALAR_TYPES = (
    "float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool bool_ "
    "complex64 complex128 str_ bytes_ longlong ulonglong"
).split()
_TORCH_DTYPES = (
    "float16 float32 float64 half float double bfloat16 int8 int16 int32 int64 short int long "
    "uint8 uint16 uint32 uint64 bool complex32 complex64 complex128 "
    "float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu"
).split()
# A class of dtypes is asked for beside its instances by some versions of numpy.
_DTYPE_CLASSES = [f"Float{n}DType" for n in (16, 32, 64)] + [
    f"{sign}Int{n}DType" for sign in ("", "U") for n in (8, 16, 32, 64)
]

_MAKERS: dict[str, Callable[..., Any] | None] = {
    **_all(
        ["collections"],
        {
            "OrderedDict": _table,
            "defaultdict": _default_table,
            "Counter": _table,
            "deque": _list,
        },
    ),
    "_codecs.encode": _encode,
    **_all(
        ["builtins"],
        {
            "bytes": _bytes,
            "bytearray": _bytearray,
            "set": _set,
            "frozenset": _set,
            "complex": _complex,
            "range": _range,
            "slice": _range,
            **dict.fromkeys(("int", "float", "bool", "str", "list", "dict", "tuple", "object")),
        },
    ),
    **dict.fromkeys(("argparse.Namespace", "types.SimpleNamespace"), Settings),
    # Dictionaries with attribute access, in which some projects keep their settings.
    **dict.fromkeys(("yacs.config.CfgNode", "fvcore.common.config.CfgNode"), _table),
    **dict.fromkeys(("detectron2.config.config.CfgNode", "easydict.EasyDict"), _table),
    **_all(["pathlib", "pathlib._local"], _PATHS),
    "datetime.datetime": _moment(datetime.datetime),
    "datetime.date": _moment(datetime.date),
    "datetime.time": _moment(datetime.time),
    "datetime.timedelta": _duration,
    "datetime.timezone": _zone,
    "numpy.ndarray": None,
    "numpy.dtype": Dtype,
    **_all(["numpy"], dict.fromkeys(_SCALAR_TYPES)),
    "numpy._core.numeric._frombuffer": from_buffer,
    **_all(["numpy._core.multiarray"], {"_reconstruct": Array, "scalar": scalar}),
    **_all(["numpy.dtypes"], dict.fromkeys((*_DTYPE_CLASSES, "BoolDType", "StrDType"), Dtype)),
    "torch.Size": tuple,
    "torch.device": _device,
    **_all(["torch"], dict.fromkeys(_TORCH_DTYPES)),
}

SAFE_NAMES = {dotted: Name(dotted, make) for dotted, make in _MAKERS.items()}

# Where today's modules were in numpy 1.
_MOVED = {
    "numpy.core.multiarray": "numpy._core.multiarray",
    "numpy.core.numeric": "numpy._core.numeric",
}


def dotted_name(module: str, name: str) -> str:
    """Return the present dotted path of a name, also where Python 2 or numpy 1 had another.

    Args:
        module: as in the file.
        name: as in the file.
    """
    # Python 3 writes the names of Python 2 too, where a file is to be read by both.
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[module, name]
    module = IMPORT_MAPPING.get(module, module)
    return f"{_MOVED.get(module, module)}.{name}"

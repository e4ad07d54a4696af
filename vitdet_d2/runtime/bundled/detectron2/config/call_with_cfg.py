# SPDX-License-Identifier: Apache-2.0
"""Constructors and functions that can be called with a configuration in place of arguments.

Vocabulary:
    explicit call: the arguments themselves.
    configured call: the first argument, or the one named ``cfg``, is a configuration;
        ``from_config`` translates it into arguments, and further keywords overrule these.

Source: behaviour of detectron2 ``config/config.py``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from fvcore.common.config import CfgNode
from omegaconf import DictConfig

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def configurable(
    init_func: Callable[..., Any] | None = None,
    *,
    from_config: Callable[..., dict[str, Any]] | None = None,
) -> Callable[..., Any]:
    """Allow configured calls of a constructor or of a function.

    A constructor: ``@configurable`` on ``__init__`` of a class with a classmethod
    ``from_config(cls, cfg, ...)``. A function: ``@configurable(from_config=...)``.
    ``from_config`` takes ``cfg`` first and returns arguments by name. It gets the keywords that it
    has parameters for (all of them where it has ``**kwargs``), the rest goes to the target.

    Args:
        init_func: the ``__init__``.
        from_config: the translation for a function.

    Raises:
        TypeError: the decorator stands on something else, or ``from_config`` is no function.
    """
    if init_func is not None:
        if from_config is not None or not _is_init(init_func):
            raise TypeError(
                "@configurable stands on __init__ of a class with a from_config classmethod; a "
                "function takes @configurable(from_config=...)"
            )
        return _configurable_init(init_func)
    if from_config is None:
        return configurable  # @configurable() is @configurable
    if not inspect.isfunction(from_config):
        raise TypeError(f"from_config: expected a function, got {from_config!r}")
    return functools.partial(_configurable_function, from_config=from_config)


def _is_init(function: Callable[..., Any]) -> bool:
    return inspect.isfunction(function) and function.__name__ == "__init__"


def _configurable_init(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def init_or_configure(self: Any, *args: Any, **kwargs: Any) -> None:
        translate = _from_config_of(type(self))  # of a subclass, where that calls us
        if _is_configured_call(args, kwargs):
            kwargs = _translated(translate, args, kwargs)
            args = ()
        init(self, *args, **kwargs)

    return init_or_configure


def _configurable_function(
    function: Callable[..., Any], from_config: Callable[..., dict[str, Any]]
) -> Callable[..., Any]:
    @functools.wraps(function)
    def call_or_configure(*args: Any, **kwargs: Any) -> Any:
        if _is_configured_call(args, kwargs):
            kwargs = _translated(from_config, args, kwargs)
            args = ()
        return function(*args, **kwargs)

    vars(call_or_configure)["from_config"] = from_config
    return call_or_configure


def _from_config_of(cls: type) -> Callable[..., dict[str, Any]]:
    """Return the class's translation.

    Raises:
        AttributeError: it has none.
        TypeError: it is no classmethod.
    """
    message = f"Class with @configurable must have a 'from_config' classmethod ({cls.__name__})"
    if not hasattr(cls, "from_config"):
        raise AttributeError(message)
    translate = cls.from_config
    if not inspect.ismethod(translate):
        raise TypeError(message)
    return translate


def _is_configured_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    candidates = [*args[:1], kwargs.get("cfg")]
    return any(isinstance(candidate, CfgNode | DictConfig) for candidate in candidates)


def _translated(
    translate: Callable[..., dict[str, Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return the keyword arguments of a configured call.

    Raises:
        TypeError: the translation does not take ``cfg`` first, or not these arguments.
    """
    parameters = inspect.signature(translate).parameters
    if next(iter(parameters), None) != "cfg":
        name = getattr(translate, "__qualname__", repr(translate))
        raise TypeError(f"{name} must take 'cfg' as the first argument!")
    takes_all = any(parameter.kind in _VARIADIC for parameter in parameters.values())
    taken = {name for name in kwargs if takes_all or name in parameters}
    arguments = translate(*args, **{name: kwargs[name] for name in taken})
    left = {name: value for name, value in kwargs.items() if name not in taken}
    return {**arguments, **left}

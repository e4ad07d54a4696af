# SPDX-License-Identifier: Apache-2.0
"""Calls with a configuration in place of arguments."""

from __future__ import annotations

from typing import Any

import pytest
from detectron2.config import CfgNode, configurable
from omegaconf import OmegaConf

CFG = CfgNode({"A": 1, "B": 2})


class Part:
    @configurable
    def __init__(self, a: int, b: int = 20, c: int = 30) -> None:
        """Remember."""
        self.values = (a, b, c)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        return {"a": cfg.A, "b": cfg.B}


class WithShape(Part):
    @configurable
    def __init__(self, shape: str, **rest: int) -> None:
        super().__init__(**rest)
        self.shape = shape

    @classmethod
    def from_config(cls, cfg: Any, shape: str) -> dict[str, Any]:
        return {"shape": shape, **super().from_config(cfg)}


class OldStyle(WithShape):
    """A subclass that hands the configuration to its parent, as projects before 2020 do."""

    def __init__(self, cfg: Any, shape: str) -> None:
        super().__init__(cfg, shape)


@configurable(from_config=lambda cfg, factor=1: {"a": cfg.A * factor})
def function(a: int, b: int = 20) -> tuple[int, int]:
    return a, b


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (lambda: Part(1), (1, 20, 30)),
        (lambda: Part(CFG), (1, 2, 30)),
        (lambda: Part(cfg=CFG), (1, 2, 30)),
        (lambda: Part(CFG, b=5, c=6), (1, 5, 6)),
        (lambda: Part(OmegaConf.create({"A": 7, "B": 8})), (7, 8, 30)),
        (lambda: WithShape(CFG, "s"), (1, 2, 30)),
        (lambda: WithShape(CFG, shape="s", c=9), (1, 2, 9)),
        (lambda: WithShape("s", a=4), (4, 20, 30)),
        (lambda: OldStyle(CFG, "s"), (1, 2, 30)),
        (lambda: OldStyle(cfg=CFG, shape="s"), (1, 2, 30)),
    ],
)
def test_calls_of_constructors(part: Any, expected: tuple[int, ...]) -> None:
    assert part().values == expected


def test_calls_of_functions() -> None:
    assert function(3) == (3, 20)
    assert function(CFG) == (1, 20)
    assert function(CFG, factor=5, b=6) == (5, 6)
    assert function(cfg=CFG, a=8) == (8, 20)
    assert callable(function.from_config)  # type: ignore[attr-defined]


def test_the_decorated_keeps_its_signature() -> None:
    assert Part.__init__.__doc__ == "Remember."
    assert Part.__init__.__annotations__["a"] == "int"


def test_arguments_that_nobody_takes() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'd'"):
        Part(CFG, d=1)
    with pytest.raises(TypeError, match="takes 2 positional arguments"):
        Part(CFG, 5)  # only keywords go past from_config


def test_a_class_without_translation() -> None:
    class Without:
        @configurable
        def __init__(self, a: int = 1) -> None:
            pass

    with pytest.raises(AttributeError, match=r"must have a 'from_config' classmethod \(Without\)"):
        Without()


def test_a_translation_that_is_no_classmethod() -> None:
    class Method:
        @configurable
        def __init__(self, a: int = 1) -> None:
            pass

        def from_config(self, cfg: Any) -> None:
            pass

    with pytest.raises(TypeError, match="must have a 'from_config' classmethod"):
        Method()


def test_a_translation_must_take_cfg_first() -> None:
    class Renamed:
        @configurable
        def __init__(self, a: int = 1) -> None:
            pass

        @classmethod
        def from_config(cls, config: Any) -> dict[str, Any]:
            return {"a": config.A}

    with pytest.raises(TypeError, match="must take 'cfg' as the first argument!"):
        Renamed(CFG)


def test_wrong_places_of_the_decorator() -> None:
    with pytest.raises(TypeError, match="stands on __init__ of a class"):
        configurable(lambda a: a)
    with pytest.raises(TypeError, match="expected a function, got 3"):
        configurable(from_config=3)  # type: ignore[arg-type]
    assert configurable() is configurable

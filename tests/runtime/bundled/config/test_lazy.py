# SPDX-License-Identifier: Apache-2.0
"""Recipes: calls described, files loaded, overridden and written."""

from __future__ import annotations

import builtins
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.config.instantiate import dump_dataclass
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn


@dataclass
class Shape:
    channels: int
    inner: Shape | None = None


def add(a: float, b: float = 0) -> float:
    return a + b


def getattr_of_this_module(name: str) -> object:
    return globals()[name]


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "base.py").write_text(
        "counts = dict(a=1)\nplain = 5\nitems = [1, 2]\n_hidden = dict(a=2)\n"
    )
    (tmp_path / "projects").mkdir()
    (tmp_path / "projects" / "run.py").write_text(
        "from ..common.base import counts, plain, items\n"
        "from detectron2.config import LazyCall as L\n"
        "import fractions\n"
        "counts.a += 1\n"
        "model = L(fractions.Fraction)(a=counts.a)\n"
        "train = {'lr': 0.1, 'double': '${.lr}'}\n"
        "number = 3\n"
        "_private = {}\n"
    )
    return tmp_path


def test_call_is_described_then_made() -> None:
    cfg = LazyCall(nn.Conv2d)(in_channels=3, out_channels=4, kernel_size="${.out_channels}")
    assert isinstance(cfg, DictConfig)
    assert cfg._target_ is nn.Conv2d
    cfg.out_channels = 5
    conv = instantiate(cfg)
    assert (conv.out_channels, conv.kernel_size) == (5, (5, 5))


def test_target_may_be_a_name_a_call_or_a_dataclass() -> None:
    assert instantiate(LazyCall("tests.runtime.bundled.config.test_lazy.add")(a=1, b=2)) == 3
    chooser = LazyCall(getattr_of_this_module)(name="add")
    assert instantiate(LazyCall(chooser)(a=1, b=4)) == 5
    shape = LazyCall(Shape)(channels=2)
    assert shape._target_ == f"{__name__}.Shape"
    assert instantiate(shape) == Shape(2)
    with pytest.raises(TypeError, match="must be callable, a name or a call, got 5"):
        LazyCall(5)  # type: ignore[arg-type]


def test_instantiate_goes_inward_and_leaves_the_rest() -> None:
    cfg = LazyCall(add)(a=LazyCall(add)(a=1, b=2), b=4)
    assert instantiate(cfg) == 7
    assert instantiate([cfg, 5]) == [7, 5]
    listed = instantiate(ListConfig([cfg, 5], flags={"allow_objects": True}))
    assert isinstance(listed, ListConfig)
    assert list(listed) == [7, 5]
    plain = DictConfig({"x": 1})
    assert instantiate(plain) is plain
    assert instantiate({"_target_": add, "a": 2}) == 2
    assert instantiate(OmegaConf.structured(Shape(3))) == Shape(3)


def test_instantiate_names_what_failed(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'c'"):
        instantiate(LazyCall(add)(a=1, c=2))
    assert "Failed to build add from the arguments ['a', 'c']" in caplog.text
    with pytest.raises(TypeError, match="must name something callable"):
        instantiate({"_target_": "math.pi"})
    with pytest.raises(ImportError, match=r"cannot locate 'no.such'"):
        instantiate({"_target_": "no.such"})


def test_dataclasses_round_trip() -> None:
    shape = Shape(1, Shape(2))
    dumped = dump_dataclass(shape)
    assert dumped["inner"] == {"_target_": f"{__name__}.Shape", "channels": 2, "inner": None}
    assert instantiate(dumped) == shape
    with pytest.raises(TypeError, match="needs a dataclass instance"):
        dump_dataclass(Shape)


def test_load_keeps_configuration_objects_only(recipes: Path) -> None:
    cfg = LazyConfig.load(str(recipes / "projects" / "run.py"))
    assert isinstance(cfg, DictConfig)
    assert sorted(cfg) == ["counts", "model", "train"]
    assert cfg.model.a == 2
    assert cfg.train.double == 0.1


def test_load_of_keys(recipes: Path) -> None:
    file = str(recipes / "projects" / "run.py")
    assert LazyConfig.load(file, "number") == 3
    train, number = LazyConfig.load(file, ("train", "number"))
    assert isinstance(train, DictConfig)
    assert number == 3


def test_each_load_is_a_fresh_one(recipes: Path) -> None:
    file = str(recipes / "projects" / "run.py")
    LazyConfig.load(file).counts.a = 100
    assert LazyConfig.load(file).counts.a == 2
    assert not [name for name in sys.modules if "_cfg_loader" in name]


def test_relative_imports_work_from_any_folder(
    recipes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipes / "projects")
    assert LazyConfig.load("run.py").counts.a == 2
    assert LazyConfig.load("./run.py").counts.a == 2
    monkeypatch.chdir(recipes / "common")
    assert LazyConfig.load("../projects/run.py").counts.a == 2


def test_functions_of_a_recipe_can_still_import(recipes: Path) -> None:
    (recipes / "late.py").write_text(
        "def late():\n    from .common.base import plain\n    return plain\nmake = {'f': late}\n"
    )
    assert LazyConfig.load(str(recipes / "late.py"), "late")() == 5


def test_star_import_brings_everything(recipes: Path) -> None:
    (recipes / "star.py").write_text("from .common.base import *\nb = {'x': counts.a}\n")
    assert LazyConfig.load(str(recipes / "star.py")).b.x == 1


BAD_IMPORTS = {
    "from . import common": "a relative import in a recipe names a recipe file",
    "from .common import base": r"common is a folder, not a recipe file",
    "from .nothing import x": r"nothing.py does not exist",
    "from .common.base import nope": r"cannot import name 'nope' from the recipe .*base.py",
}


@pytest.mark.parametrize("statement", BAD_IMPORTS)
def test_bad_relative_imports(recipes: Path, statement: str) -> None:
    (recipes / "bad.py").write_text(statement)
    with pytest.raises(ImportError, match=BAD_IMPORTS[statement]):
        LazyConfig.load(str(recipes / "bad.py"))


def test_error_in_a_recipe_leaves_python_as_it_was(recipes: Path) -> None:
    (recipes / "common" / "broken.py").write_text("a = {}\nraise RuntimeError('inside')\n")
    (recipes / "outer.py").write_text("from .common.broken import a\n")
    original, modules = builtins.__import__, set(sys.modules)
    with pytest.raises(RuntimeError, match="inside"):
        LazyConfig.load(str(recipes / "outer.py"))
    assert builtins.__import__ is original
    assert set(sys.modules) == modules
    (recipes / "outer.py").write_text("a = (\n")
    with pytest.raises(SyntaxError, match="never closed"):
        LazyConfig.load(str(recipes / "outer.py"))
    assert builtins.__import__ is original


def test_import_is_not_patched_while_a_recipe_runs(recipes: Path) -> None:
    original = builtins.__import__
    (recipes / "probe.py").write_text(
        "import builtins\noriginal = builtins.__import__\nrecord = {'a': 1}\n"
    )
    assert LazyConfig.load(str(recipes / "probe.py"), "original") is original


def test_load_rel_goes_by_the_callers_file(recipes: Path) -> None:
    (recipes / "projects" / "rel.py").write_text(
        "from detectron2.config import LazyConfig\n"
        "counts = LazyConfig.load_rel('../common/base.py', 'counts')\n"
    )
    assert LazyConfig.load(str(recipes / "projects" / "rel.py")).counts.a == 1


def test_yaml_is_read_safely(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("x: {lr: 1e-4, y: '${.lr}'}\n")
    assert LazyConfig.load(str(file)).x.y == 1e-4
    file.write_text("x: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ValueError, match=r"a.yaml:1: could not determine a constructor"):
        LazyConfig.load(str(file))
    with pytest.raises(ValueError, match=r"must end in .py, .yaml or .yml, got a.txt"):
        LazyConfig.load("a.txt")


def test_save_then_load_describes_the_same(tmp_path: Path) -> None:
    cfg = DictConfig(
        {
            "m": LazyCall(nn.Conv2d)(in_channels=3, out_channels="${..n}", kernel_size=(1, 2)),
            "n": 4,
        },
        flags={"allow_objects": True},
    )
    file = str(tmp_path / "a.yaml")
    LazyConfig.save(cfg, file)
    loaded = LazyConfig.load(file)
    assert loaded.m._target_ == "torch.nn.Conv2d"
    assert OmegaConf.to_container(loaded)["m"]["out_channels"] == "${..n}"
    assert instantiate(loaded.m).weight.shape == (4, 3, 1, 2)
    assert cfg.m._target_ is nn.Conv2d


def test_save_says_what_it_cannot_express(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = LazyCall(nn.Conv2d)(norm=partial(nn.LayerNorm, eps=1e-6), a=1)
    LazyConfig.save(cfg, str(tmp_path / "a.yaml"))
    assert "is for reading only: YAML cannot express norm" in caplog.text
    assert yaml.safe_load((tmp_path / "a.yaml").read_text())["a"] == 1


def test_overrides_set_and_add() -> None:
    cfg = OmegaConf.create({"train": {"lr": 0.1, "name": "x"}, "m": None})
    same = LazyConfig.apply_overrides(
        cfg, ["train.lr=1e-3", "train.name=./a=b", "train.new.key=[1, 2]", "m.x=true"]
    )
    assert same is cfg
    assert cfg == {
        "train": {"lr": 1e-3, "name": "./a=b", "new": {"key": [1, 2]}},
        "m": {"x": True},
    }
    with pytest.raises(KeyError, match=r"cannot set train.lr.x: train.lr is a float"):
        LazyConfig.apply_overrides(cfg, ["train.lr.x=1"])
    with pytest.raises(ValueError, match="must be key=value, got 'foo'"):
        LazyConfig.apply_overrides(cfg, ["foo"])
    with pytest.raises(ValueError, match=r"'train.lr=\[': the value is not YAML"):
        LazyConfig.apply_overrides(cfg, ["train.lr=["])


def test_to_py_is_formatted_where_black_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class RefusedError(ValueError):
        pass

    def format_str(text: str, mode: str) -> str:
        if "<" in text:
            raise RefusedError
        return f"{mode}: {text}"

    stand_in = SimpleNamespace(
        format_str=format_str, Mode=lambda: "black", InvalidInput=RefusedError
    )
    monkeypatch.setitem(sys.modules, "black", stand_in)
    assert LazyConfig.to_py(DictConfig({"a": 1})) == "black: cfg.a = 1\n"
    unreadable = DictConfig({"a": object()}, flags={"allow_objects": True})
    assert LazyConfig.to_py(unreadable).startswith("cfg.a = <object")


def test_to_py_shows_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "black", None)
    cfg = DictConfig(
        {"a": {"b": 1, "c": LazyCall(add)(a=[1, 2], b={"x": "y"})}, "d": "${a.b}"},
        flags={"allow_objects": True},
    )
    assert LazyConfig.to_py(cfg) == (
        f"cfg.a.b = 1\ncfg.a.c = {__name__}.add(a=[1, 2], b={{'x': 'y'}})\ncfg.d = 1\n"
    )

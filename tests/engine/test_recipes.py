# SPDX-License-Identifier: Apache-2.0
"""Finding, loading, completing and saving recipes."""

from __future__ import annotations

import builtins
import functools
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.layers import ShapeSpec
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vitdet_d2.engine.recipe_json import changes, from_json, to_json
from vitdet_d2.engine.recipes import complete, load_recipe, save_resolved
from vitdet_d2.errors import RecipeError
from vitdet_d2.zoo import recipe_names
from vitdet_d2.zoo.recipe_names import find_recipe, own_name
from vitdet_d2.zoo.recipe_names import recipe_names as all_names

PARTS = "model = {'_target_': 'torch.nn.Identity'}\ndataloader = {'a': 1}\n"
WHOLE = PARTS + "optimizer = {'a': 1}\nlr_multiplier = {'a': 1}\n"


@dataclass
class Unnamed:
    a: int


def write(folder: Path, text: str, name: str = "recipe.py") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("COCO/mask_rcnn_vitdet_b", "vitdet_b"),
        ("COCO/mask_rcnn_vitdet_h_75ep", "vitdet_h"),
        ("COCO/cascade_mask_rcnn_vitdet_l_100ep", "cascade_vitdet_l"),
        ("LVIS/mask_rcnn_vitdet_l", "lvis_vitdet_l"),
        ("LVIS/cascade_mask_rcnn_vitdet_h", "lvis_cascade_vitdet_h"),
        ("LVIS/cascade_mask_rcnn_swin_b_in21k_50ep", "lvis_cascade_swin_b"),
        ("COCO/cascade_mask_rcnn_mvitv2_h_in21k_36ep", "cascade_mvitv2_h"),
        ("vitdet_b", "vitdet_b"),
        ("COCO/mask_rcnn_vitdet_x", "COCO/mask_rcnn_vitdet_x"),
    ],
)
def test_detectron2s_names(theirs: str, ours: str) -> None:
    assert own_name(theirs) == ours


def test_names_paths_and_what_is_near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"vitdet_ti", "vitdet_s", "vitdet_b", "vitdet_l", "vitdet_h"} <= set(all_names())
    monkeypatch.chdir(tmp_path)
    named = find_recipe("vitdet_b")
    assert named.name == "vitdet_b.py"
    for name in ("vitdet_b.py", "projects/vitdet_b.py", "COCO/mask_rcnn_vitdet_b_100ep"):
        assert find_recipe(name) == named
    with pytest.raises(RecipeError, match=r"'vitdt_l' not found.*did you mean vitdet_l"):
        find_recipe("vitdt_l")
    write(tmp_path, "", "mine.py")
    assert find_recipe("mine.py") == (tmp_path / "mine.py").resolve()
    with pytest.raises(RecipeError, match=f"did you mean {tmp_path}/mine.py"):
        find_recipe(f"{tmp_path}/mime.py")
    with pytest.raises(RecipeError, match=r"recipes by name: .*vitdet_b"):
        find_recipe("qqqq")
    with pytest.raises(RecipeError, match=r"a.txt is no recipe: a recipe ends in .py"):
        find_recipe(write(tmp_path, "", "a.txt"))


def test_names_are_found_inside_a_wheel_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "vitdet_d2"
    (package / "projects").mkdir(parents=True)
    write(package / "projects", WHOLE, "only_here.py")
    write(package, "", "__init__.py")
    monkeypatch.setattr(recipe_names.vitdet_d2, "__file__", str(package / "__init__.py"))
    assert all_names() == ["only_here"]
    assert find_recipe("only_here").parent == package / "projects"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = (\n", r"recipe.py:1: syntax error: '\(' was never closed"),
        ("a = 1\n\nb = a.nope\n", r"recipe.py:3: AttributeError: 'int' object has no attribute"),
        ("import no_such\n", r"recipe.py:1: ModuleNotFoundError: No module named 'no_such'"),
        ("from .other import x\n", r"other.py:2: ZeroDivisionError: division by zero"),
        ("from .gone import x\n", r"recipe.py:1: ImportError: .*gone.*does not exist"),
        ("import json\njson.loads('{')\n", r"recipe.py:2: JSONDecodeError: Expecting property"),
        (PARTS, r"lacks optimizer, lr_multiplier \(a recipe has model, dataloader"),
    ],
)
def test_bad_recipes_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, "a = 1\nx = 1 / 0\n", "other.py")
    original = builtins.__import__
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert builtins.__import__ is original


def test_missing_pkg_resources_names_the_cures(tmp_path: Path) -> None:
    text = "raise ModuleNotFoundError('No module', name='pkg_resources')\n"
    with pytest.raises(RecipeError, match=r"setuptools<82.*VITDET_D2_RUNTIME=bundled"):
        load_recipe(write(tmp_path, text))


def test_defaults_complete_and_never_replace(tmp_path: Path) -> None:
    text = WHOLE + "train = {'max_iter': 7, 'amp': {'enabled': True}, 'own': 1}\n"
    cfg = load_recipe(write(tmp_path, text), ["train.seed=4", "data.keep_empty=true"])
    assert (cfg.train.max_iter, cfg.train.own, cfg.train.seed) == (7, 1, 4)
    assert cfg.train.amp == {"enabled": True, "dtype": "bf16"}
    assert (cfg.train.eval_period, cfg.train.checkpointer.period) == (5000, 5000)
    assert cfg.data.keep_empty is True
    with pytest.raises(RecipeError, match=r"did you mean 'train\.max_iter'"):
        load_recipe(write(tmp_path, text), ["train.max_itr=5"])
    assert load_recipe(write(tmp_path, PARTS), eval_only=True).data.val_json is None


def test_completing_leaves_the_recipe_and_its_references(tmp_path: Path) -> None:
    own = DictConfig(
        {"train": {"max_iter": 3}, "x": "${train.max_iter}", "y": {"z": "${..x}"}},
        flags={"allow_objects": True},
    )
    completed = complete(own)
    completed.train.max_iter = 9
    assert (completed.x, completed.y.z) == (9, 9)
    assert own == {"train": {"max_iter": 3}, "x": 3, "y": {"z": 3}}


FOREIGN = (
    "os.system",
    "builtins.eval",
    "torch.hub.load",
    "torch.nn.functional.torch.hub.load",
    "detectron2.utils.logger.sys.exit",
    "torch.nn",
)


@pytest.mark.parametrize("name", ["r.yaml", "r.json"])
def test_data_recipes_run_nothing(tmp_path: Path, name: str) -> None:
    def recipe(target: str) -> str:
        text = f'{{"model": {{"_target_": "{target}"}}, "dataloader": {{"a": 1}}}}'
        return write(tmp_path, text, name)

    cfg = load_recipe(recipe("torch.nn.Identity"), eval_only=True)
    assert isinstance(instantiate(cfg.model), nn.Identity)
    for target in FOREIGN:
        with pytest.raises(RecipeError, match=f"model: {target} is outside the packages"):
            load_recipe(recipe(target), eval_only=True)
    with pytest.raises(RecipeError, match=r"model: there is no torch.nn.Nope"):
        load_recipe(recipe("torch.nn.Nope"), eval_only=True)


def test_own_modules_can_be_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '{"model": {"_target_": "fractions.Fraction"}, "dataloader": {"a": 1}}'
    file = write(tmp_path, text, "r.json")
    with pytest.raises(RecipeError, match="set VITDET_D2_TRUSTED_MODULES=fractions"):
        load_recipe(file, eval_only=True)
    monkeypatch.setenv("VITDET_D2_TRUSTED_MODULES", "other, fractions")
    assert instantiate(load_recipe(file, eval_only=True).model) == 0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.yaml", "a: !!python/object/apply:os.getcwd []", r"r.yaml:1: could not determine"),
        ("r.yaml", "- 1", r"must be a mapping, got a list"),
        ("r.yaml", "a: [1", r"r.yaml:\d: .*expected"),
        ("r.json", '{"a": 1,\n b}', r"r.json:2: not JSON: Expecting property name"),
        ("r.json", "[]", "must be a mapping, got a list"),
    ],
)
def test_bad_data_recipes(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, text, name))


def everything() -> DictConfig:
    return DictConfig(
        {
            "model": LazyCall(nn.Conv2d)(
                in_channels=3, out_channels="${..train.max_iter}", kernel_size=(1, 2),
                shape=ShapeSpec(channels=4, stride=2),
                norm=functools.partial(nn.LayerNorm, eps=1e-6), act=nn.GELU, dtype=torch.float16,
                function=nn.functional.gelu, call=LazyCall(nn.Linear)(in_features=1),
            ),
            "dataloader": {1: "one", "x": None, "inf": float("inf")},
            "train": {"max_iter": 4},
        },
        flags={"allow_objects": True},
    )  # fmt: skip


def test_json_is_exact() -> None:
    cfg = everything()
    again = from_json(to_json(cfg), "f")
    assert to_json(again) == to_json(cfg)
    assert again.model.out_channels == 4
    assert OmegaConf.to_container(again)["model"]["out_channels"] == "${..train.max_iter}"
    assert again.model.norm.func is nn.LayerNorm
    assert again.model.norm.keywords == {"eps": 1e-6}
    assert again.model.act is nn.GELU
    assert again.model.dtype is torch.float16
    assert again.model.function is nn.functional.gelu
    assert again.model._target_ == "torch.nn.Conv2d"
    assert (again.model.shape.channels, again.model.shape.stride) == (4, 2)
    assert again.dataloader[1] == "one"
    assert again.dataloader.inf == float("inf")


def test_what_has_no_name_fails_when_it_is_read() -> None:
    text = to_json(DictConfig({"a": {"f": lambda x: x}}, flags={"allow_objects": True}))
    with pytest.raises(RecipeError, match=r"config.json: a.f was .*<lambda> .*has no name"):
        from_json(text, "config.json")


def test_saved_files_describe_the_same_run(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    save_resolved(everything(), tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["config.json", "config.yaml"]
    from_exact = load_recipe(str(tmp_path / "out" / "config.json"), eval_only=True)
    from_readable = load_recipe(str(tmp_path / "out" / "config.yaml"), eval_only=True)
    assert to_json(from_exact) == to_json(from_readable)
    assert from_exact.model.norm.keywords == {"eps": 1e-6}
    assert "in_channels: 3" in (tmp_path / "out" / "config.yaml").read_text()


def test_changes_are_listed_by_key() -> None:
    before, after = everything(), everything()
    after.train.max_iter = 9
    after.train.new = "x"
    assert changes(to_json(before), to_json(after)) == [
        "train.max_iter: 4 -> 9",
        'train.new: none -> "x"',
    ]


@pytest.mark.parametrize("name", ["vitdet_ti", "vitdet_h"])
def test_our_recipes_survive_saving(name: str) -> None:
    cfg = load_recipe(name, ["train.seed=3"])
    again = from_json(to_json(cfg), "f")
    assert to_json(again) == to_json(cfg)
    with torch.device("meta"):
        first, second = instantiate(cfg.model), instantiate(again.model)
    assert [p.shape for p in first.parameters()] == [p.shape for p in second.parameters()]


def test_function_without_a_name_is_the_same_at_every_start(tmp_path: Path) -> None:
    """As in Detectron2's LVIS recipes: a lambda is saved as its place, and is no change."""
    path = write(tmp_path, WHOLE + "model['weights'] = lambda: 3\nmodel['other'] = object()\n")
    first, again = (to_json(load_recipe(path)) for _ in range(2))
    assert changes(first, again) == []
    assert "<lambda> (recipe.py, line 5)" in first
    with pytest.raises(
        RecipeError, match=r"weights was <lambda> \(recipe.py, line 5\).*use the rec"
    ):
        from_json(first, "config.json")
    moved = write(tmp_path, "\n" + WHOLE + "model['weights'] = lambda: 3\n")
    assert any("line 6" in change for change in changes(first, to_json(load_recipe(moved))))


def test_an_option_switched_off_by_null_can_be_overridden(tmp_path: Path) -> None:
    text = WHOLE + "train = {'ema': None, 'clip_grad': None}\n"
    cfg = load_recipe(write(tmp_path, text), ["train.ema.decay=0.99"])
    assert (cfg.train.ema.decay, cfg.train.clip_grad.max_norm) == (0.99, None)

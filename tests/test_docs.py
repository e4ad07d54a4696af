# SPDX-License-Identifier: Apache-2.0
"""The documents: links resolve, commands are valid, no bundled name is left out."""

from __future__ import annotations

import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import detectron2
import pytest

from vitdet_d2 import runtime, zoo
from vitdet_d2.engine.arguments import RunArguments, parse_eval, parse_train
from vitdet_d2.engine.predict_arguments import parse_predict
from vitdet_d2.engine.recipes import load_recipe
from vitdet_d2.engine.tune_arguments import parse_tune
from vitdet_d2.errors import RecipeError
from vitdet_d2.zoo.recipe_names import find_recipe, recipe_names

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]

# Split between modules for our own reasons; not part of Detectron2's interface.
INTERNAL = {
    "config.recipe_files",
    "config.recipe_text",
    "data.federated_weights",
    "evaluation.coco_scoring",
    "modeling.meta_arch.dense_losses",
    "modeling.meta_arch.dense_tower",
    "modeling.meta_arch.image_model",
    "modeling.roi_heads.convolutions",
    "modeling.roi_heads.federated_loss",
    "modeling.roi_heads.sampled_masks",
    "modeling.weight_fill",
    "structures.polygons",
    "utils.drawing",
    "utils.event_writers",
}


def blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Ids that a Markdown viewer gives to the headings."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(text: str) -> list[list[str]]:
    """Arguments of every command of ours in code blocks, from ``train`` or ``eval`` on."""
    ours = (
        r"(^|\s)((vitdet (train|eval)|train_net\.py) .*--config-file"
        r"|vitdet tune \w+ |vitdet predict .*--input)"
    )
    found = []
    for block in blocks(text):
        for line in block.replace("\\\n", " ").splitlines():
            if not re.search(ours, line):
                continue
            words = shlex.split(line, comments=True)
            start = words.index("vitdet") + 1 if "vitdet" in words else words.index("train_net.py")
            command = words[start] if "vitdet" in words else "train"
            found.append([command, *words[start + 1 :]])
    return found


def parse(command: list[str]) -> RunArguments:
    return (parse_eval if command[0] == "eval" else parse_train)(command[1:])


def check_prediction(argv: list[str]) -> None:
    arguments = parse_predict(argv)
    if arguments.model is not None:
        assert zoo.find(arguments.model)
    if arguments.config_file is not None:
        load_recipe(arguments.config_file, arguments.overrides, eval_only=True)


def check_tuning(argv: list[str]) -> None:
    arguments = parse_tune(argv)
    load_recipe(arguments.recipe, arguments.overrides)


def check_command(command: list[str]) -> None:
    if command[0] == "tune":
        check_tuning(command[1:])
        return
    if command[0] == "predict":
        check_prediction(command[1:])
        return
    arguments = parse(command)
    named = arguments.config_file
    if named.startswith(("runs/", "detectron2/")):
        return  # made by a run, or of another project; the arguments were parsed
    load_recipe(named, arguments.overrides, eval_only=arguments.eval_only)


@pytest.mark.parametrize("name", NAMES)
def test_relative_links_resolve(name: str) -> None:
    path = ROOT / name
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    for link in links:
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file) if file else path
        assert target.exists(), f"{name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{name} links to {link}"


@pytest.mark.parametrize("name", NAMES)
def test_commands_name_existing_recipes_and_keys(name: str) -> None:
    for command in commands((ROOT / name).read_text(encoding="utf-8")):
        check_command(command)


def test_commands_are_found_and_mistakes_in_them_too() -> None:
    texts = [path.read_text(encoding="utf-8") for path in FILES]
    assert sum(len(commands(text)) for text in texts) > 15
    text = "```\nX=1 vitdet train --config-file vitdet_ti \\\n    train.max_itr=5  # no\n```\n"
    (command,) = commands(text)
    assert command == ["train", "--config-file", "vitdet_ti", "train.max_itr=5"]
    with pytest.raises(RecipeError, match=r"did you mean 'train\.max_iter'"):
        check_command(command)
    (command,) = commands("```\nvitdet predict --model vitdet_bb --input a --output b\n```\n")
    with pytest.raises(RecipeError, match="vitdet_bb"):
        check_command(command)


def test_every_recipe_by_name_is_documented() -> None:
    text = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    for name in recipe_names():
        assert f"`{name}`" in text, name
        assert find_recipe(name).is_file()


@pytest.mark.skipif(runtime.current().name != "bundled", reason="lists the bundled package")
def test_compatibility_lists_every_bundled_name() -> None:
    text = (ROOT / "docs/compatibility.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.*)$", text, flags=re.MULTILINE))
    missing = []
    for info in pkgutil.walk_packages(detectron2.__path__, "detectron2."):
        module = info.name.removeprefix("detectron2.")
        if module in INTERNAL or module.startswith("model_zoo.configs"):
            continue
        package = module if info.ispkg else module.rpartition(".")[0]
        public = getattr(importlib.import_module(info.name), "__all__", ())
        missing += [f"{module}.{n}" for n in public if f"`{n}`" not in rows.get(package, "")]
    assert not missing

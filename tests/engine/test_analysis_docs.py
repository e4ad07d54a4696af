# SPDX-License-Identifier: Apache-2.0
"""The commands for analysis in the documents are valid."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from vitdet_d2.analysis.published import published_rows
from vitdet_d2.engine import compare_command, errors_command
from vitdet_d2.errors import RecipeError

ROOT = Path(__file__).parents[2]
PARSERS = {"errors": errors_command._parser, "compare": compare_command._parser}


def commands() -> list[list[str]]:
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.match(r"vitdet (errors|compare) ", line):
                found.append(shlex.split(line, comments=True)[1:])
    return found


def test_commands_of_the_documents() -> None:
    words = commands()
    assert {word for word, *_ in words} == set(PARSERS)
    assert len(words) >= 7
    for word, *argv in words:
        parsed = PARSERS[word](f"vitdet {word}").parse_args(argv)
        for name in getattr(parsed, "published", []):
            assert published_rows(name)
    with pytest.raises(RecipeError, match="unrecognized arguments: --iou"):
        PARSERS["errors"]("vitdet errors").parse_args(["a", "b", "--iou", "segm"])


@pytest.mark.parametrize("word", sorted(PARSERS))
def test_every_option_is_documented(word: str) -> None:
    text = (ROOT / f"docs/{word}.md").read_text(encoding="utf-8")
    for action in PARSERS[word]("x")._actions:
        for option in action.option_strings:
            if option not in {"-h", "--help", "--debug"}:
                assert f"`{option}" in text or f"{option} " in text, option

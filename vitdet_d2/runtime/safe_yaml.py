# SPDX-License-Identifier: Apache-2.0
"""YAML that is read without running code, with the numbers that people write.

PyYAML follows YAML 1.1, where ``1e-4`` is a string; here it is a number, as in YAML 1.2.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from vitdet_d2.runtime.safe_arithmetic import evaluate


class _Loader(yaml.SafeLoader):
    """The safe loader, with floats of YAML 1.2, tuples as lists, and repeated keys refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping; a key given twice is a mistake that would pass unseen.

        Args:
            node: of the mapping.
            deep: as PyYAML has it.

        Raises:
            ConstructorError: a key stands twice.
        """
        # "<<" merges another mapping, and is no key.
        nodes = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in nodes]
        repeated = sorted({str(key) for key in keys if keys.count(key) > 1})
        if repeated:
            raise yaml.constructor.ConstructorError(
                None, None, f"found the key {repeated[0]!r} twice", node.start_mark
            )
        return super().construct_mapping(node, deep=deep)


_FLOAT = re.compile(
    r"""[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
           |[0-9][0-9_]*[eE][-+]?[0-9]+
           |\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
           |\.(?:inf|Inf|INF))$
       |\.(?:nan|NaN|NAN)$""",
    re.VERBOSE,
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _sequence(loader: yaml.SafeLoader, node: yaml.Node) -> list[Any]:
    assert isinstance(node, yaml.SequenceNode), "the tag of tuples stands before a list"
    return loader.construct_sequence(node, deep=True)


def _computed(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    try:
        assert isinstance(node, yaml.SequenceNode), "the tag of a call stands before its arguments"
        (text,) = loader.construct_sequence(node, deep=True)
        return evaluate(str(text))
    except ValueError as error:
        problem = f"a computed value may hold arithmetic only: {error}"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


# Detectron2's RetinaNet files compute their anchors so.
_Loader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _computed)

# Detectron2 writes tuples with this tag, which constructs nothing dangerous.
_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _sequence)


def load_yaml(text: str, source: str) -> Any:
    """Return the content of a YAML text.

    Args:
        text: the whole text.
        source: its file, for messages.

    Raises:
        ValueError: it is not YAML, or holds a tag that would run code.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{source}:{mark.line + 1}" if mark is not None else source
        problem = getattr(error, "problem", None) or str(error)
        raise ValueError(
            f"{place}: {problem} (YAML is read safely: plain values, lists and mappings only)"
        ) from error


def parse_value(text: str) -> Any:
    """Return the value of a ``key=value`` override: a YAML scalar, list or mapping.

    What is not YAML of its own, such as a path with a colon at its end, is a plain string.

    Args:
        text: what stands behind the equals sign; empty means the empty string.

    Raises:
        yaml.YAMLError: a bracket or quotation mark is not closed.
    """
    if text == "":
        return ""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        if text.lstrip()[:1] in ("[", "{", '"', "'"):
            raise
        return text

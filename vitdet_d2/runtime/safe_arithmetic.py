# SPDX-License-Identifier: Apache-2.0
"""Numbers that are written as a computation, without running code.

Configurations of Detectron2's kind hold Python expressions such as
``[[x, x * 2**(1.0/3)] for x in [32, 64]]``. What is allowed here: numbers, lists, tuples, the five
arithmetic operators, and a comprehension over a list. Nothing can be called or looked up.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

# What is longer or larger is no configuration, and could take for ever.
MAX_LENGTH = 500
MAX_EXPONENT = 64
MAX_NUMBER = 1e18

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def evaluate(text: str) -> Any:
    """Return the value of an expression.

    Args:
        text: the expression.

    Raises:
        ValueError: it is no expression, or holds more than arithmetic.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"expected at most {MAX_LENGTH} characters, got {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return _value(tree.body, {})
    except (SyntaxError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{text!r} has no value: {error}") from error


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        items = [_value(item, names) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(node.operand, names)
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _binary(node, names)
    if isinstance(node, ast.ListComp):
        return _comprehension(node, names)
    raise ValueError(f"expected numbers, lists and arithmetic, got {ast.unparse(node)!r}")


def _number(node: ast.expr, names: Mapping[str, Any]) -> int | float:
    value = _value(node, names)
    if not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {ast.unparse(node)!r}")
    return value


def _binary(node: ast.BinOp, names: Mapping[str, Any]) -> int | float:
    left, right = _number(node.left, names), _number(node.right, names)
    if isinstance(node.op, ast.Pow) and abs(right) > MAX_EXPONENT:
        raise ValueError(f"expected an exponent up to {MAX_EXPONENT}, got {right}")
    value = _BINARY[type(node.op)](left, right)
    if not isinstance(value, int | float) or not abs(value) <= MAX_NUMBER:
        raise ValueError(f"{ast.unparse(node)!r} is no real number up to {MAX_NUMBER:g}")
    return value


def _comprehension(node: ast.ListComp, names: Mapping[str, Any]) -> list[Any]:
    (part, *more) = node.generators
    is_nested = any(isinstance(inner, ast.ListComp) for inner in ast.walk(node.elt))
    if more or part.ifs or is_nested or not isinstance(part.target, ast.Name):
        raise ValueError("expected one comprehension over one list, without conditions")
    items = _value(part.iter, names)
    if not isinstance(items, list | tuple):
        raise ValueError(f"expected a list, got {ast.unparse(part.iter)!r}")
    return [_value(node.elt, {**names, part.target.id: item}) for item in items]

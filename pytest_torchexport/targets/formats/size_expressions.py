"""Evaluate torch's expressions of sizes with Python's own operators.

Separate because sympy's evaluation takes some ms per guard, and because nothing here knows of dims.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from math import prod
from typing import Any

# The functions of sizes that occur in guards. They take and return whole numbers, fractions and
# truth values; a condition with any other function is left out. Python's own operators, because
# sympy takes some ms per guard.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Add": lambda *parts: sum(parts),
    "Mul": lambda *parts: prod(parts),
    "Pow": operator.pow,
    "FloorDiv": operator.floordiv,
    "CleanDiv": operator.floordiv,
    "IntTrueDiv": Fraction,
    "FloatTrueDiv": Fraction,
    "ToFloat": Fraction,
    "CeilToInt": math.ceil,
    "FloorToInt": math.floor,
    "TruncToInt": math.trunc,
    "RoundToInt": round,
    "Mod": operator.mod,
    "PythonMod": operator.mod,
    "Max": max,
    "Min": min,
    "Equality": operator.eq,
    "Unequality": operator.ne,
    "StrictLessThan": operator.lt,
    "LessThan": operator.le,
    "StrictGreaterThan": operator.gt,
    "GreaterThan": operator.ge,
    "And": lambda *parts: all(parts),
    "Or": lambda *parts: any(parts),
    "Not": operator.not_,
}


class UnknownExpression(Exception):
    """A function of sympy's that ``evaluate`` does not know."""


def evaluate(expr: Any, known: Mapping[Any, int]) -> Any:
    """Return the value of a sympy expression, given those of its symbols.

    Raises UnknownExpression for a function that is not known, ZeroDivisionError as Python does.
    """
    if expr in known:
        return known[expr]
    if getattr(expr, "is_Boolean", False) and not expr.args:
        return bool(expr)
    if getattr(expr, "is_Rational", False):
        return int(expr.p) if expr.q == 1 else Fraction(int(expr.p), int(expr.q))
    if getattr(expr, "is_Float", False):
        return Fraction(float(expr))
    function = _FUNCTIONS.get(type(expr).__name__)
    if function is None:
        raise UnknownExpression(type(expr).__name__)
    parts = [evaluate(part, known) for part in expr.args]
    if function is operator.pow and not 0 <= parts[1] <= 8:
        raise UnknownExpression(str(expr))
    return function(*parts)

"""The language of dims: named sizes, expressions of them, and the sizes they may take.

Imports no torch: a marker's ``shapes`` and ``dims`` are checked while pytest collects.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Any

from pytest_torchexport.results.manifest import sizes_text

ELLIPSIS = "..."
# torch counts sizes in signed integers of 64 bits; offsets must fit beside them.
MAX_SIZE = 2**62

_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod)


@dataclass(frozen=True)
class Expr:
    """One axis of a shape: a size, a dim's name, or an expression of both (``2*time+1``)."""

    text: str

    @property
    def names(self) -> frozenset[str]:
        return frozenset(_compiled(self.text).co_names)

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        """Return the axis's size for the given sizes of dims.

        Raises NameError for a dim that is missing, ValueError if the expression divides by zero.
        """
        try:
            return _value(self.text, sizes)
        except ZeroDivisionError:
            at = ", ".join(f"{name}={sizes[name]}" for name in sorted(self.names))
            raise ValueError(f"{self.text!r} divides by zero at {at}") from None

    def fixed(self, name: str, size: int) -> Expr:
        if name not in self.names:
            return self
        fixed = Expr(re.sub(rf"\b{re.escape(name)}\b", str(size), self.text))
        return fixed if fixed.names else Expr(str(_value(fixed.text, {})))

    def linear(self) -> tuple[str, int, int] | None:
        """Return ``(dim, factor, offset)`` if the expression is linear in one dim, else None.

        >>> Expr("2*time+1").linear()
        ('time', 2, 1)
        """
        if len(self.names) != 1:
            return None
        (name,) = self.names
        try:
            points = [self.evaluate({name: size}) for size in (8, 9, 10, 64)]
        except ValueError:
            return None
        factor = points[1] - points[0]
        offset = points[0] - 8 * factor
        straight = points[2] == 10 * factor + offset and points[3] == 64 * factor + offset
        return (name, factor, offset) if straight else None


Shape = tuple[Expr, ...]


def parse_shape(text: str) -> Shape | None:
    """Return ``"batch 3 2*time"`` as expressions; None for ``"..."``. Raises ValueError.

    >>> [axis.text for axis in parse_shape("batch 3 2*time")]
    ['batch', '3', '2*time']
    """
    if not isinstance(text, str):
        raise ValueError(f"a shape is a string like 'batch 3 height width', not {text!r}")
    if text.strip() == ELLIPSIS:
        return None
    axes = text.split()
    if ELLIPSIS in axes:
        raise ValueError(
            f"in shape {text!r} '...' must stand alone; write the axes out, "
            "'_' for one as in the example"
        )
    for axis in axes:
        try:
            _compiled(axis)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            legal = "a size, a dim's name, or an expression of them with + - * // % ( )"
            raise ValueError(f"in shape {text!r}, {axis!r} is not {legal}") from None
    return tuple(Expr(axis) for axis in axes)


def parse_sizes(name: str, value: Any) -> range | tuple[int, ...]:
    """Return a dim's sizes from ``(low, high)``, a ``range`` or a list. Raises ValueError."""
    if isinstance(value, range):
        sizes: range | tuple[int, ...] = value if value.step > 0 else value[::-1]
    elif isinstance(value, tuple) and len(value) == 2 and all(map(_is_size, value)):
        if value[0] > value[1]:
            raise ValueError(f"dim {name!r}: low {value[0]} is above high {value[1]}")
        sizes = range(value[0], value[1] + 1)
    elif isinstance(value, (list, set, frozenset)) and all(map(_is_size, value)):
        sizes = tuple(sorted(set(value)))
    else:
        torchs = (
            "; dims takes the names of dims (as in shapes), torch's own form goes into "
            f"dynamic_shapes={{{name!r}: ...}}"
        )
        raise ValueError(
            f"dim {name!r}: {value!r} is not (low, high), a range, or a list of whole sizes "
            f"of at least 0{torchs if isinstance(value, Mapping) else ''}"
        )
    if not sizes:
        raise ValueError(f"dim {name!r}: {value!r} holds no size at all")
    if sizes[0] < 0:
        raise ValueError(f"dim {name!r}: size {sizes[0]} is below 0")
    if sizes[-1] > MAX_SIZE:
        raise ValueError(
            f"dim {name!r}: size {sizes[-1]} is above 2**62; legal are sizes from 0 to 2**62"
        )
    return sizes


def written_sizes(sizes: range | tuple[int, ...]) -> str:
    """Return sizes as ``parse_sizes`` takes them: ``(2, 25)``, ``range(2, 25, 2)``, ``[2, 7]``."""
    if isinstance(sizes, range):
        return str((sizes[0], sizes[-1])) if sizes.step == 1 or len(sizes) == 1 else repr(sizes)
    return repr(list(sizes))


@dataclass(frozen=True, kw_only=True)
class Dim:
    """A named size that varies. ``declared``: the user gave its range, else it is assumed."""

    name: str
    sizes: range | tuple[int, ...]
    example: int
    declared: bool

    @property
    def low(self) -> int:
        return self.sizes[0]

    @property
    def high(self) -> int:
        return self.sizes[-1]

    def boundary(self) -> tuple[int, ...]:
        """Return the sizes that are always run: 0 and 1 if legal, min, max, the example's."""
        wanted = (0, 1, self.low, self.high, self.example)
        return tuple(
            sorted({size for size in wanted if size in self.sizes or size == self.example})
        )

    def describe(self) -> str:
        return sizes_text(self.sizes)


def solve(shapes: Sequence[tuple[Shape, Sequence[int]]]) -> dict[str, int]:
    """Return the sizes of dims for which every shape evaluates to its actual sizes.

    Axes that are a single name go first. For a dim that occurs only in expressions, sizes are tried
    one by one. Raises ValueError that names the axis that no size fits.
    """
    sizes: dict[str, int] = {}
    axes = [
        (axis, size, shape)
        for shape, actual in shapes
        for axis, size in zip(shape, actual, strict=True)
    ]
    for axis, size, _ in axes:
        if axis.text in axis.names:
            sizes.setdefault(axis.text, size)
    for axis, size, _ in sorted(axes, key=lambda item: len(item[0].names)):
        open_names = sorted(axis.names - set(sizes))
        if len(open_names) > 1:
            raise ValueError(
                f"{axis.text!r} leaves {' and '.join(map(repr, open_names))} open: "
                "name each dim alone on some axis"
            )
        for name in open_names:
            sizes[name] = _solve_one(axis, size, name, sizes)
    for axis, size, shape in axes:
        value = axis.evaluate(sizes)
        if value != size:
            text = " ".join(item.text for item in shape)
            raise ValueError(
                f"axis {axis.text!r} of shape {text!r} is {value} "
                f"({', '.join(f'{n}={sizes[n]}' for n in sorted(axis.names)) or 'a constant'}), "
                f"but the example has {size}"
            )
    return sizes


def _solve_one(axis: Expr, size: int, name: str, sizes: Mapping[str, int]) -> int:
    for candidate in range(2 * size + 65):
        with suppress(ValueError):  # it divides by zero
            if axis.evaluate({**sizes, name: candidate}) == size:
                return candidate
    raise ValueError(f"no size of {name!r} makes {axis.text!r} equal the example's {size}")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@lru_cache(maxsize=1024)
def _compiled(text: str) -> CodeType:
    """Return an expression of sizes and dims. Raises SyntaxError or ValueError for any other."""
    tree = ast.parse(text, mode="eval")
    for node in ast.walk(tree.body):
        wrong = isinstance(node, ast.Constant) and not _is_size(node.value)
        if wrong or not isinstance(
            node, (ast.BinOp, ast.Name, ast.Constant, ast.expr_context, *_OPERATORS)
        ):
            raise ValueError(type(node).__name__)
    return compile(tree, text, "eval")


def _value(text: str, sizes: Mapping[str, int]) -> int:
    return int(eval(_compiled(text), {"__builtins__": {}}, sizes))  # noqa: S307  # operators alone

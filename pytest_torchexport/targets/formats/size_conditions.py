"""Read a program's facts on sizes as conditions on the dims of the input spec.

Separate from the suspicions: a condition says what must hold, whatever sizes were declared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_torchexport.config.named_dims import Expr
from pytest_torchexport.inputs.spec import InputSpec, TensorLeaf
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.targets.formats.size_expressions import evaluate
from pytest_torchexport.targets.formats.size_facts import Bounds, SizeFacts

Sizes = Mapping[str, int]

# torch.export takes every dynamic size to be at least this; nothing in the program enforces it:
# https://docs.pytorch.org/docs/stable/export/programming_model.html#the-0-1-specialization-problem
TORCHS_LOWEST = 2

STATIC = "the size is static in the file"
AUTO = "Dim.AUTO turned static: the code makes a number of the size"
PINNED = "the code was captured for this size alone"
GUARD = "the code was captured for these sizes only, and a guard says so"
DROPPED = "the code was captured for these sizes only, and the ONNX file drops the guard"
TIED = "the two sizes became one in the program"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Something that must hold for a size to be accepted.

    ``holds`` returns None if it cannot tell; ``numbers`` are those that it compares sizes with.
    """

    dims: tuple[str, ...]
    place: tuple[str, int]
    holds: Callable[[Sizes], bool | None]
    text: str
    why: str
    where: SourceLine | None = None
    numbers: tuple[int, ...] = ()
    static: bool = False
    lowest: bool = False


def conditions(spec: InputSpec, facts: SizeFacts, dropped: bool) -> Iterator[Condition]:
    """Yield what must hold for the sizes of a spec's dims, by the facts of one program.

    ``dropped`` says that the file keeps none of the guards.
    """
    tensors = [
        (leaf, shape)
        for leaf, shape in zip(spec.leaves, _fitting(facts, spec), strict=True)
        if isinstance(leaf, TensorLeaf) and shape is not None and len(shape) == len(leaf.shape)
    ]
    places = _places(spec, facts, tensors)
    why = DROPPED if dropped else GUARD
    auto = spec.dynamic_shapes is not None and "AUTO" in repr(spec.dynamic_shapes)
    lines = {_place_of(source, spec): line for source, line in facts.frozen.items()}
    for leaf, shape in tensors:
        for axis, (expr, size) in enumerate(zip(leaf.shape, shape, strict=True)):
            place = (leaf.path, axis)
            if isinstance(size, int):
                line = lines.get(place)
                yield from _static(place, expr, size, AUTO if auto else STATIC, line)
            else:
                yield from _tied(place, expr, size, places)
    for symbol, bounds in facts.ranges.items():
        place_of = places.get(symbol)
        if place_of is not None and place_of.expr.names:
            yield from _range(place_of, bounds, AUTO if auto else PINNED, why)
    for guard, where in facts.guards:
        condition = _guard(guard, places, why, where)
        if condition is not None:
            yield condition


def _fitting(facts: SizeFacts, spec: InputSpec) -> tuple[tuple[Any, ...] | None, ...]:
    known = len(facts.axes) == len(spec.leaves)
    return facts.axes if known else (None,) * len(spec.leaves)


@dataclass(frozen=True)
class _Place:
    """The axis that a symbol stands for."""

    path: str
    axis: int
    expr: Expr


def _places(
    spec: InputSpec, facts: SizeFacts, tensors: Sequence[tuple[TensorLeaf, tuple[Any, ...]]]
) -> dict[Any, _Place]:
    places: dict[Any, _Place] = {}
    leaves = {leaf.path: leaf for leaf in spec.tensors}
    for symbol, source in facts.sources.items():
        found = _place_of(source, spec)
        leaf = leaves.get(found[0]) if found is not None else None
        if found is not None and leaf is not None and found[1] < len(leaf.shape):
            places[symbol] = _Place(*found, leaf.shape[found[1]])
    for leaf, shape in tensors:
        for axis, size in enumerate(shape):
            if getattr(size, "is_Symbol", False):
                places.setdefault(size, _Place(leaf.path, axis, leaf.shape[axis]))
    return places


_SOURCE = re.compile(r"L\['(\w+)'\](.*)\.size\(\)\[(\d+)\]$")
_FLAT = re.compile(r"\[(\d+)\]$")


def _place_of(source: str, spec: InputSpec) -> tuple[str, int] | None:
    """Return ``("x", 0)`` for torch's ``L['x'].size()[0]``."""
    match = _SOURCE.match(source)
    if match is None:
        return None
    name, rest, axis = match.groups()
    flat = _FLAT.match(rest)
    if name == "flat_args" and flat is not None and int(flat[1]) < len(spec.leaves):
        # strict=True knows the leaves by their number alone.
        return spec.leaves[int(flat[1])].path, int(axis)
    return name + rest, int(axis)


def _static(
    place: tuple[str, int], expr: Expr, size: int, why: str, where: SourceLine | None
) -> Iterator[Condition]:
    if expr.names:
        yield Condition(
            dims=tuple(sorted(expr.names)),
            place=place,
            holds=lambda sizes: expr.evaluate(sizes) == size,
            text=f"{expr.text} == {size}",
            why=why,
            where=where,
            numbers=(size,),
            static=True,
        )


def _tied(
    place: tuple[str, int], expr: Expr, size: Any, places: Mapping[Any, _Place]
) -> Iterator[Condition]:
    """Yield the condition of an axis whose size the program computes from those of other axes."""
    value = _value(size, places)
    if value is None or (size in places and places[size].expr == expr):
        return
    dims = tuple(sorted(expr.names | value.names))
    if dims:
        yield Condition(
            dims=dims,
            place=place,
            holds=lambda sizes: expr.evaluate(sizes) == value.at(sizes),
            text=f"{expr.text} == {value.text}",
            why=TIED,
        )


def _range(place: _Place, bounds: Bounds, pinned: str, why: str) -> Iterator[Condition]:
    expr, low, high = place.expr, bounds.low, bounds.high
    if low is not None and low == high:
        where = bounds.low_at or bounds.high_at
        yield from _static((place.path, place.axis), expr, low, pinned, where)
        return
    # Capture decides branches as if no dynamic size were 0 or 1, whatever range the program shows.
    low = max(low or 0, TORCHS_LOWEST)
    plain = Condition(
        dims=tuple(sorted(expr.names)),
        place=(place.path, place.axis),
        holds=lambda sizes: expr.evaluate(sizes) >= low,
        text=f"{expr.text} >= {low}",
        why=why,
        where=bounds.low_at,
        numbers=tuple(bound for bound in (low, high) if bound is not None),
    )
    yield replace(plain, lowest=low <= TORCHS_LOWEST and not bounds.low_at)
    if high is not None:
        yield replace(
            plain,
            holds=lambda sizes: expr.evaluate(sizes) <= high,
            text=f"{expr.text} <= {high}",
            where=bounds.high_at,
        )


def _guard(
    guard: Any, places: Mapping[Any, _Place], why: str, where: SourceLine | None
) -> Condition | None:
    value = _value(guard, places)
    if value is None or not value.names:
        return None
    first = next(
        place
        for symbol, place in places.items()
        if symbol in guard.free_symbols and place.expr.names
    )
    return Condition(
        dims=tuple(sorted(value.names)),
        place=(first.path, first.axis),
        holds=lambda sizes: bool(value.at(sizes)),
        text=value.text,
        why=why,
        where=where,
        numbers=tuple(int(part) for part in guard.args if getattr(part, "is_Integer", False)),
    )


@dataclass(frozen=True)
class _Value:
    """A sympy expression over the spec's dims."""

    expr: Any
    places: Mapping[Any, _Place]

    @property
    def names(self) -> frozenset[str]:
        """The dims that occur in it."""
        return frozenset().union(
            *(self.places[symbol].expr.names for symbol in self.expr.free_symbols)
        )

    def at(self, sizes: Sizes) -> Any:
        """Return its value. Raises UnknownExpression and ZeroDivisionError."""
        known = {
            symbol: self.places[symbol].expr.evaluate(sizes) for symbol in self.expr.free_symbols
        }
        return evaluate(self.expr, known)

    @property
    def text(self) -> str:
        """The expression as a user would write it: ``Mod(batch, 2) == 0``."""
        import sympy  # type: ignore[import-untyped]

        named = {
            symbol: sympy.Symbol(_grouped(self.places[symbol].expr))
            for symbol in self.expr.free_symbols
        }
        return _text(self.expr.xreplace(named))


def _grouped(expr: Expr) -> str:
    return expr.text if expr.text in expr.names or expr.text.isdigit() else f"({expr.text})"


def _text(expr: Any) -> str:
    sign = _RELATIONS.get(type(expr).__name__)
    if sign is None:
        return str(expr)
    size, bound = expr.args
    if sign in _NEAREST and size.is_Symbol and bound.is_Integer:
        # As the bound of a range says it, so that a guard and a range are seen to be the same.
        return f"{size} {sign}= {bound + _NEAREST[sign]}"
    return f"{size} {sign} {bound}"


def _value(expr: Any, places: Mapping[Any, _Place]) -> _Value | None:
    symbols = getattr(expr, "free_symbols", None)
    if not symbols or any(symbol not in places for symbol in symbols):
        return None
    return _Value(expr, places)


_RELATIONS = {
    "Equality": "==",
    "Unequality": "!=",
    "StrictLessThan": "<",
    "LessThan": "<=",
    "StrictGreaterThan": ">",
    "GreaterThan": ">=",
}
# From a strict bound of a whole number to the nearest number that it takes.
_NEAREST = {"<": -1, ">": 1}

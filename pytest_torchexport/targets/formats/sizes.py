"""Compare what a program says about sizes with the sizes that the input spec declares.

The result is suspicions only: torch's ranges begin at 2 for programs that run well at 0 and 1, and
a guard may be stricter than the graph under it. A call has to show that a size really fails.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice, pairwise, product
from math import prod
from typing import Any

from pytest_torchexport.config.named_dims import Dim, Expr
from pytest_torchexport.inputs.spec import InputSpec, TensorLeaf
from pytest_torchexport.results.source_line import SourceLine

Sizes = Mapping[str, int]

# How many sizes of one dim are evaluated, how many of each of several dims, and how many calls a
# suspicion proposes.
ASKED = 128
ASKED_EACH = 12
WITNESSES = 4
# torch.export takes every dynamic size to be at least this; nothing in the program enforces it:
# https://docs.pytorch.org/docs/stable/export/programming_model.html#the-0-1-specialization-problem
TORCHS_LOWEST = 2

STATIC = "the size is static in the file"
AUTO = "Dim.AUTO turned static: the code makes a number of the size"
PINNED = "the code was captured for this size alone"
GUARD = "the code was captured for these sizes only, and a guard says so"
DROPPED = "the code was captured for these sizes only, and the ONNX file drops the guard"
TIED = "the two sizes became one in the program"
LOWEST = "torch.export takes dynamic sizes to be at least 2"


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """A dim that an artifact may not accept as it was declared or assumed.

    ``path`` and ``axis`` say where it is in the call; ``declared``, ``actual`` and ``why`` are
    parts of a sentence; ``where`` is the user's line that caused it. ``sizes`` are the calls to
    try, each as the dims that differ from the example. ``is_torchs_minimum`` if the reason is only
    that torch.export takes dynamic sizes to be at least 2, as it does in every program; ``taken``
    are then the smallest sizes from 2 on, which this reason leaves legal.
    """

    dim: str
    path: str
    axis: int
    declared: str
    actual: str
    why: str
    where: SourceLine | None
    sizes: tuple[Sizes, ...]
    is_torchs_minimum: bool = False
    taken: Sizes = field(default_factory=dict)


@dataclass(frozen=True)
class Bounds:
    """The range of a symbol, and the user's lines that gave it. None means no bound."""

    low: int | None
    high: int | None
    low_at: SourceLine | None = None
    high_at: SourceLine | None = None


@dataclass(frozen=True, kw_only=True)
class SizeFacts:
    """The facts of one program on sizes, in torch's own symbols.

    ``axes`` are the shapes of the call's leaves in order (None for a leaf that is no tensor).
    ``sources`` say which axis a symbol was made for, in torch's words (``L['x'].size()[0]``), and
    ``frozen`` at which line the size of such an axis became a number.
    """

    axes: tuple[tuple[Any, ...] | None, ...] = ()
    ranges: Mapping[Any, Bounds] = field(default_factory=dict)
    guards: tuple[tuple[Any, SourceLine | None], ...] = ()
    sources: Mapping[Any, str] = field(default_factory=dict)
    frozen: Mapping[str, SourceLine] = field(default_factory=dict)

    @classmethod
    def of_inputs(
        cls,
        shapes: Sequence[Sequence[Any] | None],
        frozen: Mapping[str, SourceLine] | None = None,
    ) -> SizeFacts:
        """Return the facts of a format that has either one size per axis or an open one.

        ``shapes`` are those of the call's leaves (None for a leaf that is no input); on an axis
        with an int, that size alone is taken.
        """
        axes = tuple(
            None if shape is None else tuple(_whole(size) for size in shape) for shape in shapes
        )
        return cls(axes=axes, frozen=frozen or {})

    def as_plain(self) -> dict[str, Any]:
        """Return axes and ranges as JSON, for another process.

        An axis of which only an expression is known becomes None.
        """
        return {
            "axes": [
                None if shape is None else [_plain_size(size) for size in shape]
                for shape in self.axes
            ],
            "ranges": {
                str(symbol): [bounds.low, bounds.high]
                for symbol, bounds in self.ranges.items()
                if symbol.is_Symbol
            },
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> SizeFacts:
        """Return what ``as_plain`` kept. Names become symbols, and nothing is evaluated.

        A file may have written the data itself.
        """
        import sympy  # type: ignore[import-untyped]

        def size(value: Any) -> Any:
            return sympy.Symbol(value) if isinstance(value, str) else _whole(value)

        return cls(
            axes=tuple(
                None if shape is None else tuple(size(value) for value in shape)
                for shape in plain["axes"]
            ),
            ranges={
                sympy.Symbol(str(name)): Bounds(_whole(low), _whole(high))
                for name, (low, high) in plain["ranges"].items()
            },
        )


def _plain_size(size: Any) -> int | str | None:
    if isinstance(size, int):
        return size
    return str(size) if getattr(size, "is_Symbol", False) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


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


def suspicions(spec: InputSpec, *facts: SizeFacts, dropped: bool = False) -> tuple[Suspicion, ...]:
    """Return what the facts of programs make doubtful about the spec's dims. Never raises.

    ``dropped`` says that the file keeps none of the guards.
    """
    try:
        found = [item for each in facts for item in _conditions(spec, each, dropped)]
        return tuple(_suspected(spec, _failing(spec, found)))
    except Exception:  # the metadata of an odd program is no reason to fail the item
        return ()


# -- from facts to conditions ----------------------------------------------------------------------


def _conditions(spec: InputSpec, facts: SizeFacts, dropped: bool) -> Iterator[Condition]:
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


# -- torch's expressions ---------------------------------------------------------------------------


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
        import sympy

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


# -- from conditions to suspicions -----------------------------------------------------------------


@dataclass(frozen=True)
class _Failing:
    """A condition with the sizes that break it."""

    condition: Condition
    sizes: tuple[Sizes, ...]
    lowest: bool


def _failing(spec: InputSpec, conditions: Iterable[Condition]) -> list[_Failing]:
    found, seen = [], set()
    # A condition may occur twice, once with the user's line.
    for condition in sorted(conditions, key=lambda item: (not item.static, not item.where)):
        key = (condition.dims, condition.text)
        if key in seen or any(name not in spec.dims for name in condition.dims):
            continue
        seen.add(key)
        broken = tuple(
            sizes for sizes in _asked(spec, condition) if _ask(condition, sizes) is False
        )
        if broken:
            tiny = not condition.where and not condition.static and _only_tiny(broken)
            found.append(_Failing(condition, broken, condition.lowest or tiny))
    return found


def _only_tiny(broken: Sequence[Sizes]) -> bool:
    """Return True if it is broken only where a size is 0 or 1: torch specializes on these."""
    return all(min(sizes.values()) < TORCHS_LOWEST for sizes in broken)


def _ask(condition: Condition, sizes: Sizes) -> bool | None:
    try:
        return condition.holds(sizes)
    except (UnknownExpression, ArithmeticError, ValueError, KeyError, TypeError):
        return None


def _asked(spec: InputSpec, condition: Condition) -> list[dict[str, int]]:
    """Return the sizes of its dims at which to evaluate a condition."""
    names, dims = condition.dims, [spec.dims[name] for name in condition.dims]
    if len(dims) == 1:
        some = _some(dims[0], ASKED, condition.numbers)
        asked = _with_edges(dims[0], some, lambda size: _ask(condition, {names[0]: size}))
        return [{names[0]: size} for size in asked]
    each = [_some(dim, ASKED_EACH, condition.numbers) for dim in dims]
    if len(dims) == 2:
        return [dict(zip(names, sizes, strict=True)) for sizes in product(*each)]
    example = {dim.name: dim.example for dim in dims}
    return [
        {**example, dim.name: size} for dim, sizes in zip(dims, each, strict=True) for size in sizes
    ]


def _some(dim: Dim, most: int, numbers: Iterable[int]) -> list[int]:
    """Return all sizes of a dim if they are few.

    Else its ends, the sizes next to the example and to these numbers, and an even spread.
    """
    if len(dim.sizes) <= most:
        return list(dim.sizes)
    about = (number + step for number in (dim.example, *numbers) for step in (-1, 0, 1))
    near = {size for size in about if size in dim.sizes}
    ends = {*dim.sizes[:3], *dim.sizes[-2:]}
    step = max(len(dim.sizes) // max(most - len(near | ends), 1), 1)
    return sorted(near | ends | set(dim.sizes[::step]))


def _with_edges(dim: Dim, some: Sequence[int], ask: Callable[[int], bool | None]) -> list[int]:
    """Return these sizes, and between any two with another answer those next to its change."""
    found, sizes = set(some), dim.sizes
    for low, high in pairwise(some):
        answer, first, last = ask(low), sizes.index(low), sizes.index(high)
        if ask(high) == answer:
            continue
        while last - first > 1:
            middle = (first + last) // 2
            first, last = (middle, last) if ask(sizes[middle]) == answer else (first, middle)
        found |= {sizes[first], sizes[last]}
    return sorted(found)


def _suspected(spec: InputSpec, failing: Sequence[_Failing]) -> list[Suspicion]:
    """Return one suspicion per dims and line of the user's, the surest first."""
    groups: dict[tuple[Any, ...], list[_Failing]] = {}
    for item in failing:
        condition = item.condition
        key = (condition.dims, item.lowest, None if item.lowest else condition.where)
        groups.setdefault(key, []).append(item)
    static = {item.condition.dims for item in failing if item.condition.static}
    ranked = sorted(groups.values(), key=_rank)
    return [
        _suspicion(spec, group, failing)
        for group in ranked
        # A dim that is one number in the file gets no second suspicion.
        if group[0].condition.dims not in static or any(item.condition.static for item in group)
    ]


def _rank(group: Sequence[_Failing]) -> tuple[bool, ...]:
    return (
        not any(item.condition.static for item in group),
        group[0].lowest,
        not group[0].condition.where,
    )


def _suspicion(
    spec: InputSpec, group: Sequence[_Failing], failing: Sequence[_Failing]
) -> Suspicion:
    first = next((item for item in group if item.condition.static), group[0])
    condition = first.condition
    dim = spec.dims[_subject(spec, condition)]
    actual = _actual(spec, dim, condition, group, failing)
    texts = list(dict.fromkeys(item.condition.text for item in group))
    why = LOWEST if first.lowest else condition.why
    if not condition.static and not first.lowest and texts != [actual]:
        why = f"{why}: {' and '.join(texts[:2])}"
    return Suspicion(
        dim=dim.name,
        path=condition.place[0],
        axis=condition.place[1],
        declared=f"{'declared' if dim.declared else 'assumed'} {dim.describe()}",
        actual=actual,
        why=why,
        where=condition.where,
        sizes=_witnesses(spec, group),
        is_torchs_minimum=first.lowest,
        taken=_taken(spec, condition.dims) if first.lowest else {},
    )


def _taken(spec: InputSpec, names: Sequence[str]) -> Sizes:
    """Return for each dim the smallest size from torch's minimum on that is not the example's."""
    found: dict[str, int] = {}
    for name in names:
        dim = spec.dims[name]
        # A range may be astronomically long: only its beginning is looked at.
        others = (n for n in dim.sizes if n >= TORCHS_LOWEST and n != dim.example)
        found.update((name, size) for size in islice(others, 1))
    return found


def _subject(spec: InputSpec, condition: Condition) -> str:
    """Return the dim to name; of several, the one that is alone on its axis."""
    leaf = next(leaf for leaf in spec.tensors if leaf.path == condition.place[0])
    own = leaf.shape[condition.place[1]].names & set(condition.dims)
    return min(own) if own else condition.dims[0]


def _actual(
    spec: InputSpec,
    dim: Dim,
    condition: Condition,
    group: Sequence[_Failing],
    failing: Sequence[_Failing],
) -> str:
    if len(condition.dims) > 1:
        other = next(name for name in condition.dims if name != dim.name)
        plain = {f"{dim.name} == {other}", f"{other} == {dim.name}"}
        texts = [item.condition.text for item in group]
        return f"equal to {other!r}" if plain & set(texts) else texts[0]
    # Sizes that other lines forbid are other suspicions, except torch's lowest: it is in each
    # range.
    asked = [item for item in failing if item.condition.dims == condition.dims]
    bounds = [item.condition for item in (*group, *(i for i in asked if i.condition.lowest))]
    numbers = [number for bound in bounds for number in bound.numbers]

    def taken(size: int) -> bool:
        return all(_ask(bound, {dim.name: size}) is not False for bound in bounds)

    some = _with_edges(dim, _some(dim, ASKED, numbers), taken)
    sizes = [size for size in some if taken(size)]
    texts = list(dict.fromkeys(item.condition.text for item in group))
    return _listed(dim, some, sizes, " and ".join(texts[:2]))


def _listed(dim: Dim, some: Sequence[int], sizes: Sequence[int], otherwise: str) -> str:
    """Return ``4 only``, ``2..4``, ``2 or more``, or ``otherwise``."""
    if not sizes:
        return "no size that is declared"
    if len(sizes) == 1:
        return f"{sizes[0]} only"
    if [size for size in some if sizes[0] <= size <= sizes[-1]] != list(sizes):
        return otherwise
    if sizes[-1] == dim.high:
        return f"{sizes[0]} or more"
    return f"{sizes[0]}..{sizes[-1]}"


def _witnesses(spec: InputSpec, group: Sequence[_Failing]) -> tuple[Sizes, ...]:
    """Return a few of the sizes that break the conditions: next to the example, and the ends."""
    examples = {name: spec.dims[name].example for name in group[0].condition.dims}

    def changed(sizes: Sizes) -> dict[str, int]:
        moved = {name: size for name, size in sizes.items() if size != examples[name]}
        # If the user's example is 0 or 1, the exporter got another one, so the user's may fail too.
        return moved or dict(sizes)

    def distance(sizes: Sizes) -> tuple[Any, ...]:
        tiny = any(size < TORCHS_LOWEST for size in sizes.values())
        off = sum(abs(size - examples[name]) for name, size in sizes.items())
        return tiny, len(changed(sizes)), off, [-size for size in sizes.values()]

    each = [sorted(item.sizes, key=distance) for item in group]
    # Several conditions in one line, or in none: the nearest that breaks each.
    nearest = [sizes[0] for sizes in sorted(each, key=lambda sizes: distance(sizes[0]))]
    broken = [sizes for item in each for sizes in item]
    by_size = sorted(broken, key=lambda sizes: sum(sizes.values()))
    near = sorted(broken, key=distance)
    picked = [*_unlike(nearest)[:2], near[1 % len(near)], by_size[-1], by_size[0], *near]
    unique = {tuple(sorted(changed(sizes).items())): changed(sizes) for sizes in picked}
    return tuple(unique.values())[:WITNESSES]


def _unlike(items: Iterable[Sizes]) -> list[Sizes]:
    return list({tuple(item.items()): item for item in items}.values())

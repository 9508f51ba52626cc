"""Read what a program says about the sizes of its inputs, beside the dims of the input spec.

The result is suspicions only: torch's ranges begin at 2 for programs that run well at 0 and 1, and
a guard may be stricter than the graph under it. A call has to show that a size really fails.
``torch_private/symbolic_sizes.py`` reads torch's ShapeEnv; if torch has changed, nothing is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

import torch

from pytest_torchexport.config.named_dims import Expr
from pytest_torchexport.inputs.spec import InputSpec, TensorLeaf
from pytest_torchexport.outcomes.errors import chain
from pytest_torchexport.outcomes.torch_state import exports_observed
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.torch_private.symbolic_sizes import (
    called_lines,
    environment_of,
    frozen_lines,
    guards_of,
    range_lines,
    ranges_of,
    shape_environment,
    sources_of,
)

Sizes = Mapping[str, int]

# torch.export takes every dynamic size to be at least this; nothing in the program enforces it:
# https://docs.pytorch.org/docs/stable/export/programming_model.html#the-0-1-specialization-problem
TORCHS_LOWEST = 2
# Sizes of each kind: the smallest, odd and even, a multiple of 8, a prime.
KINDS = (0, 1, 2, 3, 8, 13)
# Of a dim with so many sizes each is asked: sympy takes up to a ms for one, of two dims for a pair.
FEW = 16
# How many calls a suspicion proposes: the nearest two that may fail, the largest, the smallest.
WITNESSES = 4

STATIC = "the size is static in the file"
AUTO = "Dim.AUTO turned static: the code makes a number of the size"
PINNED = "the code was captured for this size alone"
GUARD = "the code was captured for these sizes only, and a guard says so"
DROPPED = "the code was captured for these sizes only, and the file drops the guard"
TIED = "the two sizes became one in the program"
LOWEST = "torch.export takes dynamic sizes to be at least 2"


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """A restriction that a program states, and that sizes of the input spec break.

    ``dim`` is the one to name, ``path`` and ``axis`` where it is in the call. ``text`` is what has
    to hold, ``why`` whence; ``where`` is the user's line that caused it, ``caller`` the one that
    called torch's own code which did. ``sizes`` are the calls to try, each as the dims that differ
    from the example. ``is_torchs_minimum`` if the reason is only that torch.export takes dynamic
    sizes to be at least 2, as it does in every program; ``taken`` are then calls at the smallest
    sizes from 2 on, which this reason leaves legal.
    """

    dim: str
    path: str
    axis: int
    text: str
    why: str
    where: SourceLine | None
    sizes: tuple[Sizes, ...]
    caller: SourceLine | None = None
    is_torchs_minimum: bool = False
    taken: tuple[Sizes, ...] = ()


# -- what a program says ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SizeFacts:
    """The sizes that one program states, in torch's own symbols.

    ``axes`` are the shapes of the call's leaves in order (None for a leaf that is no tensor), of
    whole numbers, expressions, and None for a size of which nothing is known. ``ranges`` are the
    bounds of symbols, ``lines`` the user's lines that gave the lower and the upper one. ``sources``
    say which axis a symbol was made for, in torch's words (``L['x'].size()[0]``), and ``frozen`` at
    which line the size of such an axis became a number. ``callers`` are the lines that called
    torch's own code, by the guard, bound of a symbol or axis that it decided.
    """

    axes: tuple[tuple[Any, ...] | None, ...] = ()
    ranges: Mapping[Any, tuple[int | None, ...]] = field(default_factory=dict)
    lines: Mapping[Any, tuple[SourceLine | None, SourceLine | None]] = field(default_factory=dict)
    guards: Sequence[tuple[Any, SourceLine | None]] = ()
    sources: Mapping[Any, str] = field(default_factory=dict)
    frozen: Mapping[str, SourceLine] = field(default_factory=dict)
    callers: Mapping[Any, SourceLine] = field(default_factory=dict)

    @classmethod
    def of_inputs(
        cls, shapes: Sequence[Sequence[Any] | None], frozen: Mapping[str, SourceLine] | None = None
    ) -> SizeFacts:
        """Return the facts of a format that has either one size per axis or an open one.

        ``shapes`` are those of the call's leaves (None for a leaf that is no input); on an axis
        with an int, that size alone is taken.
        """
        axes = tuple(shape if shape is None else tuple(map(_whole, shape)) for shape in shapes)
        return cls(axes=axes, frozen=frozen or {})

    @classmethod
    def captured(cls, program: Any) -> SizeFacts:
        """Return the facts of an ExportedProgram about the sizes of its inputs. Never raises."""
        try:
            stated = cls._of(shape_environment(program), program.range_constraints)
            return replace(stated, axes=_input_shapes(program))
        except Exception:  # another torch keeps it elsewhere: nothing is known then
            return cls()

    @classmethod
    def refused(cls, error: BaseException) -> SizeFacts:
        """Return the facts of an export that torch refused which come from a line of the user's.

        Never raises.
        """
        try:
            environment = environment_of(chain(error))
            stated = cls._of(environment, ranges_of(environment))
            ranges = {
                symbol: tuple(
                    bound if line else None
                    for bound, line in zip(bounds, stated.lines[symbol], strict=True)
                )
                for symbol, bounds in stated.ranges.items()
            }
            guards = [(guard, where) for guard, where in stated.guards if where]
            return replace(stated, ranges=ranges, guards=guards)
        except Exception:  # as above
            return cls()

    @classmethod
    def _of(cls, environment: Any, ranges: Mapping[Any, Any]) -> SizeFacts:
        # Everything is at least 0.
        bounds = {s: (_bound(of.lower) or None, _bound(of.upper)) for s, of in ranges.items()}
        return cls(
            ranges=bounds,
            lines={symbol: range_lines(environment, symbol) for symbol in ranges},
            guards=guards_of(environment),
            sources=sources_of(environment),
            frozen=frozen_lines(environment),
            callers=called_lines(environment),
        )

    def as_plain(self) -> dict[str, Any]:
        """Return axes and ranges as JSON, for another process; expressions become None."""

        def plain(size: Any) -> int | str | None:
            return str(size) if getattr(size, "is_Symbol", False) else _whole(size)

        return {
            "axes": [shape if shape is None else [*map(plain, shape)] for shape in self.axes],
            "ranges": {
                str(symbol): [*bounds] for symbol, bounds in self.ranges.items() if symbol.is_Symbol
            },
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> SizeFacts:
        """Return the facts that ``as_plain`` wrote. Names become symbols, and nothing is evaluated.

        A file may have written the data itself.
        """
        import sympy  # type: ignore[import-untyped]

        def size(value: Any) -> Any:
            return sympy.Symbol(value) if isinstance(value, str) else _whole(value)

        return cls(
            axes=tuple(
                shape if shape is None else tuple(map(size, shape)) for shape in plain["axes"]
            ),
            ranges={
                sympy.Symbol(str(name)): (_whole(low), _whole(high))
                for name, (low, high) in plain["ranges"].items()
            },
        )


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _bound(value: Any) -> int | None:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return number if abs(number) < 2**31 else None


def _input_shapes(program: Any) -> tuple[tuple[Any, ...] | None, ...]:
    """Return the shape of each leaf of the call, in numbers and sympy expressions."""
    from torch.export.graph_signature import InputKind

    values = {
        node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"
    }

    def size_of(size: Any) -> Any:
        if isinstance(size, int):
            return size
        expr = size.node.expr
        return int(expr) if expr.is_Integer else expr

    inputs = program.graph_signature.input_specs
    given = [values.get(item.arg.name) for item in inputs if item.kind == InputKind.USER_INPUT]
    return tuple(
        tuple(map(size_of, value.shape)) if isinstance(value, torch.Tensor) else None
        for value in given
    )


@contextmanager
def captures() -> Iterator[list[SizeFacts]]:
    """Collect what ``torch.export`` says about sizes within the block, refused attempts included.

    The ONNX exporter drops guards and the lines at which sizes became numbers; the programs that it
    captures on the way have both. The program that was captured last comes first.
    """
    seen: list[SizeFacts] = []
    with exports_observed(
        lambda program: seen.insert(0, SizeFacts.captured(program)),
        lambda error: seen.append(SizeFacts.refused(error)),
    ):
        yield seen


# -- beside the input spec -------------------------------------------------------------------------


def suspicions(spec: InputSpec, *facts: SizeFacts, dropped: bool = False) -> tuple[Suspicion, ...]:
    """Return the dims of the spec that the facts of programs make doubtful. Never raises.

    ``dropped`` says that the file keeps none of the guards. The surest come first, and a dim that
    is one number in the file gets no second suspicion.
    """
    try:
        stated = [each for one in facts for each in _stated(spec, one, dropped)]
        # One may be stated twice, once with the user's line.
        stated.sort(key=lambda each: (not each.static, not each.where, not each.caller))
        unique = {(each.dims, each.text): each for each in reversed(stated)}
        pairs = [(each, _suspicion(spec, each)) for each in unique.values()]
    except Exception:  # the metadata of an odd program is no reason to fail the item
        return ()
    doubtful = [(each, doubt) for each, doubt in pairs if doubt is not None]
    static = {each.dims for each, _ in doubtful if each.static}
    kept = [(each, doubt) for each, doubt in doubtful if each.static or each.dims not in static]
    kept.sort(key=lambda pair: (not pair[0].static, pair[1].is_torchs_minimum, not pair[1].where))
    return tuple(doubt for _, doubt in kept)


@dataclass(frozen=True)
class _Place:
    """The axis that a symbol stands for."""

    path: str
    axis: int
    expr: Expr


@dataclass(frozen=True, kw_only=True)
class _Stated:
    """A relation that has to hold, in sympy's symbols, and the axis that each of these stands for.

    ``static``: one number is the only size. ``lowest``: it bounds a size from below by as much as
    torch bounds each.
    """

    relation: Any
    places: Mapping[Any, _Place]
    why: str
    where: SourceLine | None
    caller: SourceLine | None = None
    static: bool = False
    lowest: bool = False

    @cached_property
    def dims(self) -> tuple[str, ...]:
        return tuple(sorted({name for at in self.places.values() for name in at.expr.names}))

    @cached_property
    def text(self) -> str:
        """As a user would write it: ``Mod(batch, 2) == 0``."""
        import sympy

        named = {}
        for symbol, at in self.places.items():
            plain = at.expr.text in at.expr.names or at.expr.text.isdigit()
            alone = plain or symbol in self.relation.args
            named[symbol] = sympy.Symbol(at.expr.text if alone else f"({at.expr.text})")
        whole = self.relation.xreplace(named)
        sign = {"Equality": "==", "Unequality": "!="}.get(type(whole).__name__)
        return f"{whole.args[0]} {sign} {whole.args[1]}" if sign else str(whole)

    def holds(self, sizes: Sizes) -> bool:
        import sympy

        known = {s: sympy.Integer(at.expr.evaluate(sizes)) for s, at in self.places.items()}
        return bool(self.relation.xreplace(known))


def _stated(spec: InputSpec, facts: SizeFacts, dropped: bool) -> Iterator[_Stated]:
    """Yield the statements of one program about the spec's dims."""
    import sympy

    axes = facts.axes if len(facts.axes) == len(spec.leaves) else (None,) * len(spec.leaves)
    tensors = [
        (leaf, shape)
        for leaf, shape in zip(spec.leaves, axes, strict=True)
        if isinstance(leaf, TensorLeaf) and shape is not None and len(shape) == len(leaf.shape)
    ]
    places = _places(spec, facts, tensors)
    auto = spec.dynamic_shapes is not None and "AUTO" in repr(spec.dynamic_shapes)
    why = DROPPED if dropped else GUARD
    lines, callers = (
        {_place_of(source, spec): line for source, line in told.items() if isinstance(source, str)}
        for told in (facts.frozen, facts.callers)
    )
    size = sympy.Dummy()  # of an axis, whatever torch says of its symbol
    for leaf, shape in tensors:
        for axis, (expr, stated) in enumerate(zip(leaf.shape, shape, strict=True)):
            at, here = _Place(leaf.path, axis, expr), (leaf.path, axis)
            if isinstance(stated, int):
                is_number, pinned = sympy.Eq(size, stated), AUTO if auto else STATIC
                asked = lines.get(here), callers.get(here)
                yield from _about(is_number, {size: at}, pinned, *asked, static=True)
            elif stated is not None and places.get(stated, at).expr != expr:
                yield from _about(sympy.Eq(size, stated), {size: at, **places}, TIED, None)
    for symbol, (low, high) in facts.ranges.items():
        if symbol not in places:
            continue
        about = {size: places[symbol]}
        callers_of = [facts.callers.get((symbol, end)) for end in (0, 1)]
        low_at, high_at = facts.lines.get(symbol, (None, None))
        if low is not None and low == high:
            pinned, line = AUTO if auto else PINNED, low_at or high_at
            yield from _about(sympy.Eq(size, low), about, pinned, line, callers_of[1], static=True)
            continue
        # Capture decides branches as if no dynamic size were 0 or 1, whatever range it shows.
        least = max(low or 0, TORCHS_LOWEST)
        lowest = least == TORCHS_LOWEST and low_at is None
        yield from _about(sympy.Ge(size, least), about, why, low_at, callers_of[0], lowest=lowest)
        if high is not None:
            yield from _about(sympy.Le(size, high), about, why, high_at, callers_of[1])
    for guard, where in facts.guards:
        yield from _about(guard, places, why, where, facts.callers.get(guard))


def _about(
    relation: Any,
    places: Mapping[Any, _Place],
    why: str,
    where: SourceLine | None,
    caller: SourceLine | None = None,
    **kind: bool,
) -> Iterator[_Stated]:
    """Yield the statement of a relation; nothing unless all its symbols are sizes of the call's."""
    symbols = getattr(relation, "free_symbols", None)
    if not symbols or not symbols <= places.keys():
        return
    own = {symbol: at for symbol, at in places.items() if symbol in symbols}
    stated = _Stated(relation=relation, places=own, why=why, where=where, caller=caller, **kind)
    if stated.dims:
        yield stated


def _places(
    spec: InputSpec, facts: SizeFacts, tensors: Sequence[tuple[TensorLeaf, tuple[Any, ...]]]
) -> dict[Any, _Place]:
    places: dict[Any, _Place] = {}
    leaves = {leaf.path: leaf for leaf in spec.tensors}
    for symbol, source in facts.sources.items():
        path, axis = _place_of(source, spec) or ("", 0)
        if path in leaves and axis < len(leaves[path].shape):
            places[symbol] = _Place(path, axis, leaves[path].shape[axis])
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


# -- which sizes to try ----------------------------------------------------------------------------


def _suspicion(spec: InputSpec, stated: _Stated) -> Suspicion | None:
    """Return the suspicion if sizes of the spec's dims break what is stated."""
    if any(name not in spec.dims for name in stated.dims):
        return None
    broken = []
    for sizes in _tried(spec, stated):
        # Raised if nobody can tell.
        with suppress(ArithmeticError, ValueError, KeyError, TypeError):
            if not stated.holds(sizes):
                broken.append(sizes)
    if not broken:
        return None
    tiny = all(min(sizes.values()) < TORCHS_LOWEST for sizes in broken)
    lowest = stated.lowest or (tiny and not stated.where and not stated.static)
    at = next(iter(stated.places.values()))
    return Suspicion(
        dim=min(at.expr.names or stated.dims),
        path=at.path,
        axis=at.axis,
        text=stated.text,
        why=LOWEST if lowest else stated.why,
        where=stated.where,
        sizes=_witnesses(spec, broken),
        caller=stated.caller,
        is_torchs_minimum=lowest,
        taken=_taken(spec, stated.dims) if lowest else (),
    )


def _tried(spec: InputSpec, stated: _Stated) -> Iterator[dict[str, int]]:
    """Yield sizes of its dims: of two dims all pairs, of more one at a time.

    Of a dim all sizes if they are few, else its ends, the sizes beside the example and beside the
    numbers that it is compared with, and one of each kind.
    """
    dims = [spec.dims[name] for name in stated.dims]
    numbers = [int(part) for part in stated.relation.atoms() if part.is_Integer]
    some = []
    for dim in dims:
        about = (n + step for n in (dim.example, *numbers) for step in (-1, 0, 1))
        wanted = {*dim.sizes[:2], *dim.sizes[-2:], *about, *KINDS}
        few = len(dim.sizes) <= FEW
        some.append(list(dim.sizes) if few else sorted(n for n in wanted if n in dim.sizes))
    if len(dims) <= 2:
        yield from (dict(zip(stated.dims, pair, strict=True)) for pair in product(*some))
        return
    example = {dim.name: dim.example for dim in dims}
    for dim, sizes in zip(dims, some, strict=True):
        yield from ({**example, dim.name: size} for size in sizes)


def _witnesses(spec: InputSpec, broken: Sequence[Sizes]) -> tuple[Sizes, ...]:
    """Return the sizes nearest to the example, the largest and the smallest."""

    def changed(sizes: Sizes) -> dict[str, int]:
        moved = {name: n for name, n in sizes.items() if n != spec.dims[name].example}
        # If the user's example is 0 or 1, the exporter got another one, so the user's may fail too.
        return moved or dict(sizes)

    def distance(sizes: Sizes) -> tuple[bool, int, int]:
        tiny = any(size < TORCHS_LOWEST for size in sizes.values())
        off = sum(abs(size - spec.dims[name].example) for name, size in sizes.items())
        return tiny, len(changed(sizes)), off

    near = sorted(broken, key=distance)
    by_size = sorted(broken, key=lambda sizes: sum(sizes.values()))
    picked = [*near[:2], by_size[-1], by_size[0], *near]
    unique = {tuple(sorted(changed(sizes).items())): changed(sizes) for sizes in picked}
    return tuple(unique.values())[:WITNESSES]


def _taken(spec: InputSpec, names: Sequence[str]) -> tuple[Sizes, ...]:
    """Return calls at the two smallest sizes of each dim from torch's minimum on.

    Without the example's. Of two sizes in a row, one is odd.
    """
    found: list[dict[str, int]] = [{}, {}]
    for name in names:
        dim = spec.dims[name]
        others = [n for n in dim.sizes[:5] if n >= TORCHS_LOWEST and n != dim.example]
        for sizes, size in zip(found, others, strict=False):
            sizes[name] = size
    return tuple(sizes for sizes in found if sizes)

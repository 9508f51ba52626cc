"""Compare what a program says about sizes with the sizes that the input spec declares.

The result is suspicions only: torch's ranges begin at 2 for programs that run well at 0 and 1, and
a guard may be stricter than the graph under it. A call has to show that a size really fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, product
from typing import Any

from pytest_torchexport.config.named_dims import Dim
from pytest_torchexport.inputs.spec import InputSpec
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.targets.formats.size_conditions import (
    TORCHS_LOWEST,
    Condition,
    Sizes,
    conditions,
)
from pytest_torchexport.targets.formats.size_expressions import UnknownExpression
from pytest_torchexport.targets.formats.size_facts import SizeFacts

# How many sizes of one dim are evaluated, how many of each of several dims, and how many calls a
# suspicion proposes.
ASKED = 128
ASKED_EACH = 12
WITNESSES = 4
LOWEST = "torch.export takes dynamic sizes to be at least 2"


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """A dim that an artifact may not accept as it was declared or assumed.

    ``path`` and ``axis`` say where it is in the call; ``declared``, ``actual`` and ``why`` are
    parts of a sentence; ``where`` is the user's line that caused it. ``sizes`` are the calls to
    try, each as the dims that differ from the example. ``is_torchs_minimum`` if the reason is only
    that torch.export takes dynamic sizes to be at least 2, as it does in every program; ``taken``
    are then calls at the smallest sizes from 2 on, which this reason leaves legal.
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
    taken: tuple[Sizes, ...] = ()


def suspicions(spec: InputSpec, *facts: SizeFacts, dropped: bool = False) -> tuple[Suspicion, ...]:
    """Return what the facts of programs make doubtful about the spec's dims. Never raises.

    ``dropped`` says that the file keeps none of the guards.
    """
    try:
        found = [item for each in facts for item in conditions(spec, each, dropped)]
        return tuple(_suspected(spec, _failing(spec, found)))
    except Exception:  # the metadata of an odd program is no reason to fail the item
        return ()


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
        taken=_taken(spec, condition.dims) if first.lowest else (),
    )


def _taken(spec: InputSpec, names: Sequence[str]) -> tuple[Sizes, ...]:
    """Return calls at the two smallest sizes of each dim from torch's minimum on.

    Without the example's. Of two sizes in a row, one is odd.
    """
    found: list[dict[str, int]] = [{}, {}]
    for name in names:
        dim = spec.dims[name]
        # A range may be astronomically long: only its beginning is looked at.
        others = (n for n in dim.sizes if n >= TORCHS_LOWEST and n != dim.example)
        for sizes, size in zip(found, islice(others, 2), strict=False):
            sizes[name] = size
    return tuple(sizes for sizes in found if sizes)


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

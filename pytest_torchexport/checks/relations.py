"""The step ``relations``: the user says what outputs keep when a call is changed.

Rows one by one give what they give together, rows in another order the same in that order, and so
on. Eager is asked first, then the artifact on the same calls. Raises RelationBroken; SpecError if
the calls have nothing that the relation is about; ArtifactRaised and the like if the artifact does
not return. What could not be asked is a warning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from pytest_torchexport.config.named_dims import Dim
from pytest_torchexport.config.options import Padding
from pytest_torchexport.config.validate import nearest
from pytest_torchexport.inputs.axes import BATCH
from pytest_torchexport.inputs.pytrees import flatten, is_plain
from pytest_torchexport.inputs.recipes import (
    Recipe,
    describe_recipe,
    example_recipe,
    plain_recipe,
)
from pytest_torchexport.inputs.spec import Call, InputSpec, TensorLeaf
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.judge import failure_of
from pytest_torchexport.judge.log import UNTIL_SHRUNK
from pytest_torchexport.outcomes.compare import compare_values
from pytest_torchexport.outcomes.observe import Outcome, Returned
from pytest_torchexport.results.diagnosis import Diagnosis
from pytest_torchexport.results.failures import RelationBroken, SpecError
from pytest_torchexport.results.verdict import Difference

# So many rows of a call are run alone: the first ones and the last one.
ALONE = 3
# The largest size that is run, by its place among the legal ones.
FURTHEST = 7

# Returns what an output of the other call is to be: by its number, and the output of both calls.
Part = Callable[[int, Any, Any], Any]


@dataclass(frozen=True)
class Pair:
    """A call, and another one that is made of it; ``sides``: the other one's name, then its own."""

    call: Call
    other: Call
    part: Part
    sides: tuple[str, str]
    which: str = ""


# Returns the pairs of a call, by the sizes of its dims.
Pairs = Callable[[Call, Mapping[str, int]], Iterator[Pair]]


def require(case: Case) -> None:
    wanted = case.plan.options.relations or ()
    if wanted and case.reference.random:
        case.log.caution("relations: not asked, forward is random")
        return
    for relation in wanted:
        with case.log.timed("relations"):
            _require(case, relation)


def _require(case: Case, relation: str | Padding) -> None:
    spec = case.spec
    dim, pairs = "", _twice
    if isinstance(relation, Padding):
        mask, dim = _mask(spec, relation)
        pairs = partial(_padded, spec, mask, dim, keeps=relation.keeps)
    elif relation != "twice":
        dim = _rows(spec)
        pairs = partial(_alone if relation == "rows alone" else _permuted, case, dim)
    asked = 0
    for found in case.calls(_recipes(spec, dim, case.plan.seed)):
        for pair in pairs(found.call, spec.all_sizes(found.recipe.sizes)):
            if case.deadline.is_past(UNTIL_SHRUNK):
                case.log.caution(f"{relation}: asked of {asked} calls, then the time was used")
                return
            text = describe_recipe(spec, found.recipe, found.call)
            asked += _holds(case, str(relation), pair, text)
    if not asked:
        case.log.caution(f"{relation}: not asked, eager takes no two calls that are to agree")


def _recipes(spec: InputSpec, dim: str, seed: int) -> Iterator[Recipe]:
    """Yield recipes at several sizes of a dim, and at the least and largest of the others."""
    own = [{dim: size} for size in _sizes(spec.dims[dim])[1:]] if dim else [{}]
    others = [each for each in spec.dims.values() if each.name != dim]
    ends = [
        {each.name: size for each, size in zip(others, sizes, strict=True)}
        for sizes in zip(*((each.low, each.high) for each in others), strict=True)
    ]
    yield example_recipe(spec)
    for sizes in (*own, *({**own[-1], **end} for end in ends)):
        yield plain_recipe(spec, "normal", spec.all_sizes(sizes), seed)


def _sizes(dim: Dim) -> list[int]:
    """Return the first legal sizes of a dim, the example's, and a larger one."""
    few = dim.sizes[: FURTHEST + 1]
    return sorted({*few[:3], few[-1], dim.example} - {0})


# -- pairs of calls --------------------------------------------------------------------------------


def _twice(call: Call, _: Mapping[str, int]) -> Iterator[Pair]:
    yield Pair(call, call, lambda _, whole, __: whole, ("once", "again"))


def _rows(spec: InputSpec) -> str:
    """Return the dim of the batch: under this name, or that of the first tensor's first axis."""
    first = next((leaf.shape[0].text for leaf in spec.tensors if leaf.shape), "")
    dim = next((name for name in (BATCH, first) if name in spec.dims), None)
    if dim is None or not _sizes(spec.dims[dim])[1:]:
        raise SpecError(
            "relations: no size of these calls is that of rows, and varies: say which with "
            "shapes={'x': 'batch 3'} and dims={'batch': (1, 8)}"
        )
    return dim


def _alone(case: Case, dim: str, call: Call, sizes: Mapping[str, int]) -> Iterator[Pair]:
    rows, few = sizes[dim], _sizes(case.spec.dims[dim])[0]
    axes = _axes(case, dim, call, rows, few)
    starts = dict.fromkeys((*range(ALONE - 1), rows - few))
    for start in [start for start in starts if 0 <= start <= rows - few] if any(axes) else ():
        taken = range(start, start + few)
        which = f"row {start} of {rows}" if few == 1 else f"rows {start} to {taken[-1]} of {rows}"
        other = _with_rows(case.spec, dim, call, taken, rows)
        yield Pair(call, other, partial(_of_rows, axes, taken, rows), ("alone", "together"), which)


def _permuted(case: Case, dim: str, call: Call, sizes: Mapping[str, int]) -> Iterator[Pair]:
    rows = sizes[dim]
    axes = _axes(case, dim, call, rows, _sizes(case.spec.dims[dim])[0])
    for order in [range(rows)[::-1], [*range(1, rows), 0]] if any(axes) else ():
        other = _with_rows(case.spec, dim, call, order, rows)
        which = f"{rows} rows as {', '.join(map(str, order[:4]))}{', ...' * (rows > 4)}"
        yield Pair(
            call, other, partial(_of_rows, axes, order, rows), ("permuted", "in order"), which
        )


def _axes(case: Case, dim: str, call: Call, rows: int, few: int) -> list[Sequence[int]]:
    """Return for each output the axes that have rows: their size is another with fewer rows."""
    fewer = _with_rows(case.spec, dim, call, range(few), rows)
    outcomes = [case.reference.on_cpu(each) for each in (call, fewer)]
    values = [flatten(each.value)[0] for each in outcomes if isinstance(each, Returned)]
    if len(values) < 2 or len(values[0]) != len(values[1]) or rows == few:
        return []
    return [
        [
            axis
            for axis, (size, less) in enumerate(zip(whole.shape, part.shape, strict=False))
            if size != less and size * few == less * rows
        ]
        if is_plain(whole) and is_plain(part)
        else []
        for (_, whole), (_, part) in zip(*values, strict=True)
    ]


def _with_rows(spec: InputSpec, dim: str, call: Call, taken: Sequence[int], rows: int) -> Call:
    leaves = dict(spec.flatten(call))
    for leaf in spec.tensors:
        axes = [axis for axis, size in enumerate(leaf.shape) if dim in size.names]
        leaves[leaf.path] = _selected(leaves[leaf.path], axes, taken, rows)
    return Call(*spec.structure.unflatten(leaves.values()))


def _selected(
    tensor: torch.Tensor, axes: Sequence[int], taken: Sequence[int], rows: int
) -> torch.Tensor:
    for axis in axes:
        each = tensor.shape[axis] // rows
        places = [row * each + place for row in taken for place in range(each)]
        tensor = tensor.index_select(axis, torch.tensor(places, device=tensor.device))
    return tensor


def _of_rows(
    axes: Sequence[Sequence[int]],
    taken: Sequence[int],
    rows: int,
    number: int,
    whole: Any,
    other: Any,
) -> Any:
    """Return the rows of an output; of one without rows, as of a mean of all, nothing is said."""
    fits = is_plain(whole) and whole.dim() > max(axes[number], default=whole.dim())
    return _selected(whole, axes[number], taken, rows) if fits else other


def _mask(spec: InputSpec, padding: Padding) -> tuple[TensorLeaf, str]:
    """Return the leaf that says what is padding, and the dim that is padded. Raises SpecError."""
    tensors = {leaf.path: leaf for leaf in spec.tensors}
    leaf = tensors.get(padding.mask)
    if leaf is None:
        raise SpecError(
            f"relations: {padding.mask!r} is no tensor of this call; legal: "
            f"{', '.join(tensors)}.{nearest(padding.mask, tensors)}"
        )
    last = leaf.shape[-1].text if leaf.shape else ""
    dim = padding.dim or last
    if dim not in spec.dims or not _sizes(spec.dims[dim])[1:]:
        raise SpecError(
            f"relations: {padding}: the size that is padded must vary: name it in shapes= and "
            f"dims=, and here with dim= if it is not the last axis of {padding.mask}"
        )
    return leaf, dim


def _padded(
    spec: InputSpec,
    mask: TensorLeaf,
    dim: str,
    call: Call,
    sizes: Mapping[str, int],
    *,
    keeps: bool,
) -> Iterator[Pair]:
    """Yield the call with its end masked, beside the call without that end.

    A mask without the padded dim holds lengths.
    """
    shorter = [size for size in _sizes(spec.dims[dim]) if size < sizes[dim]]
    for size in shorter[-1:]:
        leaves = dict(spec.flatten(call))
        given = leaves[mask.path] = leaves[mask.path].detach().clone()
        axes = [axis for axis, of in enumerate(mask.shape) if dim in of.names]
        kept, left_out = (1, 0) if keeps else (0, 1)
        if mask.domain.choices and min(mask.domain.choices) < 0:  # it is added to scores
            kept, left_out = 0, min(mask.domain.choices)
        given.fill_(kept if axes else size)
        at = {**sizes, dim: size}
        for axis in axes[-1:]:
            short = mask.at(at)[axis]
            given.narrow(axis, short, given.shape[axis] - short).fill_(left_out)
        whole = Call(*spec.structure.unflatten(leaves.values()))
        for leaf in spec.tensors:
            for axis, length in enumerate(leaf.at(at)):
                leaves[leaf.path] = leaves[leaf.path].narrow(axis, 0, length)
        other = Call(*spec.structure.unflatten(leaves.values()))
        which = f"{dim} = {size}, padded to {sizes[dim]}"
        yield Pair(whole, other, _beginning, ("short", "padded"), which)


def _beginning(_: int, whole: Any, other: Any) -> Any:
    if not (is_plain(whole) and is_plain(other) and whole.dim() == other.dim()):
        return whole
    for axis, size in enumerate(other.shape):
        whole = whole.narrow(axis, 0, min(size, whole.shape[axis]))
    return whole


# -- what they return ------------------------------------------------------------------------------


def _holds(case: Case, relation: str, pair: Pair, text: str) -> bool:
    """Return True if a relation holds of a pair of calls, False if eager does not return from both.

    Raises RelationBroken, or the failure of an artifact that does not return.
    """
    judge, eager, calls = case.judge, case.reference, (pair.other, pair.call)
    if pair.other is pair.call:
        wanted, found = (
            [outcome for outcome, _ in side.in_a_row(calls)] for side in (eager, judge)
        )
    else:
        wanted = [eager.on_device(each, eager.on_cpu(each)) for each in calls]
        found = []
    one, whole = wanted
    if not (isinstance(one, Returned) and isinstance(whole, Returned)):
        return False
    which = f", {pair.which}" if pair.which else ""
    broken = partial(RelationBroken, details=(f"call: {text}",), sides=pair.sides)
    differences = judge.differences([pair.other], one, _part(pair, one, whole))
    if differences:
        raise broken(
            f"the model itself breaks {relation!r}{which}",
            differences=tuple(differences),
            diagnosis=Diagnosis(owner="model"),
        )
    found = found or [judge.run(each) for each in calls]
    for call, expected, outcome in zip(calls, wanted, found, strict=True):
        assert isinstance(expected, Returned)
        if not isinstance(outcome, Returned):
            failure = failure_of(judge.differences([call], expected, outcome), {})
            if failure is not None:
                raise failure
            return False
    raise_for = _differing(case, pair, one, found)
    if raise_for:
        raise broken(
            f"{case.plan.target} breaks {relation!r}, which eager keeps{which}",
            differences=tuple(raise_for),
        )
    return True


def _differing(
    case: Case, pair: Pair, expected: Returned, found: Sequence[Outcome]
) -> Sequence[Difference]:
    """Return how the artifact's outcomes of both calls differ, if it is more than rounding.

    Eager keeps the relation: then one of them differs from eager's.
    """
    one, whole = found
    assert isinstance(one, Returned)
    assert isinstance(whole, Returned)
    part = _part(pair, one, whole)
    differences = compare_values(one.value, part.value, case.judge.tolerance)
    proved = differences and any(
        case.judge.differences([pair.other], expected, outcome) for outcome in (part, one)
    )
    return differences if proved else ()


def _part(pair: Pair, one: Returned, whole: Returned) -> Returned:
    """Return the outcome that the other call is to have by that of the whole one."""
    leaves, structure = flatten(whole.value)
    others = flatten(one.value)[0]
    if len(leaves) != len(others):
        return dataclasses.replace(one, value=whole.value)
    values = [
        pair.part(number, leaf, other)
        for number, ((_, leaf), (_, other)) in enumerate(zip(leaves, others, strict=True))
    ]
    return dataclasses.replace(one, value=structure.unflatten(values))

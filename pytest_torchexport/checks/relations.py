"""The step ``relations``: the user says what outputs keep when a call is changed.

Rows one by one give what they give together, rows in another order the same in that order, and so
on. Eager is asked first, then the artifact on the same calls. Raises RelationBroken; SpecError if
the calls have nothing that the relation is about; ArtifactRaised and the like if the artifact does
not return. What could not be asked is a warning.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from pytest_torchexport.config.options import Padding
from pytest_torchexport.config.validate import nearest
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.inputs.axes import BATCH
from pytest_torchexport.inputs.pytrees import flatten, is_plain, leaves_of
from pytest_torchexport.inputs.recipes import (
    Recipe,
    describe_recipe,
    example_recipe,
    plain_recipe,
)
from pytest_torchexport.inputs.spec import Call, InputSpec, TensorLeaf
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.judge import Judge, failure_of
from pytest_torchexport.judge.log import UNTIL_SHRUNK
from pytest_torchexport.outcomes.compare import compare_values
from pytest_torchexport.outcomes.observe import Outcome, Returned
from pytest_torchexport.results.diagnosis import Diagnosis
from pytest_torchexport.results.failures import RelationBroken, SpecError


@dataclass(frozen=True)
class Pair:
    """A call, and another one that is made of it.

    ``part`` returns what an output of the other call is to be, by its number and the output of both
    calls. ``sides`` are the names of the other call and of the call itself.
    """

    call: Call
    other: Call
    part: Callable[[int, Any, Any], Any]
    sides: tuple[str, str]
    which: str


# Returns the pairs of a call, by the sizes of its dims.
Pairs = Callable[[Call, Mapping[str, int]], Iterator[Pair]]


def require(case: Case) -> None:
    """Raise RelationBroken if a relation that the user requires does not hold."""
    wanted, spec = case.plan.options.relations or (), case.spec
    if wanted and case.reference.random:
        case.log.caution("relations: not asked, forward is random")
        return
    for relation in wanted:
        asked = 0
        dim, pairs = _pairs(case, relation)
        with case.log.timed("relations"):
            for found in case.calls(_recipes(spec, dim, case.plan.seed)):
                text = describe_recipe(spec, found.recipe, found.call)
                for pair in pairs(found.call, spec.all_sizes(found.recipe.sizes)):
                    if case.deadline.is_past(UNTIL_SHRUNK):
                        told = f"asked of {asked} calls, then the time was used"
                        case.log.caution(f"{relation}: {told}")
                        return
                    asked += _holds(case, str(relation), pair, text)
        if not asked:
            case.log.caution(f"{relation}: not asked, eager takes no two calls that are to agree")


def _recipes(spec: InputSpec, dim: str, seed: int) -> Iterator[Recipe]:
    """Yield recipes at several sizes of a dim, and at the least and largest of the others."""
    own = [{dim: size} for size in _sizes(spec, dim)[1:]] or [{}]
    others = {name: each for name, each in spec.dims.items() if name != dim}
    low, high = ({name: getattr(at, end) for name, at in others.items()} for end in ("low", "high"))
    yield example_recipe(spec)
    for sizes in (*own, *([own[-1] | low, own[-1] | high] if others else [])):
        yield plain_recipe(spec, "normal", spec.all_sizes(sizes), seed)


def _sizes(spec: InputSpec, dim: str) -> list[int]:
    """Return the first legal sizes of a dim, the example's, and a larger one; none without it."""
    if dim not in spec.dims:
        return []
    few = spec.dims[dim].sizes[:8]
    return sorted({*few[:3], few[-1], spec.dims[dim].example} - {0})


# -- pairs of calls --------------------------------------------------------------------------------


def _pairs(case: Case, relation: str | Padding) -> tuple[str, Pairs]:
    """Return the dim that a relation is about, and what makes the pairs. Raises SpecError."""
    spec = case.spec
    if relation == "twice":
        twice = ("once", "again")
        return "", lambda call, _: iter([Pair(call, call, lambda _, whole, __: whole, twice, "")])
    if isinstance(relation, Padding):
        leaf = next((leaf for leaf in spec.tensors if leaf.path == relation.mask), None)
        if leaf is None:
            paths = [each.path for each in spec.tensors]
            raise SpecError(
                f"relations: {relation.mask!r} is no tensor of this call; legal: "
                f"{', '.join(paths)}.{nearest(relation.mask, paths)}"
            )
        dim = relation.dim or (leaf.shape[-1].text if leaf.shape else "")
        pairs = partial(_padded, spec, leaf, dim, relation.keeps)
        missing = "the size that is padded: name it in shapes=, and as dim= of Padding if need be"
    else:
        first = next((leaf.shape[0].text for leaf in spec.tensors if leaf.shape), "")
        dim = BATCH if BATCH in spec.dims else first
        pairs = partial(_of_rows, case, dim, relation == "rows permuted")
        missing = "the number of rows: say which with shapes={'x': 'batch 3'}"
    if len(_sizes(spec, dim)) < 2:
        raise SpecError(f"relations: {relation}: no size varies that is {missing}")
    return dim, pairs


def _of_rows(
    case: Case, dim: str, permuted: bool, call: Call, sizes: Mapping[str, int]
) -> Iterator[Pair]:
    rows, few = sizes[dim], _sizes(case.spec, dim)[0]
    axes = _axes(case, dim, call, rows, few)
    if not any(axes):
        return
    last = rows - few  # beside the first two rows
    starts = sorted({start for start in (0, 1, last) if start <= last})
    each = [range(start, start + few) for start in starts]
    for taken in ([*range(rows)][::-1], [*range(1, rows), 0]) if permuted else each:

        def part(number: int, whole: Any, other: Any, taken: Sequence[int] = taken) -> Any:
            # Of an output without rows, such as a mean of all, nothing is said. Among longer rows,
            # one may be padded to their length.
            if not axes[number]:
                return other
            return _unpadded(number, _selected(whole, axes[number], taken, rows), other)

        other = _with_rows(case.spec, dim, call, taken, rows)
        named = ", ".join(map(str, taken[:4])) + ", ..." * (len(taken) > 4)
        which = f", row{'s' * (len(taken) > 1)} {named} of {rows}"
        sides = ("permuted", "in order") if permuted else ("alone", "together")
        yield Pair(call, other, part, sides, which)


def _axes(case: Case, dim: str, call: Call, rows: int, few: int) -> list[Sequence[int]]:
    """Return for each output the axes that have rows: with fewer rows, their size is another."""
    fewer = _with_rows(case.spec, dim, call, range(few), rows)
    outcomes = [case.reference.on_cpu(each) for each in (call, fewer)]
    values = [leaves_of(each.value) for each in outcomes if isinstance(each, Returned)]
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
        for whole, part in zip(*values, strict=True)
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


def _padded(
    spec: InputSpec,
    mask: TensorLeaf,
    dim: str,
    keeps: bool,
    call: Call,
    sizes: Mapping[str, int],
) -> Iterator[Pair]:
    """Yield the call with its end masked, beside the call without that end.

    A mask without the dim that is padded holds lengths.
    """
    for size in [size for size in _sizes(spec, dim) if size < sizes[dim]][-1:]:
        at = {**sizes, dim: size}
        leaves = dict(spec.flatten(call))
        given = leaves[mask.path] = leaves[mask.path].detach().clone()
        kept, left_out = (1, 0) if keeps else (0, 1)
        if mask.domain.choices and min(mask.domain.choices) < 0:  # it is added to scores
            kept, left_out = 0, min(mask.domain.choices)
        axes = [axis for axis, length in enumerate(mask.shape) if dim in length.names]
        given.fill_(kept if axes else size)
        for axis in axes[-1:]:
            short = mask.at(at)[axis]
            given.narrow(axis, short, given.shape[axis] - short).fill_(left_out)
        whole = Call(*spec.structure.unflatten(leaves.values()))
        for leaf in spec.tensors:
            leaves[leaf.path] = _beginning(leaves[leaf.path], leaf.at(at))
        other = Call(*spec.structure.unflatten(leaves.values()))
        which = f", {dim} = {size} padded to {sizes[dim]}"
        yield Pair(whole, other, _unpadded, ("short", "padded"), which)


def _unpadded(_: int, whole: Any, other: Any) -> Any:
    both = is_plain(whole) and is_plain(other) and whole.dim() == other.dim()
    return _beginning(whole, other.shape) if both else whole


def _beginning(tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    for axis, size in enumerate(shape):
        tensor = tensor.narrow(axis, 0, min(size, tensor.shape[axis]))
    return tensor


# -- what they return ------------------------------------------------------------------------------


def _holds(case: Case, relation: str, pair: Pair, text: str) -> bool:
    """Return True if a relation holds of a pair of calls, False if eager does not return from both.

    Raises RelationBroken, or the failure of an artifact that does not return.
    """
    judge, calls = case.judge, (pair.other, pair.call)
    one, whole = _outcomes(pair, case.reference, lambda call: _in_eager(case, call))
    if not (isinstance(one, Returned) and isinstance(whole, Returned)):
        return False
    broken = partial(RelationBroken, details=(f"call: {text}",), sides=pair.sides)
    differences = judge.differences(calls[:1], one, _part(pair, one, whole))
    if differences:
        raise broken(
            f"the model itself breaks {relation!r}{pair.which}",
            differences=tuple(differences),
            diagnosis=Diagnosis(owner="model"),
        )
    found = _outcomes(pair, judge, judge.run)
    for call, wanted, outcome in zip(calls, (one, whole), found, strict=True):
        if not isinstance(outcome, Returned):
            failure = failure_of(judge.differences([call], wanted, outcome), {})
            if failure is not None:
                raise failure
            return False
    part = _part(pair, *found)
    differences = compare_values(found[0].value, part.value, judge.tolerance)
    # Eager keeps it: where the artifact does not, one of both outcomes is not eager's.
    if differences and any(judge.differences(calls[:1], one, each) for each in (part, found[0])):
        raise broken(
            f"{case.plan.target} breaks {relation!r}, which eager keeps{pair.which}",
            differences=tuple(differences),
        )
    return True


def _in_eager(case: Case, call: Call) -> Outcome:
    return case.reference.on_device(call, case.reference.on_cpu(call))


def _outcomes(pair: Pair, side: Reference | Judge, run: Callable[[Call], Outcome]) -> list[Any]:
    """Return the outcomes of the other call and of the call; of one and the same, in a row."""
    if pair.other is pair.call:
        return [outcome for outcome, _ in side.in_a_row([pair.call] * 2)]
    return [run(pair.other), run(pair.call)]


def _part(pair: Pair, one: Returned, whole: Returned) -> Returned:
    """Return the outcome that the other call is to have by that of the whole one."""
    leaves, structure = flatten(whole.value)
    others = leaves_of(one.value)
    if len(leaves) != len(others):
        return dataclasses.replace(one, value=whole.value)
    triples = zip(itertools.count(), leaves, others, strict=False)
    values = [pair.part(number, leaf, other) for number, (_, leaf), other in triples]
    return dataclasses.replace(one, value=structure.unflatten(values))

"""Sweep a number of a call through its values, and run a program on all of them at once.

Beside a tensor of the run that depends on the number there is a batch, a tensor for each value:
each operator also runs on the batches, by ``torch.func.vmap``. Values for which all comparisons
come out alike are a group. Few random calls are in a group of few values, or in one that eager
takes for a part of a larger group and the artifact does not. Between two neighbours of different
groups more values are tried: what is equal to a bound lies between what is less and what is more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_torchexport.explore.moves import range_of
from pytest_torchexport.explore.operator_run import OperatorRuns
from pytest_torchexport.explore.thresholds import BUCKETING
from pytest_torchexport.inputs.pytrees import tree_map
from pytest_torchexport.inputs.spec import Call, InputSpec, TensorLeaf
from pytest_torchexport.outcomes.limits import TimeLimitExceeded
from pytest_torchexport.outcomes.observe import Returned, observe
from pytest_torchexport.outcomes.operators import Operation, operations, tensors_among
from pytest_torchexport.torch_private.dispatcher import only_in_batches

# The values of a float.
FLOATS = 2**16
# Floats without a bound are swept so many times the example's root mean square to either side.
SCALES = 4.0
# The elements that an operator makes for all values, at most, and all operators: half a second.
BY_OPERATOR, IN_ALL = 2**23, 2**26
# Values of groups with a larger share of them are drawn anyway.
RARE = 0.01
# Groups of which a call is made.
GROUPS = 8
# Values between two neighbours of different groups.
BETWEEN = 63
# Integers on either side of one at which a group ends, that one number has beside all others there.
BESIDE = 512


def values_of(leaf: TensorLeaf, *, numel: int) -> Tensor:
    """Return ascending values of a number of a leaf with ``numel``: all integers, if not many."""
    domain, most = leaf.domain, BY_OPERATOR // numel
    low, high = range_of(leaf)
    if domain.kind == "float":
        far = SCALES * domain.scale
        low, high = -far if domain.low is None else low, far if domain.high is None else high
        most = min(FLOATS, most)
    elif high - low < most:
        return torch.arange(low, high + 1).to(leaf.dtype)
    return torch.linspace(low, high, most, dtype=torch.float64).to(leaf.dtype)


def leaves(
    programs: Sequence[Followed], leaf: Tensor, values: Tensor, one: int
) -> Iterator[Tensor]:
    """Yield the leaf with one of its numbers, or all of them, at values of rare groups.

    Integers have no slopes. Where all numbers of an integer leaf reach the end of a group, one of
    them alone is moved by up to ``BESIDE``: a sum that all of them pass by is met so.
    """
    alone, most = slice(one, one + 1), len(values)
    yield from _through(programs, leaf, alone, values, most)[0]
    found, ends = _through(programs, leaf, slice(None), values, most)
    yield from found
    for end in ends[:GROUPS] if not leaf.is_floating_point() else ():
        low, high = max(end - BESIDE, int(values[0])), min(end + BESIDE, int(values[-1]))
        near = torch.arange(low, high + 1).to(leaf.dtype)
        yield from _through(programs, torch.full_like(leaf, end), alone, near, most)[0]


def _through(
    programs: Sequence[Followed], leaf: Tensor, place: slice, values: Tensor, most: int
) -> tuple[list[Tensor], list[int]]:
    """Return the leaf with values of rare groups at a place, and the values at which groups end."""

    def grouped(values: Tensor) -> Tensor:
        return torch.stack([groups(each, leaf, place, values, most) for each in programs])

    sides = grouped(values)
    parts = torch.arange(1, BETWEEN + 1, dtype=torch.float64) / (BETWEEN + 1)
    last = _ends(sides)
    # Values between the pairs of neighbours.
    low, high = values[last].unsqueeze(1), values[last + 1].unsqueeze(1)
    steps = (high.double() - low.double()) * parts
    made = (low.double() + steps).to(values.dtype)
    more = made[(made > low) & (made < high)]
    if 0 < len(more) <= most:
        values, order = torch.cat([values, more]).sort()
        sides = torch.cat([sides, grouped(more)], 1)[:, order]
    found = []
    for each in rare(sides):
        changed = leaf.clone(memory_format=torch.contiguous_format)
        changed.view(-1)[place] = values[each]
        found.append(changed)
    return found, values[_ends(sides)].tolist()


def _ends(sides: Tensor) -> Tensor:
    """Return the position of the last value of each group but the last one."""
    return (sides[:, 1:] != sides[:, :-1]).any(0).nonzero().flatten()


def rare(sides: Tensor) -> list[int]:
    """Return a position of each rare group, of what the sides group differently first.

    ``sides`` are the groups of each value in one program or two, int64[programs, values].
    """
    joint = torch.zeros_like(sides[0])
    least = torch.full(joint.shape, math.inf, dtype=torch.float64)
    for side in sides:
        _, group, count = torch.unique(side, return_inverse=True, return_counts=True)
        least = least.minimum(count[group].double())
        joint = joint * len(side) + group
    _, group, count = torch.unique(joint, return_inverse=True, return_counts=True)
    first = torch.empty_like(count).scatter_(0, group.flip(0), torch.arange(len(joint)).flip(0))
    share = (count / least[first]).tolist()
    order = sorted(range(len(count)), key=lambda each: (share[each], int(count[each])))
    return [int(first[each]) for each in order if count[each] <= RARE * len(joint)][:GROUPS]


@dataclass(frozen=True)
class Followed:
    """A run: the leaf that is swept, and the operators that depend on it, with their results.

    There is none behind the last one that decides.
    """

    leaf: Tensor
    steps: tuple[tuple[Operation, Any], ...]


def follow(runs: OperatorRuns, spec: InputSpec, call: Call, path: str) -> Followed | None:
    """Run a program and follow a leaf; None if it raises, or the call has no such leaf."""
    made_of: dict[int, Tensor] = {}  # by id, and so kept alive
    steps: list[tuple[Operation, Any]] = []
    function = runs.fresh()

    def keep(operation: Operation) -> Any:
        result = operation.run()
        depends = any(id(tensor) in made_of for tensor in tensors_among(_given(operation)))
        if depends and operation.name:  # torch.cond has no schema, and takes functions
            steps.append((operation, result))
            made_of.update({id(tensor): tensor for tensor in tensors_among([result])})
        return result

    def run(*args: Any, **kwargs: Any) -> Any:
        leaf = dict(spec.flatten(Call(args, kwargs)))[path]
        made_of[id(leaf)] = leaf
        with operations(keep):
            return function(*args, **kwargs)

    outcome = observe(run, call, seed=runs.seed, grad_mode=runs.grad_mode)
    runs.done()
    if not isinstance(outcome, Returned):
        return None
    last = max((number for number, step in enumerate(steps) if _decides(*step)), default=-1)
    return Followed(next(iter(made_of.values())), tuple(steps[: last + 1]))


def groups(followed: Followed, leaf: Tensor, place: slice, values: Tensor, most: int) -> Tensor:
    """Return the group of each value, int64[values], as the elements ``place`` of the leaf.

    Operators are followed that take ``most`` values, so that the groups of several sweeps are of
    the same operators.
    """
    batch = leaf.detach().reshape(1, -1).repeat(len(values), 1)
    batch[:, place] = values.unsqueeze(1)
    # The batches of the run's tensors, by the tensors' ids.
    held = {id(followed.leaf): batch.reshape(-1, *leaf.shape)}
    found, left = torch.zeros(len(values), dtype=torch.int64), IN_ALL
    # Not within the run: functorch's batches are above the dispatch mode.
    with only_in_batches(), torch.no_grad():
        for number, (operation, result) in enumerate(followed.steps):
            results = list(tensors_among([result]))
            elements = most * sum(tensor.numel() for tensor in results)
            if not any(id(tensor) in held for tensor in tensors_among(_given(operation))):
                continue
            fits = elements <= min(BY_OPERATOR, left)
            left -= elements * fits
            batches = _in_batches(operation, held) if fits else None
            if batches is None:
                for tensor in tensors_among(operation.written):
                    held.pop(id(tensor), None)
                continue
            for tensor, each in zip(results, batches, strict=False):
                held[id(tensor)] = each
                if _decides(operation, tensor):
                    outcomes = each.reshape(len(values), -1).long()
                    for greater in batches[len(results) :]:
                        outcomes += 2 * greater.reshape(outcomes.shape)
                    generator = torch.Generator().manual_seed(number)  # other factors for each
                    factors = torch.randint(2**62, (outcomes.shape[1],), generator=generator)
                    found += (outcomes * factors).sum(1)
    return found


def _in_batches(operation: Operation, held: Mapping[int, Tensor]) -> list[Tensor] | None:
    """Return the batches of an operator's results; of an equality, then that of what is greater.

    None if it does not take the batches of its operands.
    """
    if not all(id(tensor) in held for tensor in tensors_among(operation.written)):
        return None
    given = list(tensors_among(_given(operation)))
    equality = operation.row.symbol in ("==", "!=")

    def run(*tensors: Tensor) -> Any:
        others = iter(tensors)
        args, rest = tree_map(
            lambda value: next(others) if isinstance(value, Tensor) else value,
            _given(operation),
        )
        made = operation.func(*args, **dict(zip(operation.kwargs, rest, strict=True)))
        return *tensors_among([made]), *([torch.gt(*args)] if equality else [])

    try:
        return list(
            torch.func.vmap(
                run,
                in_dims=tuple(0 if id(tensor) in held else None for tensor in given),
                randomness="same",
            )(*(held.get(id(tensor), tensor) for tensor in given))
        )
    except TimeLimitExceeded:
        raise
    except Exception:  # it takes no batch: of many classes in functorch
        return None


def _decides(operation: Operation, result: Any) -> bool:
    return operation.name in BUCKETING or getattr(result, "dtype", None) == torch.bool


def _given(operation: Operation) -> list[Any]:
    return [operation.args, list(operation.kwargs.values())]

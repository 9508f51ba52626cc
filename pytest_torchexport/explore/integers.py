"""Find numbers of the inputs that have no slope, and for which demands on later numbers are met.

Integers have no gradient, and what they go through (shifts, quotients, remainders, tables) has no
slope. But the operators that led to a number can run again on many candidates at once: a batch in
which one element of an input is each of them (``torch.func.vmap``). So one element after the other
gets the candidate that brings the last demand nearest and keeps those before it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_torchexport.explore.provenance import (
    MIRRORED,
    NEGATED,
    Combined,
    Compared,
    Computed,
    Reduced,
    number,
)
from pytest_torchexport.inputs.pytrees import is_plain
from pytest_torchexport.outcomes.operator_table import NO_ROW, row_of
from pytest_torchexport.outcomes.operators import (
    name_of,
    tensors_among,
    writing_nothing,
    written_to,
)
from pytest_torchexport.torch_private.dispatcher import is_operator, only_in_batches
from pytest_torchexport.torch_private.memory import memory_of

# The elements of a tensor, and of all tensors of a run, that are kept: 128 MiB of int64.
MOST_ELEMENTS, MOST_IN_ALL = 2**20, 2**24
# Numbers that may be computed for a call: some tenths of a second.
MOST_NUMBERS = 2**25
# Numbers of a batch that are computed at once, for the memory that they take.
AT_ONCE = 2**22
# A range with more numbers than may be computed gets a grid of so many, which is made finer around
# the best one: eight times leave nothing between them in 64 bits.
GRID, FINER = 2**11, 8
# Whole numbers that a grid leaves out and code asks for: powers of two, and those beside them.
LANDMARKS = tuple(sign * (2**n + way) for n in range(63) for way in (-1, 0, 1) for sign in (1, -1))
# Elements of an input that are looked at, and those of an operand that are to meet a comparison.
MOST_POSITIONS, MOST_PLACES = 2**12, 16

Function = Callable[..., Any]


# -- the run ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Origin:
    """A tensor that depends on the inputs: one of them (``leaf``), or the result of an operator.

    ``sources`` are the arguments of the operator that depend on the inputs, with their origins.
    ``place`` is this one's among the results, and ``at`` that of the operator in the run.
    """

    value: Tensor
    leaf: int | None = None
    operator: Any = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sources: tuple[tuple[Tensor, Origin], ...] = ()
    place: int = 0
    at: int = -1

    def computed_from(self) -> list[Origin]:
        """Return it and the origins of all that it was computed from, in the order of the run."""
        known: dict[int, Origin] = {}
        waiting = [self]
        while waiting:
            origin = waiting.pop()
            if id(origin) not in known:
                known[id(origin)] = origin
                waiting += [source for _, source in origin.sources]
        return sorted(known.values(), key=lambda origin: origin.at)

    def inputs(self) -> frozenset[int] | None:
        """Return the inputs from which alone it was computed; None if there is another tensor."""
        leaves = set()
        for origin in self.computed_from():
            if origin.leaf is not None:
                leaves.add(origin.leaf)
            elif len(list(tensors_among([*origin.args, *origin.kwargs.values()]))) > len(
                origin.sources
            ):
                return None
        return frozenset(leaves)

    def again(self, known: Mapping[int, list[Tensor]]) -> list[Tensor]:
        """Run its operator again; ``known`` has the new results by operators' places in the run."""
        by = {id(tensor): known[origin.at][origin.place] for tensor, origin in self.sources}
        return list(tensors_among([self.operator(*_replaced(self.args, by), **self.kwargs)]))


class Origins:
    """The operators of one run that lead from its inputs to its tensors."""

    def __init__(self, inputs: Sequence[Tensor | None]) -> None:
        self._known: dict[Any, Origin] = {}
        self._left = MOST_IN_ALL
        self._ran = 0
        self._inputs = [given for given in inputs if given is not None]
        for index, given in enumerate(inputs):
            if given is not None and _is_followed(given):
                self._known[_key(given)] = Origin(given, leaf=index, at=-1 - index)

    def of(self, value: Any) -> Origin | None:
        """Return the origin of a tensor, None if it is not known."""
        return self._known.get(_key(value)) if _is_followed(value) else None

    def has_part(self, value: Any) -> bool:
        """Return True if a tensor is a part of an input."""
        return any(is_view(value, given) for given in self._inputs)

    def saw(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """Remember an operator that has run."""
        self._ran += 1
        tensors = list(tensors_among(args))
        sources = tuple((item, origin) for item in tensors if (origin := self.of(item)) is not None)
        if written_to(func):
            touched = tensors_among([result, *tensors])
            changed = {memory_of(item) for item in touched if is_plain(item)}
            self._known = {k: known for k, known in self._known.items() if k[0] not in changed}
        of_torch = is_operator(func) and func.namespace in ("aten", "prims")
        random = of_torch and torch.Tag.nondeterministic_seeded in func.tags
        if not sources or "out" in kwargs or random or not of_torch:
            return
        operator = writing_nothing(func)
        for place, item in enumerate(tensors_among([result])):
            if _is_followed(item) and item.numel() <= self._left:
                self._left -= item.numel()
                self._known[_key(item)] = Origin(
                    item, None, operator, tuple(args), kwargs, sources, place, self._ran
                )


def _is_followed(value: Any) -> bool:
    return is_plain(value) and not value.is_complex() and 0 < value.numel() <= MOST_ELEMENTS


def _key(value: Tensor) -> tuple[Any, ...]:
    """Return what two views of the same elements have in common: autograd makes other objects."""
    return (memory_of(value), value.storage_offset(), value.shape, value.stride(), value.dtype)


def _replaced(arguments: Any, by: Mapping[int, Tensor]) -> list[Any]:
    return [
        _replaced(item, by) if isinstance(item, (list, tuple)) else by.get(id(item), item)
        for item in arguments
    ]


# -- demands ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Demand:
    """An element of a tensor, its relation to a number, and that number.

    ``operator`` is one of ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``. ``other`` is the tensor
    that has the number at the same place, if it depends on the inputs too.
    """

    origin: Origin
    place: int
    operator: str
    number: float
    other: Origin | None = None

    @property
    def origins(self) -> list[Origin]:
        """The tensors that are computed for it."""
        # A place says nothing about how far another one is from being chosen: its scores do.
        first = self.origin if self._chosen is None else self.origin.sources[0][1]
        return [first] if self.other is None else [first, self.other]

    @property
    def _chosen(self) -> int | None:
        """1 if the number is to be the place of the largest of a row, -1 of the smallest."""
        operator, fits = self.origin.operator, self.operator == "==" and self.other is None
        row = row_of(name_of(operator)) if operator is not None else NO_ROW
        places = row.kinds >= {"choice", "reduction"} and self.origin.place == bool(row.second)
        if not fits or not places or not float(self.number).is_integer():
            return None
        return 1 if row.largest else -1

    def just_beyond(self, far: float) -> Demand:
        """Return the demand of a number that is so far beyond the one that it is compared with."""
        way = {">": 1, "<": -1}.get(self.operator, 0)
        whole = not self.origin.value.is_floating_point()
        beyond = self.number + way * (max(1, round(far)) if whole else far)
        return dataclasses.replace(self, operator="==", number=beyond)

    def missing(self, values: Sequence[Tensor]) -> Tensor:
        """Return how far it is from being met if its tensors have these values; 0 if it is."""
        way = self._chosen
        if way is not None:
            scores = way * self._rows(values[0].double())
            place = int(self.number)
            if not 0 <= place < scores.shape[-1]:
                return torch.full((), math.inf, dtype=torch.float64)
            others = scores.masked_fill(torch.arange(scores.shape[-1]) == place, -math.inf)
            behind = others.amax() - scores[place]
            return torch.where(behind < 0, 0.0, behind.clamp(min=math.ulp(1.0)))
        apart = values[0].reshape(-1)[self.place].double()
        apart = apart - (
            self.number if self.other is None else values[1].reshape(-1)[self.place].double()
        )
        if self.operator in ("==", "!="):
            return apart.abs() if self.operator == "==" else (apart == 0).double()
        beyond = apart if self.operator in (">", ">=") else -apart
        met = beyond >= 0 if "=" in self.operator else beyond > 0
        return torch.where(met, 0.0, (-beyond).clamp(min=math.ulp(self.number)))

    def _rows(self, scores: Tensor) -> Tensor:
        """Return the row of scores in which the element was chosen."""
        dim = self.origin.args[1] if len(self.origin.args) > 1 else None
        if dim is None:
            return scores.reshape(-1)
        rows = scores.movedim(dim, -1)
        return rows.reshape(-1, rows.shape[-1])[self.place]


def demands_of(provenance: Any, wanted: bool, origins: Origins) -> Iterator[list[Demand]]:
    """Yield demands that together give a condition the wanted outcome: in one element, in all."""
    if isinstance(provenance, Combined):
        if provenance.operator == "not":
            yield from demands_of(provenance.parts[0], not wanted, origins)
        elif (provenance.operator == "and") == wanted:
            first = [next(demands_of(part, wanted, origins), []) for part in provenance.parts]
            yield [demand for demands in first for demand in demands]
        else:
            for part in provenance.parts:
                yield from demands_of(part, wanted, origins)
    elif isinstance(provenance, (Reduced, Computed)):
        yield from demands_of(provenance.inner, wanted, origins)
    elif isinstance(provenance, Compared):
        sign = provenance.operator if wanted else NEGATED.get(provenance.operator, "")
        for mine, other, own in (
            (provenance.left, provenance.right, sign),
            (provenance.right, provenance.left, MIRRORED.get(sign, sign)),
        ):
            yield from _demands(mine, own, other, origins)
    elif isinstance(provenance.value, Tensor):
        yield from _demands(provenance.value, "!=" if wanted else "==", False, origins)


def _demands(mine: Any, operator: str, other: Any, origins: Origins) -> Iterator[list[Demand]]:
    """Yield the demand of the nearest element of an operand, then those of all elements."""
    origin, right = origins.of(mine), number(other)
    if origin is None or right is None or origins.has_part(mine) or operator not in MIRRORED:
        return
    apart = (mine.detach().double() - right.detach()).abs().nan_to_num(math.inf)
    if apart.shape != mine.shape:
        return
    order = apart.reshape(-1).argsort()[:MOST_PLACES].tolist()
    demands = [demand_at(origin, place, operator, other, origins) for place in order]
    yield demands[:1]
    if len(demands) > 1:
        yield demands


def demand_at(origin: Origin, place: int, operator: str, other: Any, origins: Origins) -> Demand:
    """Return the demand of one element, which is compared with a number or with a tensor's."""
    right = number(other)
    assert right is not None
    wanted = float(right.detach().expand(origin.value.shape).reshape(-1)[place])
    alike = isinstance(other, Tensor) and other.shape == origin.value.shape
    return Demand(origin, place, operator, wanted, origins.of(other) if alike else None)


# -- candidates ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Among:
    """The numbers that an element of an input may have: a range, or some."""

    low: float
    high: float
    choices: tuple[float, ...] = ()

    def candidates(self, low: float, high: float, dtype: torch.dtype, most: int) -> Tensor:
        """Return numbers between two: all if there are no more than ``most``, else a grid."""
        if self.choices:
            return torch.tensor(self.choices, dtype=dtype)
        if dtype.is_floating_point:
            return torch.linspace(low, high, GRID, dtype=torch.float64).to(dtype)
        # Not as floats, which do not hold the ends of int64.
        first, last = math.ceil(low), math.floor(high)
        if last - first < most:
            return torch.arange(first, last + 1).to(dtype)
        grid = [first + (last - first) * n // (GRID - 1) for n in range(GRID)]
        marks = [number for number in LANDMARKS if self.low <= number <= self.high]
        return torch.tensor([*grid, *marks]).to(dtype)


class TooMuch(Exception):
    """Raised if more numbers would have to be computed than may be."""


@dataclass
class Effort:
    """The count of numbers that may still be computed."""

    left: int = MOST_NUMBERS

    def take(self, numbers: int) -> None:
        """Count numbers that are going to be computed; raises TooMuch if these are too many."""
        self.left -= numbers
        if self.left < 0:
            raise TooMuch


def met(
    demands: Sequence[Demand],
    leaves: Mapping[int, Tensor],
    among: Mapping[int, Among],
    most: Effort | None = None,
) -> dict[int, Tensor] | None:
    """Return the inputs with numbers that meet all demands; None if none are found.

    ``leaves`` are the numbers of the call by input, and ``among`` those that an input may have.
    Inputs that ``among`` leaves out are not changed. ``most`` is what it may take, if less than
    usual; what it takes is subtracted.
    """
    effort = most or Effort()
    call = _Call({index: leaf.detach().clone() for index, leaf in leaves.items()}, among, effort)
    try:
        done = all(call.meet(demands[:last]) for last in range(1, len(demands) + 1))
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except (TooMuch, RuntimeError, IndexError, ValueError):  # an operator that takes no batch
        return None
    return call.leaves if done else None


@dataclass
class _Call:
    """The numbers of a call, of which one after the other is chosen."""

    leaves: dict[int, Tensor]
    among: Mapping[int, Among]
    effort: Effort

    def meet(self, demands: Sequence[Demand]) -> bool:
        """Change elements until the last demand is met, and the others stay so."""
        steps = _steps_to(demands)
        for leaf, among in self.among.items():
            for position in self._deciding(leaf, among, steps, demands[-1]):
                if self._choose(leaf, position, among, steps, demands) == 0:
                    return True
        return False

    def _deciding(
        self, leaf: int, among: Among, steps: Sequence[Origin], demand: Demand
    ) -> list[int]:
        """Return the positions at which another number changes what a demand is about."""
        own = self.leaves[leaf].reshape(-1)
        if not any(step.leaf == leaf for step in steps) or own.numel() > MOST_POSITIONS:
            return []
        positions = torch.arange(own.numel())
        generator = torch.Generator().manual_seed(0)
        some = among.candidates(among.low, among.high, own.dtype, GRID)
        drawn = some[torch.randint(len(some), (2, own.numel()), generator=generator)]
        tried = [some[:1].expand_as(own), some[-1:].expand_as(own), *drawn]
        before = self._values(steps, [demand], leaf, positions[:1], own[:1])[0]
        changed = torch.zeros(own.numel(), dtype=torch.bool)
        for others in tried:
            after = self._values(steps, [demand], leaf, positions, others)[0]
            for one, other in zip(after, before, strict=True):
                changed |= (one != other).reshape(len(one), -1).any(1)
        return positions[changed].tolist()

    def _choose(
        self,
        leaf: int,
        position: int,
        among: Among,
        steps: Sequence[Origin],
        demands: Sequence[Demand],
    ) -> float:
        """Give an element the number that comes nearest to all demands; return how near."""
        flat = self.leaves[leaf].reshape(-1)
        own = flat[position].clone()
        most = min(AT_ONCE, self.effort.left // 2) // _cost(steps)
        low, high, best, least = among.low, among.high, own, math.inf
        for _ in range(FINER):
            candidates = torch.cat([own[None], among.candidates(low, high, own.dtype, most)])
            positions = torch.full((len(candidates),), position)
            found = self._values(steps, demands, leaf, positions, candidates)
            far = [
                torch.func.vmap(demand.missing)(values)
                for demand, values in zip(demands, found, strict=True)
            ]
            missing = torch.stack(far).nan_to_num(math.inf).sum(0)
            nearest = float(missing.min())
            if nearest < least:
                near = candidates[missing == nearest]
                # Of those as near, the one nearest to the call's.
                best, least = near[(near.double() - own.double()).abs().argmin()], nearest
            step = (high - low) / GRID
            whole = among.choices or (not own.dtype.is_floating_point and high - low < most)
            if not least or whole or step <= math.ulp(float(best)):
                break
            low, high = max(among.low, float(best) - step), min(among.high, float(best) + step)
        flat[position] = best
        return least

    def _values(
        self,
        steps: Sequence[Origin],
        demands: Sequence[Demand],
        leaf: int,
        positions: Tensor,
        numbers: Tensor,
    ) -> list[list[Tensor]]:
        """Return the values of demands' tensors, a row for each position and its new number."""
        self.effort.take(_cost(steps) * len(numbers))
        own = self.leaves[leaf]
        everywhere = torch.arange(own.numel()).reshape(own.shape)

        def run(position: Tensor, number: Tensor) -> list[list[Tensor]]:
            known: dict[int, list[Tensor]] = {}
            for step in steps:
                if step.leaf is None:
                    known[step.at] = known.get(step.at) or step.again(known)
                elif step.leaf == leaf:
                    known[step.at] = [torch.where(everywhere == position, number, own)]
                else:
                    known[step.at] = [self.leaves[step.leaf]]
            return [
                [known[origin.at][origin.place] for origin in demand.origins] for demand in demands
            ]

        size = max(1, AT_ONCE // _cost(steps))
        with torch.no_grad(), only_in_batches():
            batch: Function = torch.func.vmap(run, chunk_size=size, randomness="error")
            found: list[list[Tensor]] = batch(positions, numbers)
            return found


def _steps_to(demands: Iterable[Demand]) -> list[Origin]:
    """Return what has to be computed for demands, in the order of the run."""
    origins = {
        id(step): step
        for demand in demands
        for origin in demand.origins
        for step in origin.computed_from()
    }
    return sorted(origins.values(), key=lambda origin: origin.at)


def _cost(steps: Sequence[Origin]) -> int:
    return sum(step.value.numel() for step in steps) or 1


def is_view(operand: Any, given: Tensor) -> bool:
    """Return True if a tensor is another one, or a view of it."""
    if not isinstance(operand, Tensor) or not given.numel():
        return False
    if operand.layout != torch.strided or given.layout != torch.strided:
        return False
    same = memory_of(operand) == memory_of(given)
    return same and operand.dtype == given.dtype


def places_in(operand: Tensor, given: Tensor) -> Tensor:
    """Return the flat positions of a view's elements in the other tensor, in the view's shape."""
    length = given.untyped_storage().nbytes() // given.element_size()
    flat = torch.zeros(length, dtype=torch.int64)
    own = torch.arange(given.numel()).reshape(given.shape)
    flat.as_strided(given.shape, given.stride(), given.storage_offset()).copy_(own)
    return flat.as_strided(operand.shape, operand.stride(), operand.storage_offset())

"""Run eager or an artifact, and record how near each of its operators came to a threshold.

Separate from ``observed``, which records conditions in Python code of eager alone: here the two
sides are run alike, and what one has and the other has not is what the search aims at.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pytest_torchexport.eager.reference import Learned
from pytest_torchexport.explore.probe import (
    Differentiable,
    Gap,
    Probe,
    SlopeMode,
    frozen_parameters,
)
from pytest_torchexport.explore.provenance import Combined, Compared
from pytest_torchexport.explore.thresholds import BUCKETING, COMPARING, RULES, Threshold, beyond
from pytest_torchexport.inputs.pytrees import is_plain, leaves_of
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.limits import TimeLimitExceeded
from pytest_torchexport.outcomes.observe import Returned, observe, seed_everything
from pytest_torchexport.outcomes.operator_table import row_of
from pytest_torchexport.outcomes.operators import Operation, is_float, operations
from pytest_torchexport.outcomes.torch_state import GradMode

# Stands for the operator if an output is compared with a further bound.
OUTPUT = "output"


class Key(NamedTuple):  # made for each threshold of each operator: a dataclass takes longer
    """One threshold among those that a call meets.

    ``source`` is the name of the operator that has it; for a further bound ``OUTPUT``, or words for
    the operator's operand. ``number`` counts these. ``side`` and ``name`` are those of
    ``Threshold``.
    """

    source: str
    number: int
    side: str
    name: str = ""

    @property
    def way(self) -> int:
        """Return 1 for numbers above a bound, -1 for those below it, 0 for those that are at it."""
        return {"above": 1, "below": -1}.get(self.side, 0)

    @property
    def is_equality(self) -> bool:
        """Return True for a threshold that equal numbers meet, and not those beyond it."""
        return self.side == "at"


@dataclass(frozen=True)
class Near:
    """The distance of a call from a threshold: see ``Threshold``."""

    missing: float
    met: bool
    scale: float
    bound: float | None

    @property
    def size(self) -> float:
        return max(self.scale, abs(self.bound or 0.0))

    @property
    def relative(self) -> float:
        return abs(self.missing) / max(self.size, 1e-30)


class Demand(NamedTuple):
    """A threshold that a call is to be beyond by ``margin``, or at an equality nearer than that."""

    key: Key
    threshold: Threshold
    margin: float

    @property
    def missing(self) -> float:
        """The distance of the element from where it should be."""
        return self.threshold.missing + abs(self.key.way) * self.margin

    @property
    def far(self) -> float:
        """The distance, or 0 if the element is about as far beyond as it should be."""
        return max(abs(self.missing) - self.margin * (0.5 if self.key.way else 1.0), 0.0)


@dataclass(frozen=True)
class Reach:
    """A goal: thresholds that a call is to be beyond, each by a margin; at an equality, as near."""

    keys: tuple[Key, ...]
    margins: tuple[float, ...]

    def demands(self, reached: Mapping[Key, Threshold]) -> list[Demand]:
        """Return the demands of the goal on a call; none if it misses one of the thresholds."""
        if not all(key in reached for key in self.keys):
            return []
        found = []
        for key, margin in zip(self.keys, self.margins, strict=True):
            whole = key.way and not reached[key].operand.is_floating_point()
            found.append(Demand(key, reached[key], max(1, round(margin)) if whole else margin))
        return found


# No threshold: the operators of a call are recorded all the same.
NOWHERE = Reach((), ())


@dataclass(frozen=True)
class Merge:
    """Numbers that an operator makes equal.

    ``apart`` is the distance of two such integers, and ``start`` the lower one, or None if it may
    be any. Of floats, ``to`` is the type to which they are rounded.
    """

    apart: int = 0
    start: int | None = None
    to: torch.dtype | None = None

    def takes(self, values: Tensor) -> bool:
        """Return True if numbers of such a tensor may be made equal."""
        if self.to is None:
            return not values.is_floating_point()
        return values.is_floating_point() and values.dtype.itemsize > self.to.itemsize

    def pairs(self, dtype: torch.dtype, low: float, start: float, way: int) -> Iterator[Tensor]:
        """Yield two numbers that become equal, the best first: integers, or floats next to a start.

        ``low`` is the lowest integer, and ``way`` the side of the start where the other float is.
        """
        if self.to is not None:
            rounded = torch.tensor(start, dtype=torch.float64).to(self.to).double()
            yield torch.stack([rounded, rounded + way * self.part(dtype) * rounded.abs()])
            return
        # The lowest number often stands for something else: padding, for one.
        starts = (low + 1, low) if self.start is None else (self.start, -self.start - self.apart)
        yield from (torch.tensor([each, each + self.apart]) for each in starts)

    def part(self, wide: torch.dtype | None = None) -> float:
        """Return a distance, in parts of a float, that it makes zero and that ``wide`` has.

        By default, that is the next wider type.
        """
        if self.to is None:
            return 0.0
        wider = torch.float64 if self.to == torch.float32 else torch.float32
        return math.sqrt(torch.finfo(wide or wider).eps * torch.finfo(self.to).eps)


def merge_of(name: str, args: Sequence[Any], result: Any) -> Merge | None:
    """Return how an operator makes numbers of its first operand equal; None if it does not."""
    operand = args[0]
    if not is_plain(operand) or operand.dtype == torch.bool or operand.is_complex():
        return None
    whole = not operand.is_floating_point()
    if whole and len(args) > 1 and isinstance(args[1], int):
        if "remainder" in row_of(name).kinds and args[1]:
            return Merge(abs(args[1]))
        if "mask" in row_of(name).kinds and args[1] != -1:
            return Merge(~args[1] & (args[1] + 1))  # the lowest bit that it clears
    if not is_plain(result) or result.is_complex() or result.dtype == torch.bool:
        return None
    if not whole:
        narrower = result.is_floating_point() and result.dtype.itemsize < operand.dtype.itemsize
        return Merge(to=result.dtype) if narrower else None
    if result.is_floating_point():
        first = round(2 / torch.finfo(result.dtype).eps)
        return Merge(1, first) if first < torch.iinfo(operand.dtype).max else None
    narrower = result.dtype.itemsize < operand.dtype.itemsize
    return Merge(2 ** (8 * result.dtype.itemsize)) if narrower else None


@dataclass
class Recorded:
    """The record of a call: how near it came to thresholds, and what its operators made equal.

    ``bounds`` are further thresholds, of every operand, and ``wanted`` those to remember. ``ran``
    is False if no operator of torch's ran.
    """

    bounds: Sequence[float]
    wanted: Sequence[Key] = ()
    near: dict[Key, Near] = field(default_factory=dict)
    merges: set[Merge] = field(default_factory=set)
    reached: dict[Key, Threshold] = field(default_factory=dict)
    # The gradient edges of the tensors that these pull, taken before an operator writes to one.
    edges: dict[Key, list[Any]] = field(default_factory=dict)
    ran: bool = False

    def operator(self, operation: Operation) -> Any:
        name, number = operation.name, operation.number
        if not name or not operation.args:
            return operation.run()
        self.ran = True
        # Before the operator: it may write to its operand.
        if name in RULES:
            self._saw(name, number, RULES[name](operation))
        operand = operation.args[operation.row.operand]
        if name in COMPARING or name in BUCKETING or is_float(operand):
            self._saw(f"operand of {name}", number, beyond(operand, self.bounds))
        result = operation.run()
        merge = merge_of(name, operation.args, result)
        if merge is not None:
            self.merges.add(merge)
        return result

    def returned(self, value: Any) -> None:
        for number, leaf in enumerate(leaves_of(value)):
            if is_float(leaf):
                self._saw(OUTPUT, number, beyond(leaf, self.bounds))

    def _saw(self, source: str, number: int, thresholds: Iterable[Threshold]) -> None:
        for each in thresholds:
            key = Key(source, number, each.side, each.name)
            self.near[key] = Near(each.missing, each.met, each.scale, each.bound)
            if key in self.wanted:
                self.reached[key] = each
                # A tensor without a function before it, as a parameter, leads to no input.
                self.edges[key] = [
                    torch.autograd.graph.get_gradient_edge(moved) if moved.grad_fn else None
                    for moved, _ in each.pull()
                ]


@dataclass(frozen=True, kw_only=True)
class OperatorRuns:
    """One side, eager or the artifact, whose operators are recorded.

    ``fresh`` returns the callable in its state before a call, ``done`` is called after it.
    ``bounds`` are numbers with which every operand and every output is compared besides.
    ``learned`` keeps what does not depend on the other side.
    """

    fresh: Callable[[], Callable[..., Any]]
    done: Callable[[], object]
    seed: int
    grad_mode: GradMode = GradMode.NO_GRAD
    bounds: tuple[float, ...] = ()
    learned: Learned = field(default_factory=Learned)

    def run(self, call: Call, goal: Reach = NOWHERE) -> Recorded | None:
        """Return the record of the call's operators; None if it raises."""
        digest = call.digest() if goal is NOWHERE else None
        if digest is None:
            return self._run(call, goal)
        what = "operators", self.bounds, digest
        return self.learned.once(what, lambda: self._run(call, goal))

    def _run(self, call: Call, goal: Reach) -> Recorded | None:
        recorded = Recorded(self.bounds, goal.keys)

        def run(go: Callable[[], Any]) -> Any:
            with operations(recorded.operator):
                return go()

        outcome = observe(self.fresh(), call, seed=self.seed, grad_mode=self.grad_mode, run=run)
        self.done()
        if not isinstance(outcome, Returned):
            return None
        recorded.returned(outcome.value)
        return recorded

    def probe(self, call: Call, goal: Reach) -> Probe | None:
        """Return the way of a call to a goal; None if it misses one of the thresholds."""
        recorded = Recorded(self.bounds, goal.keys)
        function = self.fresh()
        seed_everything(self.seed)
        inner = inspect.unwrap(function)
        module = getattr(inner, "__self__", getattr(inner, "module", inner))
        with torch.enable_grad():
            inputs = Differentiable(call)
        own = inputs.call
        try:
            with (
                torch.enable_grad(),
                frozen_parameters(module if isinstance(module, torch.nn.Module) else None),
                SlopeMode(),
                operations(recorded.operator),
            ):
                recorded.returned(function(*own.args, **own.kwargs))
        except TimeLimitExceeded:
            raise
        except Exception:  # noqa: S110  # ``run`` shows what the side does
            pass
        finally:
            self.done()  # after the block, in which ``no_grad`` ends no gradients
        demands = goal.demands(recorded.reached)
        return _probe(demands, recorded, inputs) if demands else None


def _probe(demands: Sequence[Demand], recorded: Recorded, inputs: Differentiable) -> Probe:
    gaps: list[Gap] = []
    compared: list[Compared] = []
    for each in demands:
        key, threshold, margin = each
        ways = [
            (edge, pull.to(operand.dtype))
            for edge, (operand, pull) in zip(recorded.edges[key], threshold.pull(), strict=True)
            if edge is not None
        ]
        found = inputs.gradients(*zip(*ways, strict=True)) if ways else {}
        if found:
            falling = {index: -gradient for index, gradient in found.items()}
            gaps.append(Gap.to_zero(each.missing, falling))
        if threshold.other is not None:
            right = threshold.other + key.way * margin if key.way else threshold.other
            compared.append(Compared("==", threshold.operand, right))
    return Probe(
        missing=sum(each.far for each in demands),
        inputs=inputs.inputs,
        provenance=compared[0] if len(compared) == 1 else Combined("and", tuple(compared)),
        demands=tuple(gaps),
    )

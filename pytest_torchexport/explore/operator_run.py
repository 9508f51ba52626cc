"""Run eager or an artifact, and record how near each of its operators came to a threshold.

Separate from ``observed``, which records conditions in Python code of eager alone: here the two
sides are run alike, and what one has and the other has not is what the search aims at.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pytest_torchexport.explore.merges import Merge, merge_of
from pytest_torchexport.explore.numbers import Tape, demand_at
from pytest_torchexport.explore.probe import Differentiable, Probe, frozen_parameters
from pytest_torchexport.explore.provenance import Compared
from pytest_torchexport.explore.thresholds import (
    BUCKETING,
    COMPARING,
    RULES,
    Operation,
    Threshold,
    beyond,
    table_of,
)
from pytest_torchexport.explore.together import columns_of, places_of
from pytest_torchexport.inputs.pytrees import leaves_of
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.grad_mode import GradMode
from pytest_torchexport.outcomes.limits import TimeLimitExceeded
from pytest_torchexport.outcomes.observe import Returned, observe, seed_everything
from pytest_torchexport.outcomes.operators import dispatched, is_float, name_of
from pytest_torchexport.torch_private.dispatcher import is_operator

# Operators with a table: the place of the argument that is none.
WITH_TABLE = {"bucketize": 0, "isin": 0, "searchsorted": 1}
# These stand for the operator if its operand, or an output, is compared with a further bound.
OPERAND, OUTPUT = "operand of", "output"


class Key(NamedTuple):  # made for each threshold of each operator: a dataclass takes longer
    """One threshold among those that a call meets.

    ``source`` is the name of the operator that has it. For a further bound it is ``OPERAND``, with
    the operator's name in ``of``, or ``OUTPUT``. ``number`` counts the operators of that name, or
    the outputs. ``side`` and ``name`` are those of ``Threshold``.
    """

    source: str
    of: str
    number: int
    side: str
    name: str = ""

    @property
    def is_equality(self) -> bool:
        """Return True for a threshold that equal numbers meet, and not those beyond it."""
        return self.side == "at"

    @property
    def is_further(self) -> bool:
        """Return True for a threshold that is a further bound, and none of an operator's own."""
        return self.source in (OPERAND, OUTPUT)


@dataclass(frozen=True)
class Near:
    """The distance of a call from a threshold: see ``Threshold``."""

    missing: float
    met: bool
    scale: float
    bound: float | None

    @property
    def relative(self) -> float:
        """Return the distance in parts of the operand's scale."""
        return abs(self.missing) / max(self.scale, abs(self.bound or 0.0), 1e-30)

    def rank(self) -> tuple[bool, float]:
        """Return what is smaller for a call that met the threshold, and for one nearer to it."""
        return not self.met, abs(self.missing)


@dataclass(frozen=True)
class _Pulled:
    """A threshold to differentiate, with the gradient edge of each tensor that it pulls."""

    threshold: Threshold
    edges: list[Any]

    def probe(self, inputs: Differentiable, place: int | None, tape: Tape) -> Probe:
        """Return the way of an element there; None is the nearest one."""
        threshold = self.threshold
        pulls = threshold.pull() if place is None else threshold.pull(place)
        ways = [
            (edge, pull.to(operand.dtype))
            for edge, (operand, pull) in zip(self.edges, pulls, strict=True)
            if edge is not None
        ]
        gradients = inputs.gradients(*zip(*ways, strict=True)) if ways else {}
        missing, operand = threshold.missing, threshold.operand
        if place is not None and threshold.far is not None:
            missing = float(threshold.far.reshape(-1)[place])
            if operand.shape == threshold.far.shape:
                operand = operand[torch.unravel_index(torch.tensor(place), operand.shape)]
        operator = {"above": ">", "below": "<"}.get(threshold.side, "==")
        origin, far, demand = tape.of(threshold.operand), threshold.far, None
        if origin is not None and far is not None and far.shape == origin.value.shape:
            at = threshold.place if place is None else place
            demand = demand_at(origin, at, operator, threshold.other, tape)
        return Probe(
            missing=missing,
            gradients={index: -gradient for index, gradient in gradients.items()},
            provenance=Compared(operator, operand, threshold.other),
            inputs=inputs.inputs,
            tape=tape,
            demand=demand,
        )


@dataclass
class _Recorder:
    """Handle each operator of one run.

    ``bounds`` are further thresholds, of every operand. ``wanted`` are those to differentiate.
    """

    bounds: Sequence[float]
    wanted: Sequence[Key] = ()
    found: dict[Key, Near] = field(default_factory=dict)
    merges: set[Merge] = field(default_factory=set)
    tables: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    pulled: dict[Key, _Pulled] = field(default_factory=dict)
    tape: Tape = field(default_factory=lambda: Tape(()))
    ran: bool = False
    _counts: Counter[str] = field(default_factory=Counter)

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Look at the operands, and run the operator."""
        if is_operator(func) and args:
            self.ran = True
            name = name_of(func)
            number = self._counts[name]
            self._counts[name] += 1
            # Before the operator: it may write to its operand.
            if name in RULES:
                operation = Operation(func, args, kwargs)
                for threshold in RULES[name](operation):
                    self._saw(Key(name, "", number, threshold.side, threshold.name), threshold)
                table = table_of(name, operation)
                if table is not None:
                    self.tables[name, number] = table.reshape(-1).clone()
            operand = args[WITH_TABLE.get(name, 0)]
            compares = name in COMPARING or name in BUCKETING
            if compares or is_float(operand):
                self._compare(OPERAND, name, number, operand)
            result = func(*args, **kwargs)
            if self.wanted:
                self.tape.saw(func, args, kwargs, result)
            merge = merge_of(name, args, result)
            if merge is not None:
                self.merges.add(merge)
            return result
        return func(*args, **kwargs)

    def returned(self, value: Any) -> None:
        """Look at what the side returned."""
        for number, leaf in enumerate(leaves_of(value)):
            if is_float(leaf):
                self._compare(OUTPUT, "", number, leaf)

    def _compare(self, source: str, of: str, number: int, operand: Any) -> None:
        """Compare an operand with the further bounds."""
        for threshold in beyond(operand, self.bounds):
            self._saw(Key(source, of, number, threshold.side, threshold.name), threshold)

    def _saw(self, key: Key, threshold: Threshold) -> None:
        self.found[key] = Near(threshold.missing, threshold.met, threshold.scale, threshold.bound)
        if key in self.wanted:
            edges = [
                torch.autograd.graph.get_gradient_edge(operand) if operand.requires_grad else None
                for operand, _ in threshold.pull()
            ]
            self.pulled[key] = _Pulled(threshold, edges)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The record of a call: how near it came to thresholds, and what its operators made equal.

    ``tables`` are the many numbers with which an operator compared at once. ``ran`` is False if no
    operator of torch's ran.
    """

    near: Mapping[Key, Near]
    merges: frozenset[Merge]
    tables: Mapping[tuple[str, int], Tensor]
    ran: bool

    def tensors(self) -> Iterable[Tensor]:
        """Return the tensors of the record."""
        return self.tables.values()


@dataclass(frozen=True, kw_only=True)
class OperatorRuns:
    """One side, eager or the artifact, whose operators are recorded.

    ``fresh`` returns the callable in its state before a call, ``done`` is called after it.
    ``bounds`` are numbers with which every operand and every output is compared besides.
    """

    fresh: Callable[[], Callable[..., Any]]
    done: Callable[[], object]
    seed: int
    grad_mode: GradMode = GradMode.NO_GRAD
    bounds: tuple[float, ...] = ()

    def run(self, call: Call) -> Recorded | None:
        """Return what the call's operators showed; None if it raises."""
        recorder = _Recorder(self.bounds)
        if not self._record(recorder, call):
            return None
        return Recorded(
            near=recorder.found,
            merges=frozenset(recorder.merges),
            tables=recorder.tables,
            ran=recorder.ran,
        )

    def places(self, call: Call, wanted: Key) -> list[int]:
        """Return the nearest element to a threshold in each column, the nearest of all first."""
        recorder = _Recorder(self.bounds, (wanted,))
        self._record(recorder, call)
        pulled = recorder.pulled.get(wanted)
        far = pulled.threshold.far if pulled is not None else None
        return columns_of(far) if far is not None else []

    def _record(self, recorder: _Recorder, call: Call) -> bool:
        """Run a call; return False if it raises."""

        def recorded(go: Callable[[], Any]) -> Any:
            with dispatched(recorder.operator):
                return go()

        outcome = observe(
            self.fresh(), call, seed=self.seed, grad_mode=self.grad_mode, run=recorded
        )
        self.done()
        if not isinstance(outcome, Returned):
            return False
        recorder.returned(outcome.value)
        return True

    def probe(self, call: Call, wanted: Key) -> Probe | None:
        """Return the state of a call at a threshold, with the way to it; None if not reached."""
        found = self.probes(call, (wanted,))
        return found[0] if found else None

    def probes(self, call: Call, wanted: Sequence[Key], place: int | None = None) -> list[Probe]:
        """Return the state of a call at thresholds, with the ways to them; empty if one is missed.

        If they are several, they are those of elements that belong together. ``place`` is the
        position of an element, if not that of the nearest; it is missed if there is none.
        """
        recorder = _Recorder(self.bounds, wanted)
        function = self.fresh()
        seed_everything(self.seed)
        with torch.enable_grad(), _without_parameters(function):
            inputs = Differentiable(call)
            recorder.tape = Tape(inputs.inputs)
            own = inputs.call
            try:
                with dispatched(recorder.operator):
                    recorder.returned(function(*own.args, **own.kwargs))
            except TimeLimitExceeded:
                raise
            except Exception:  # noqa: S110  # ``run`` shows what the side does
                pass
            finally:
                self.done()
        if len(recorder.pulled) < len(wanted):
            return []
        pulled = [recorder.pulled[key] for key in wanted]
        far = [item.threshold.far for item in pulled]
        # A selection by values, as ``x[x > 0]``, may have fewer elements than on another call.
        if place is not None and any(item is None or place >= item.numel() for item in far):
            return []
        together = [item for item in far if item is not None]
        places: Sequence[int | None] = [place] * len(far)
        if 1 < len(together) == len(far):
            places = places_of(together)
        return [
            item.probe(inputs, place, recorder.tape)
            for item, place in zip(pulled, places, strict=True)
        ]


def _without_parameters(function: Any) -> AbstractContextManager[None]:
    function = inspect.unwrap(function)
    module = getattr(function, "__self__", getattr(function, "module", function))
    return frozen_parameters(module if isinstance(module, torch.nn.Module) else None)

"""Run eager again on calls: in float64, and with its results rounded differently.

How far these runs are from each other is eager's own error on the calls (``rounding``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from pytest_torchexport.eager.preflight import examine
from pytest_torchexport.inputs.pytrees import flatten, is_plain, tree_map
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.decisions import NOTHING_HELD, Held
from pytest_torchexport.judge.last_digits import Ties, scattered, sequential, uncast
from pytest_torchexport.outcomes.compare import Tolerance, compare_values
from pytest_torchexport.outcomes.observe import (
    Outcome,
    Returned,
    observe,
    seed_everything,
    tensors_of,
)
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.outcomes.torch_state import doubles_by_default
from pytest_torchexport.results.failures import NotRepeatable
from pytest_torchexport.results.verdict import Difference

# A difference of so many times eager's own error is rounding. ONNX Runtime was measured within
# about 3x of |eager - float64| and 1.1x of the largest of a few scattered runs.
MULTIPLE = 4.0
# Scattered runs: a few decide most differences; more are made if those do not explain one.
FEW, MANY = 2, 12
# The lanes of vector registers on most processors: without them, a sum of terms of alternating
# signs is a false alarm.
LANES = 8
# Still more runs are made for a tie: a value that is rarely picked must occur in one of them.
MANY_TIED = 60
# Runs on the item's device if that is not the CPU: its kernels may add up in a new order each time.
NOISE_RUNS = 3

# Values after a call, by path: outputs, inputs, parameters and buffers.
Leaves = Mapping[str, Any]
# A block in which eager rounds differently.
Rounding = Callable[[], AbstractContextManager[Any]]


def leaves_after(outcome: Returned, state: Leaves) -> Leaves:
    """Return outputs, inputs and the module's tensors after a call, under ``compare``'s paths."""
    inputs = (outcome.inputs.args, dict(outcome.inputs.kwargs))
    return {
        **dict(flatten(outcome.value, "output")[0]),
        **dict(flatten(inputs, "inputs")[0]),
        **state,
    }


@dataclass(kw_only=True)
class Runs:
    """Eager's other runs of calls in a row, after which it gave ``expected``.

    They give the leaves at ``paths`` alone. ``repeats``: a plain run gave the same. ``truth`` is
    the run in float64. ``rest`` are batches of further runs, made when needed. ``held`` are
    operands of eager's decisions. ``cut``: a time limit ended a run, and the rest cannot be made.
    """

    calls: Sequence[Call]
    paths: Sequence[str]
    expected: Leaves
    repeats: bool
    truth: Leaves
    rest: Iterator[list[Leaves]]
    ties: Ties
    held: Held
    made: list[list[Leaves]] = field(default_factory=list)
    cut: bool = False

    def batches(self) -> Iterator[list[Leaves]]:
        yield from self.made
        while True:
            self.cut = True  # unless the next line comes to its end
            batch = next(self.rest, None)
            self.cut = False
            if batch is None:
                return
            self.made.append(batch)
            yield batch

    def are_of(
        self, calls: Sequence[Call], paths: Sequence[str], expected: Leaves, held: Held
    ) -> bool:
        """Return True if these are all runs of equal calls, for the same paths and operands."""
        return (
            not self.cut
            and self.held is held
            and list(self.paths) == list(paths)
            and len(self.calls) == len(calls)
            and all(map(_is_same, self.calls, calls))
            and not _parted([expected], [self.expected], paths)  # what a changed eager returned
        )


class OtherRuns:
    """Run eager on calls otherwise than the reference does, and keep the last of these runs."""

    def __init__(
        self,
        subject: Subject,
        seed: int,
        *,
        stateful: bool = True,
        device: str = "cpu",
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        """Run nothing yet.

        ``stateful``: runs change the subject. ``may_go_on`` tells whether there is time for more
        than the cheapest runs.
        """
        self._subject = subject
        self._seed = seed
        self._stateful = stateful
        self.device = device
        self._may_go_on = may_go_on
        self._copies: dict[torch.dtype | str, Subject] = {}
        self._last: Runs | None = None

    def under(self, rounding: Rounding, call: Call) -> None:
        self._run(self._copy("cpu"), [call], rounding, [])

    def of(self, calls: Sequence[Call], paths: Sequence[str], expected: Leaves, held: Held) -> Runs:
        """Return the runs of these calls, the last ones if the calls are the same.

        Raises NotRepeatable if not even two fresh copies of the subject agree.
        """
        if self._last is not None and self._last.are_of(calls, paths, expected, held):
            return self._last
        repeats, draws = self._repeats(calls, expected, paths)
        truths = [] if draws else self._in_float64(calls, paths, held)
        ties = Ties()
        truth = truths[0] if truths else {}
        self._last = Runs(
            calls=list(calls),
            paths=list(paths),
            expected=expected,
            repeats=repeats,
            truth=truth,
            rest=self._references(calls, paths, expected, ties, truth, held),
            ties=ties,
            held=held,
        )
        return self._last

    def without_casts(
        self, calls: Sequence[Call], paths: Sequence[str]
    ) -> tuple[list[Leaves], list[Leaves]]:
        """Return the run in float64 without casts to other floats, and runs that cast otherwise."""
        exact = self._in_float64(calls, paths, rounding=uncast)
        roundings = [partial(scattered, number, casts=True) for number in range(MANY)]
        return exact, self._under(roundings, calls, paths, NOTHING_HELD) if exact else []

    def _repeats(
        self, calls: Sequence[Call], expected: Leaves, paths: Sequence[str]
    ) -> tuple[bool, bool]:
        """Return whether a plain run gives what eager gave, and whether it draws random numbers.

        If a plain run gives something else, runs change the subject, and their differences are not
        rounding. Random numbers are drawn differently in float64. Raises NotRepeatable if not even
        two fresh copies agree.
        """
        seed_everything(self._seed)
        before = torch.get_rng_state()
        plain = self._run(self._copy("cpu"), calls, nullcontext, paths)
        draws = not torch.equal(before, torch.get_rng_state())
        if self.device != "cpu" or not _parted(plain, [expected], paths):
            return True, draws
        one, other = (self._run(self._subject.copy(), calls, nullcontext, paths) for _ in range(2))
        parted = _parted(one, other, paths)
        if parted:
            found = examine(self._subject, calls[-1], self._seed)
            raise NotRepeatable(
                found.unrepeatable or "calls on equal inputs, from equal state and seed, differ",
                details=found.uninitialized,
                where=found.where,
                differences=tuple(parted),
            )
        return False, draws

    def _references(
        self,
        calls: Sequence[Call],
        paths: Sequence[str],
        expected: Leaves,
        ties: Ties,
        truth: Leaves,
        held: Held,
    ) -> Iterator[list[Leaves]]:
        """Yield the results of eager's other runs in batches, the cheapest first.

        Every second run is on contiguous inputs: torch has other kernels for them, and an artifact
        may use those on strided inputs too.
        """
        strided = any(
            is_plain(t) and not t.is_contiguous() for call in calls for t in call.tensors()
        )
        packed = self._contiguous(calls, paths, truth) if strided and truth else calls
        scatters: list[Rounding] = [partial(scattered, number, ties) for number in range(MANY)]
        runs = self._under([sequential, *scatters[:FEW]], packed, paths, held, calls)
        if self.device != "cpu":
            moved = [call.to(self.device) for call in calls]
            for _ in range(NOISE_RUNS):
                runs += self._run(self._copy(self.device), moved, nullcontext, paths)
        yield runs
        if self._may_go_on():
            more: list[Rounding] = [partial(sequential, LANES), *scatters[FEW:]]
            yield self._under(more, packed, paths, held, calls)
        if ties.met and self._may_go_on():
            tied: list[Rounding] = [partial(scattered, n, ties) for n in range(MANY, MANY_TIED)]
            yield self._under(tied, packed, paths, held, calls)
        yield self._under(held.replays(MULTIPLE), calls, paths, NOTHING_HELD)

    def _in_float64(
        self,
        calls: Sequence[Call],
        paths: Sequence[str],
        held: Held = NOTHING_HELD,
        rounding: Rounding = nullcontext,
    ) -> list[Leaves]:
        wide = [Call(_double(call.args), _double(dict(call.kwargs))) for call in calls]
        in_float64 = partial(_holding, held, doubles_by_default, rounding)
        return self._run(self._copy(torch.float64), wide, in_float64, paths)

    def _under(
        self,
        roundings: Sequence[Rounding],
        calls: Sequence[Call],
        paths: Sequence[str],
        held: Held,
        others: Sequence[Call] | None = None,
    ) -> list[Leaves]:
        """Run the calls under each rounding; every second time the ``others``, if there are any."""
        ways = itertools.cycle([calls, others or calls])
        return [
            leaves
            for each, given in zip(roundings, ways, strict=False)
            for leaves in self._run(self._copy("cpu"), given, partial(_holding, held, each), paths)
        ]

    def _contiguous(
        self, calls: Sequence[Call], paths: Sequence[str], truth: Leaves
    ) -> Sequence[Call]:
        """Return the calls with contiguous inputs if that changes nothing but rounding.

        Forward may write to a strided input where it writes to a copy of a contiguous one.
        """

        def packed(value: Any) -> Any:
            return tree_map(lambda leaf: leaf.contiguous() if is_plain(leaf) else leaf, value)

        others = [Call(packed(call.args), packed(dict(call.kwargs))) for call in calls]
        found = self._in_float64(others, paths)
        return others if found and not _parted(found, [truth], paths) else calls

    def _copy(self, where: torch.dtype | str) -> Subject:
        """Return the subject in float64 or on a device: a fresh one if runs change it."""
        if self._stateful or where not in self._copies:
            copy = self._subject.copy()
            if isinstance(where, str):
                copy.to(where)
            elif copy.module is not None:
                copy.module.to(where)
            self._copies[where] = copy
        return self._copies[where]

    def _run(
        self, subject: Subject, calls: Sequence[Call], rounding: Rounding, paths: Sequence[str]
    ) -> list[Leaves]:
        def rounded(*args: Any, **kwargs: Any) -> Any:
            with rounding():
                return subject.function(*args, **kwargs)

        outcome: Outcome | None = None
        for call in calls:
            outcome = observe(rounded, call, seed=self._seed, grad_mode=subject.grad_mode)
        if not isinstance(outcome, Returned):
            return []
        return [leaves_after(outcome, tensors_of(subject.module, only=paths))]


@contextmanager
def _holding(held: Held, *roundings: Rounding) -> Iterator[None]:
    """Round differently, but put back the operands that are held. Entered last, it acts first."""
    with ExitStack() as entered:
        for rounding in roundings:
            entered.enter_context(rounding())
        entered.enter_context(held.kept())
        yield


def _parted(
    left: Sequence[Leaves], right: Sequence[Leaves], paths: Sequence[str]
) -> list[Difference]:
    """Return the differences between two runs that both returned."""
    return [
        difference
        for one, other in zip(left, right, strict=False)
        for path in paths
        for difference in compare_values(one.get(path), other.get(path), Tolerance(), path)
    ]


def _is_same(one: Call, other: Call) -> bool:
    left, right = ((call.args, dict(call.kwargs)) for call in (one, other))
    return one is other or not compare_values(left, right, Tolerance(0.0, 0.0))


def _double(value: Any) -> Any:
    def widen(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if leaf.is_floating_point():
            return leaf.double()
        return leaf.to(torch.complex128) if leaf.is_complex() else leaf

    return tree_map(widen, value)

"""Run eager again on calls: in float64, and with its results rounded differently.

How far these runs are from each other is eager's own error on the calls (``rounding``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from pytest_torchexport.eager.preflight import examine
from pytest_torchexport.inputs.pytrees import flatten, is_plain, tree_map
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.decisions import NOTHING_HELD, Held
from pytest_torchexport.judge.last_digits import Ties, rounded_to, scattered, sequential, uncast
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


@dataclass(frozen=True)
class Way:
    """A way to run eager again.

    ``rounding`` is a block around forward, in which what is ``held`` is put back. ``where`` is the
    device, or the dtype of all floats. ``packed``: on contiguous inputs.
    """

    rounding: Rounding = nullcontext
    where: torch.dtype | str = "cpu"
    packed: bool = False
    held: Held = NOTHING_HELD

    def given(self, call: Call) -> Call:
        if isinstance(self.where, str):
            call = call.to(self.where)
        return Call(*tree_map(self._leaf, (call.args, dict(call.kwargs))))

    def _leaf(self, leaf: Any) -> Any:
        if self.packed and is_plain(leaf):
            leaf = leaf.contiguous()
        if isinstance(self.where, str) or not isinstance(leaf, torch.Tensor):
            return leaf
        if leaf.is_floating_point():
            return leaf.to(self.where)
        wide = leaf.is_complex() and self.where is torch.float64
        return leaf.to(torch.complex128) if wide else leaf

    def through(self, function: Callable[..., Any]) -> Callable[..., Any]:
        wide = doubles_by_default if self.where is torch.float64 else nullcontext

        def rounded(*args: Any, **kwargs: Any) -> Any:
            # What is held is put back before an operator runs: entered last, it acts first.
            with wide(), self.rounding(), self.held.kept():
                return function(*args, **kwargs)

        return rounded


@dataclass(frozen=True)
class Runs:
    """Eager's other runs of calls; ``truth`` is the one in float64, empty if there is none.

    ``precision``: the float type of some of them, in which the artifact computes; None: eager's.
    """

    truth: Leaves = field(default_factory=dict)
    others: list[Leaves] = field(default_factory=list)
    precision: torch.dtype | None = None
    ties: Ties = field(default_factory=Ties)


@dataclass(eq=False)
class Steps:
    """The steps of a loop, each made when what it returned is asked for first."""

    left: Iterator[Leaves]
    made: list[Leaves] = field(default_factory=list)

    def at(self, step: int) -> Leaves:
        """Return the value of a step; nothing if it did not return."""
        while len(self.made) <= step:
            self.made.append(next(self.left, {}))
        return self.made[step]


@dataclass(eq=False)
class OtherRuns:
    """Run eager on calls otherwise than the reference does.

    ``stateful``: runs change the subject. ``may_go_on`` tells whether there is time for more than
    the cheapest runs. ``precision``: the float type that the artifact computes in; None: eager's.
    """

    subject: Subject
    seed: int
    stateful: bool = True
    device: str = "cpu"
    precision: torch.dtype | None = None
    may_go_on: Callable[[], bool] = lambda: True
    copies: dict[torch.dtype | str, Subject] = field(default_factory=dict)

    def of(
        self, calls: Sequence[Call], paths: Sequence[str], expected: Leaves, held: Held
    ) -> Iterator[Runs]:
        """Yield runs of calls after which eager gave ``expected``, then the same and further ones.

        Yield none if a plain run gives something else: runs change the subject, and their
        differences are not rounding. ``held`` are operands of eager's decisions. Raises
        NotRepeatable if not even two fresh copies of the subject agree.
        """
        seed_everything(self.seed)
        before = torch.get_rng_state()
        plain = self.run(calls, paths, [Way()])
        draws = not torch.equal(before, torch.get_rng_state())
        if self.device == "cpu" and _parted(plain, [expected], paths):
            self._raise_if_copies_differ(calls, paths)
            return
        # Random numbers are drawn differently in float64.
        truth = [] if draws else self.run(calls, paths, [Way(where=torch.float64, held=held)])
        # Random numbers are drawn differently in another type.
        low = [] if draws else self._in_precision(calls, paths, expected)
        runs = Runs(next(iter(truth), {}), low, self.precision if low else None)
        packs = self._packs(calls, paths, truth)
        for ways in self._ways(held, runs.ties, packs=packs):
            runs.others.extend(self.run(calls, paths, ways))
            yield runs

    def _in_precision(
        self, calls: Sequence[Call], paths: Sequence[str], expected: Leaves
    ) -> list[Leaves]:
        """Return runs in the artifact's precision; without those that overflow, which is a bug."""
        if self.precision is None:
            return []
        roundings: list[Rounding] = [nullcontext, *(partial(scattered, n) for n in range(FEW))]
        found = self.run(calls, paths, [Way(each, self.precision) for each in roundings])
        if not found:  # forward mixes float types
            found = self.run(calls, paths, [Way(partial(rounded_to, self.precision))])
        return [
            leaves
            for leaves in found
            if not any(_overflows(expected.get(path), leaves.get(path)) for path in paths)
        ]

    def without_casts(self, calls: Sequence[Call], paths: Sequence[str]) -> Runs:
        """Return a run in float64 without casts to other floats, and runs that cast otherwise."""
        truth = self.run(calls, paths, [Way(uncast, torch.float64)])
        casts = [Way(partial(scattered, number, casts=True)) for number in range(MANY)]
        return Runs(truth[0], self.run(calls, paths, casts)) if truth else Runs()

    def of_loop(
        self, unroll: Callable[[Callable[[Call], Outcome]], Iterator[Leaves]], *, draws: bool
    ) -> Iterator[Callable[[int], Runs]]:
        """Yield functions that return the runs of a step of a loop: the same and further ones.

        ``unroll`` makes the loop's calls with a function, and yields what each step returned.
        ``draws``: the step is random.
        """

        def made(way: Way) -> Steps:
            subject = self._copy(way.where)
            function = partial(observe, way.through(subject.function), seed=self.seed)
            mode = subject.grad_mode
            return Steps(unroll(lambda call: function(way.given(call), grad_mode=mode)))

        ties = Ties()
        truth = Steps(iter(())) if draws else made(Way(where=torch.float64))
        others = [made(Way(where=self.precision))] if self.precision is not None else []
        for ways in self._ways(NOTHING_HELD, ties, packs=False):
            others += map(made, ways)
            yield partial(_runs_of, truth, tuple(others), ties)

    def run(self, calls: Sequence[Call], paths: Sequence[str], ways: Iterable[Way]) -> list[Leaves]:
        """Return the leaves after the last of the calls in each way in which eager returns it.

        Of the subject's tensors, those at ``paths``.
        """
        found: list[Leaves] = []
        for way in ways:
            subject = self._copy(way.where)
            function = way.through(subject.function)
            outcome: Outcome | None = None
            for call in map(way.given, calls):
                outcome = observe(function, call, seed=self.seed, grad_mode=subject.grad_mode)
            if isinstance(outcome, Returned):
                found.append(leaves_after(outcome, tensors_of(subject.module, only=paths)))
        return found

    def _ways(self, held: Held, ties: Ties, *, packs: bool) -> Iterator[Sequence[Way]]:
        """Yield the ways to run eager in batches, the cheapest first.

        If it ``packs``, every second one is on contiguous inputs: torch has other kernels for them,
        and an artifact may use those on strided inputs too.
        """
        scatters: list[Rounding] = [partial(scattered, n, ties) for n in range(MANY_TIED)]

        def rounded(*roundings: Rounding) -> list[Way]:
            return [
                Way(rounding, packed=packs and number % 2 == 0, held=held)
                for number, rounding in enumerate(roundings)
            ]

        noise = [Way(where=self.device)] * NOISE_RUNS if self.device != "cpu" else []
        yield [*rounded(sequential, *scatters[:FEW]), *noise]
        if self.may_go_on():
            yield rounded(partial(sequential, LANES), *scatters[FEW:MANY])
        if ties.met and self.may_go_on():
            yield rounded(*scatters[MANY:])
        yield [Way(replay) for replay in held.replays(MULTIPLE)]

    def _packs(self, calls: Sequence[Call], paths: Sequence[str], truth: Sequence[Leaves]) -> bool:
        """Return True if inputs are strided, and contiguous ones change nothing but rounding.

        Forward may write to a strided input where it writes to a copy of a contiguous one.
        """
        plain = (tensor for call in calls for tensor in call.tensors() if is_plain(tensor))
        if not truth or all(tensor.is_contiguous() for tensor in plain):
            return False
        found = self.run(calls, paths, [Way(where=torch.float64, packed=True)])
        return bool(found) and not _parted(found, truth, paths)

    def _raise_if_copies_differ(self, calls: Sequence[Call], paths: Sequence[str]) -> None:
        fresh: list[Leaves] = []
        for _ in range(2):
            self.copies.clear()
            fresh += self.run(calls, paths, [Way()])
        parted = _parted(fresh[:1], fresh[1:], paths)
        if parted:
            found = examine(self.subject, calls[-1], self.seed)
            raise NotRepeatable(
                found.unrepeatable or "calls on equal inputs, from equal state and seed, differ",
                details=found.uninitialized,
                where=found.where,
                differences=tuple(parted),
            )

    def _copy(self, where: torch.dtype | str) -> Subject:
        """Return the subject in a float type or on a device: a fresh one if runs change it."""
        if self.stateful or where not in self.copies:
            copy = self.subject.copy()
            if isinstance(where, str):
                copy.to(where)
            elif copy.module is not None:
                copy.module.to(where)
            self.copies[where] = copy
        return self.copies[where]


def _runs_of(truth: Steps, others: Sequence[Steps], ties: Ties, step: int) -> Runs:
    made = (each.at(step) for each in others)
    return Runs(truth.at(step), [leaves for leaves in made if leaves], ties=ties)


def _overflows(expected: Any, leaf: Any) -> bool:
    """Return True if a number is infinite or nan that is finite in eager's own precision."""
    both = isinstance(expected, torch.Tensor) and isinstance(leaf, torch.Tensor)
    if not both or not is_plain(leaf) or expected.shape != leaf.shape:
        return False
    return bool((expected.cpu().isfinite() & ~leaf.cpu().isfinite()).any())


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

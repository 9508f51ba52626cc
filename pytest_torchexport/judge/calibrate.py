"""Decide whether a difference is rounding, a tie, or a bug, if the table of tolerances fails.

``other_runs`` runs eager in float64, and with its results rounded differently; from these runs
``own_error`` tells what a difference is. An integer or bool that eager's rounding decides is a tie
unless the artifact decides on the same numbers (``decisions``), or returns what no choice of
eager's explains (``wholes``). Differences under the user's own ``rtol``/``atol`` are never
calibrated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.decisions import NOTHING_HELD, Decisions, Held, Places, See
from pytest_torchexport.judge.other_runs import Leaves, OtherRuns, leaves_after
from pytest_torchexport.judge.own_error import (
    BUG,
    Seen,
    as_without_casts,
    is_far_beyond,
    like,
    with_cause,
)
from pytest_torchexport.judge.wholes import MOST_ELEMENTS, Choices, Wholes
from pytest_torchexport.outcomes.compare import Tolerance, compare_values
from pytest_torchexport.outcomes.observe import Outcome, Returned
from pytest_torchexport.results.verdict import Difference

# An item that has so many failures is red whatever becomes of another call.
WEIGHED = 5

# Runs a call on the artifact, and shows the values in it; None if it cannot.
Shown = Callable[[Call, See], Outcome | None]


def _shows_nothing(call: Call, see: See) -> None:
    """Show no values of an artifact."""


@dataclass(frozen=True)
class Judged:
    """Differences that are bugs, and those that are explained (each with its ``cause``)."""

    bugs: list[Difference]
    explained: list[Difference]

    @classmethod
    def of(cls, differences: Iterable[Difference]) -> Judged:
        """Sort differences by whether their cause explains them."""
        found = cls([], [])
        for item in differences:
            (found.bugs if item.cause in ("", BUG) else found.explained).append(item)
        return found


class Calibration:
    """Eager's own error on a call, measured with as many runs as a decision needs."""

    def __init__(
        self,
        runs: OtherRuns,
        *,
        shown: Shown = _shows_nothing,
        usual: Callable[[], Sequence[Call]] = tuple,
        leaves_out_casts: bool = False,
    ) -> None:
        """Measure nothing yet.

        ``shown`` runs the artifact; ``usual`` returns calls on which no operand of a decision is
        all zero. ``leaves_out_casts``: the artifact's runtime may.
        """
        self._runs = runs
        self._shown, self._usual = shown, usual
        self._leaves_out_casts = leaves_out_casts

    def take_over(self, other: Calibration) -> None:
        """Use the runs of eager that another one made last: of the same subject, from its seed."""
        self._runs.take_over(other._runs)

    def judge(
        self,
        differences: Sequence[Difference],
        calls: Sequence[Call],
        expected: Leaves,
        actual: Leaves,
        *,
        known: int = 0,
    ) -> Judged:
        """Sort the differences after the last of ``calls``, made in a row from the pristine state.

        Only differences of numbers can be explained, and only by runs of eager that return.
        ``known``: the failures that the item has already. With one, a few runs are enough for a
        difference that is far beyond eager's error in them, if nothing in the call jumps; with
        ``WEIGHED``, in any case.
        """
        bugs = [item for item in differences if item.total is None]
        asked = [item for item in differences if item.total is not None]
        if bugs or not asked:
            return Judged(list(differences), [])
        single = len(calls) == 1 and self._runs.device == "cpu"
        decisions = self._decisions(calls[0]) if single else None
        held = self._held(calls[0], decisions, asked, actual) if decisions else NOTHING_HELD
        smooth = decisions is not None and decisions.smooth
        quick = known >= WEIGHED or (known > 0 and smooth)
        found = self._judged(asked, calls, expected, actual, held, quick=quick)
        if not (self._leaves_out_casts and decisions and decisions.casts and found.bugs):
            return found
        more = self._uncast(found.bugs, calls, expected, actual)
        return Judged(more.bugs, [*found.explained, *more.explained])

    def _uncast(
        self,
        bugs: Sequence[Difference],
        calls: Sequence[Call],
        expected: Leaves,
        actual: Leaves,
    ) -> Judged:
        """Sort differences by what eager returns if its casts to narrower floats are left out."""
        exact, others = self._runs.without_casts(calls, [item.path for item in bugs])

        def judged(bug: Difference) -> Difference:
            wanted, path = expected[bug.path], bug.path
            truth = like(exact[0].get(path), wanted) if exact else None
            runs = [like(leaves.get(path), wanted) for leaves in others]
            known = [run for run in runs if run is not None]
            return as_without_casts(bug, truth, known, wanted, actual[path])

        return Judged.of(map(judged, bugs))

    def _judged(
        self,
        asked: Sequence[Difference],
        calls: Sequence[Call],
        expected: Leaves,
        actual: Leaves,
        held: Held,
        *,
        quick: bool,
    ) -> Judged:
        """Sort differences of numbers; ``held`` are operands of eager's decisions.

        ``quick``: a few runs are enough to show how far rounding may move a call.
        """
        paths = [item.path for item in asked]
        runs = self._runs.of(calls, paths, expected, held)
        if not runs.repeats:
            return Judged(list(asked), [])
        seen = {
            path: Seen(truth=like(runs.truth.get(path), expected[path]), ties=runs.ties)
            for path in paths
        }
        found = Judged(list(asked), [])
        wholes = self._wholes(calls, asked, expected, actual)
        if runs.truth:
            wholes.add(_numbers(runs.truth, expected))
        for batch in runs.batches():
            for leaves in batch:
                wholes.add(_numbers(leaves, expected))
                for path in paths:
                    other = like(leaves.get(path), expected[path])
                    seen[path].others += [other] if other is not None else []
            found = _sort(asked, seen, expected, actual)
            if not found.bugs and not wholes.doubtful:
                return found
            if quick and _are_far_beyond(found.bugs, seen, expected, actual):
                return found
        return found if found.bugs else _without(found, wholes.impossible(ties=runs.ties.met))

    def _wholes(
        self,
        calls: Sequence[Call],
        asked: Sequence[Difference],
        expected: Leaves,
        actual: Leaves,
    ) -> Wholes:
        choices = Choices()
        wanted = _numbers(expected, expected)
        exact = frozenset(path for path in wanted if _is_exact(expected[path]))
        if len(calls) == 1 and any(item.path in exact for item in asked):
            self._runs.under(choices.recorded, calls[0])
        return Wholes(
            wanted,
            _numbers(actual, expected),
            asked=[item.path for item in asked],
            exact=exact,
            tolerances={path: _tolerance(expected[path], wanted[path]) for path in wanted},
            choices=choices.made,
        )

    def _held(
        self, call: Call, decisions: Decisions, asked: Sequence[Difference], actual: Leaves
    ) -> Held:
        """Return the operands of eager's decisions that the artifact has too.

        NOTHING_HELD if its values cannot be seen, or if it returns something else while they are.
        """
        if not decisions.operands:
            return NOTHING_HELD
        wanted, values = self._places.names(), dict[str, torch.Tensor]()

        def see(name: str, value: torch.Tensor) -> None:
            if name in wanted:
                values[name] = value.clone()

        outcome = self._shown(call, see) if wanted else None
        if not isinstance(outcome, Returned):
            return NOTHING_HELD
        there = leaves_after(outcome, {})
        agrees = all(
            item.path in there
            and not compare_values(actual[item.path], there[item.path], Tolerance(), item.path)
            for item in asked
        )
        return self._places.held(decisions, values) if agrees else NOTHING_HELD

    @cached_property
    def _places(self) -> Places:
        """The places at which the artifact has the operands of eager's decisions."""
        places = Places()
        for call in self._usual():
            places.learn(self._decisions(call), partial(self._shown, call))
        return places

    def _decisions(self, call: Call) -> Decisions:
        decisions = Decisions()
        self._runs.under(decisions.recorded, call)
        return decisions


def _numbers(leaves: Leaves, wanted: Leaves) -> dict[str, torch.Tensor]:
    """Return what a run returned in float64: tensors of real numbers, of eager's shapes."""
    found = {
        path: like(leaves[path], wanted[path])
        for path in leaves
        if path in wanted and isinstance(wanted[path], torch.Tensor)
    }
    return {
        path: tensor.double()
        for path, tensor in found.items()
        if tensor is not None and not tensor.is_complex() and 0 < tensor.numel() <= MOST_ELEMENTS
    }


def _is_exact(leaf: torch.Tensor) -> bool:
    return not leaf.is_floating_point()


def _tolerance(leaf: torch.Tensor, numbers: torch.Tensor) -> tuple[float, float]:
    largest = float(numbers.abs().nan_to_num(0.0, 0.0, 0.0).max())
    return Tolerance().of(leaf.dtype, largest)


def _without(found: Judged, impossible: frozenset[str]) -> Judged:
    """Return the differences with those of impossible outputs as bugs."""
    bugs = [
        dataclasses.replace(item, cause=BUG, own_error=None)
        for item in found.explained
        if item.path in impossible
    ]
    return Judged(bugs, [item for item in found.explained if item.path not in impossible])


def _are_far_beyond(
    bugs: Sequence[Difference], seen: Mapping[str, Seen], expected: Leaves, actual: Leaves
) -> bool:
    return bool(bugs) and all(
        is_far_beyond(bug, seen[bug.path], expected.get(bug.path), actual.get(bug.path))
        for bug in bugs
    )


def _sort(
    differences: Sequence[Difference],
    seen: Mapping[str, Seen],
    expected: Leaves,
    actual: Leaves,
) -> Judged:
    return Judged.of(
        with_cause(item, seen[item.path], expected.get(item.path), actual.get(item.path))
        for item in differences
    )

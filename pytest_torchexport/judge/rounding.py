"""Decide whether a difference is rounding, a tie, or a bug, if the table of tolerances fails."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final

import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.decisions import NOTHING_HELD, Decisions, Held, Places, See, is_near
from pytest_torchexport.judge.other_runs import MULTIPLE, Leaves, OtherRuns, Runs, Way, leaves_after
from pytest_torchexport.outcomes.compare import (
    Tolerance,
    as_tensor,
    compare_values,
    dense,
    number_difference,
)
from pytest_torchexport.outcomes.observe import Outcome, Returned
from pytest_torchexport.results.verdict import Difference, DifferenceCause

# An element is excused by eager's error on elements of up to this many times its own size. One
# error for the whole tensor would let large elements excuse errors of small ones; one per element
# would depend on luck.
SAME_SIZE = 64.0
# It is excused by at most this multiple of its own error: a chaotic element does not excuse a
# stable one beside it.
SAME_ERROR = 16.0
# If float64 is this many times further off than the scattered runs, the code computes something
# else in float64: it depends on the dtype (``torch.finfo(x.dtype).eps``).
OTHER_QUESTION = 64.0
# From this share of the output's own spread on, eager's error is as large as what it computes.
DROWNED = 0.1

# A difference so many times as large as eager's own error in its first other runs is a bug: the
# further runs would have to be as many times further off than these.
FAR = 1000.0

BUG: Final = "bug"
ROUNDING: Final = "rounding"
TIE: Final = "tie"
AMBIGUOUS: Final = "ambiguous"


def _numbers(leaf: Any) -> torch.Tensor | None:
    """Return numbers as a dense tensor on the CPU, or None."""
    if isinstance(leaf, (float, complex)) or hasattr(leaf, "__array_interface__"):
        with suppress(TypeError):
            leaf = as_tensor(leaf)
    return dense(leaf.detach().cpu()) if isinstance(leaf, torch.Tensor) else None


def plain_tensor(leaf: Any) -> torch.Tensor | None:
    """Return numbers as a dense tensor on the CPU, of the widest dtype of their kind, or None."""
    tensor = _numbers(leaf)
    if tensor is None:
        return None
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor.to(torch.int64)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A difference in one output of ``dtype``, and the output of eager's other runs.

    ``wanted`` is what eager returned, ``found`` what the artifact did, all in the widest dtype.
    ``units``: the float type in whose last place either is rounded.
    """

    difference: Difference
    dtype: torch.dtype
    wanted: torch.Tensor
    found: torch.Tensor
    truth: torch.Tensor | None
    others: Sequence[torch.Tensor]
    tied: bool
    units: torch.dtype

    @classmethod
    def of(cls, difference: Difference, expected: Any, actual: Any, runs: Runs) -> Seen:
        own, wanted, found = _numbers(expected), plain_tensor(expected), plain_tensor(actual)
        assert own is not None
        assert wanted is not None
        assert found is not None

        def seen(made: Sequence[Leaves]) -> list[torch.Tensor]:
            leaves = (plain_tensor(leaves.get(difference.path)) for leaves in made)
            return [
                leaf.to(wanted.dtype)
                for leaf in leaves
                if leaf is not None and leaf.shape == wanted.shape
            ]

        return cls(
            difference=difference,
            dtype=own.dtype,  # of a quantized tensor, that of its numbers
            units=runs.precision or own.dtype,
            wanted=wanted,
            found=found,
            truth=next(iter(seen([runs.truth])), None),
            others=seen(runs.others),
            tied=runs.ties.met,
        )

    @property
    def allowed(self) -> torch.Tensor:
        """The most that each element may be off by the tolerance."""
        return (self.difference.atol or 0.0) + (self.difference.rtol or 0.0) * self.wanted.abs()

    def within(self, limit: torch.Tensor) -> torch.Tensor:
        """Return per element whether both are alike; infinity is close to nothing, and no scale."""
        wanted, found = self.wanted, self.found
        finite = torch.isfinite(wanted) & torch.isfinite(found)
        alike = (wanted == found) | (wanted.isnan() & found.isnan())
        return alike | (finite & ((found - wanted).abs() <= limit))

    def furthest(self, runs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return per element the largest finite distance of some runs from this one."""
        gaps = torch.stack([(self.wanted - run).abs() for run in runs])
        return torch.where(gaps.isfinite(), gaps, 0.0).amax(dim=0)

    def is_drowned(self, own: torch.Tensor) -> bool:
        """Return True if eager's ``own`` error is about as large as what it computes."""
        finite = self.wanted[torch.isfinite(self.wanted)].abs()
        return bool(finite.numel()) and float(own.max()) >= DROWNED * float(finite.max())

    def by(self, cause: DifferenceCause, own: torch.Tensor) -> Difference:
        index = self.difference.index
        error = float(own[index].max()) if index is not None else None
        return dataclasses.replace(self.difference, own_error=error, cause=cause)


def with_cause(seen: Seen) -> Difference:
    if not seen.others and seen.truth is None:
        return seen.difference
    wanted, found = seen.wanted, seen.found
    runs = torch.stack([*seen.others, wanted])
    if wanted.dtype == torch.int64:
        # A tie if each differing element also differs among eager's own runs, about as far.
        low, high = runs.double().amin(dim=0), runs.double().amax(dim=0)
        reach = high - low
        inside = (found >= low - reach) & (found <= high + reach) & (reach > 0)
        falls = bool(inside[wanted != found].all())
        return dataclasses.replace(seen.difference, cause=TIE if falls else BUG)
    own = _own_error(seen)
    within = seen.within(seen.allowed + MULTIPLE * own)
    # One rounding error is divided by another, or a sum is next to the largest number.
    finite = runs.isfinite()
    undefined = finite.any(0) & ~finite.all(0) & ~within
    # The largest number stands for infinity where something begins or ends with it: no rounding
    # makes it, unless one of eager's own is near.
    largest = torch.finfo(seen.dtype).max
    near = (finite & (runs.abs() >= largest / 2)).any(0)
    undefined &= (found.abs() != largest) | near
    bad = ~(within | undefined)
    if not bool(bad.any()):
        drowned = seen.is_drowned(own) or bool(undefined.any())
        return seen.by(TIE if seen.tied else AMBIGUOUS if drowned else ROUNDING, own)
    # Described by the worst of the elements that nothing explains.
    given = seen.difference
    bounds = given.rtol or 0.0, given.atol or 0.0
    worst = dataclasses.replace(
        number_difference(given.path, wanted.to(seen.dtype), wanted, found, bad, bounds),
        kind=given.kind,
        what=given.what,
        mismatched=given.mismatched or 0,
    )
    return dataclasses.replace(seen, difference=worst).by(BUG, own)


def as_without_casts(seen: Seen) -> Difference:
    """Return the difference as rounding if the artifact is as exact as eager's casts are.

    A runtime may leave out any casts to narrower floats. Then each element is as near to ``truth``,
    which eager returns in float64 without them, as eager's own is or as such casts may leave it,
    and differs by no more than they may. ``others`` are runs of eager that round in the
    casts otherwise: if they differ as much as the output is large, the casts are what it computes.
    """
    wanted, found, truth = seen.wanted, seen.found, seen.truth
    if truth is None or not seen.others or not wanted.is_floating_point():
        return seen.difference
    own = _pooled(seen.furthest(seen.others), wanted.abs())
    # A runtime may keep some of the casts, where eager's own error is none by chance.
    near = (found - truth).abs() <= torch.maximum((wanted - truth).abs(), own)
    within = near & seen.within(seen.allowed + MULTIPLE * own)
    within |= seen.within(seen.allowed)
    if seen.is_drowned(own) or not bool(within.all()):
        return seen.difference
    return seen.by(ROUNDING, own)


def is_far_beyond(seen: Seen) -> bool:
    """Return True if hardly any further run can explain a difference.

    It is FAR times as large as what eager's error, in any element, and the tolerance allow.
    """
    if not seen.wanted.is_floating_point() or not seen.others:
        return False
    # What is no number, in any of them, may be another order of a sum.
    own = float((torch.stack([*seen.others]) - seen.wanted).abs().max())
    gap = float((seen.found - seen.wanted).abs().max())
    return math.isfinite(gap) and gap > FAR * (own + float(seen.allowed.max()))


def _own_error(seen: Seen) -> torch.Tensor:
    """Return per element how far eager's other runs are from this one."""
    size, eps = seen.wanted.abs(), torch.finfo(seen.units).eps

    def furthest(runs: Sequence[torch.Tensor]) -> torch.Tensor:
        own = seen.furthest(runs)
        # A tie may pick any of its values, however rarely it did so in a dozen runs.
        if seen.tied and bool((own > seen.allowed + DROWNED * size).any()):
            return own.max().expand_as(own)
        # At least half a unit in the last place: the runs may miss it.
        least = torch.maximum(own, (0.5 * eps * size).nan_to_num(posinf=0.0))
        pooled = _pooled(own, size)
        return torch.where(least > 0, torch.minimum(pooled, SAME_ERROR * least), pooled)

    if seen.truth is None:
        return furthest(seen.others)
    if seen.others:
        own, truth = furthest(seen.others), seen.furthest([seen.truth])
        if bool((truth > OTHER_QUESTION * own + seen.allowed.nan_to_num(posinf=0.0)).any()):
            return own
    return furthest([*seen.others, seen.truth])


def _pooled(error: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Return per element the largest error of elements at most SAME_SIZE times as large."""
    flat = size.reshape(-1).nan_to_num()
    order = flat.argsort()
    largest = error.reshape(-1)[order].cummax(dim=0).values
    reach = torch.searchsorted(flat[order].contiguous(), flat * SAME_SIZE, right=True) - 1
    return largest[reach].reshape(error.shape)


# An item that has so many failures is red whatever becomes of another call. Chosen, not measured.
WEIGHED = 3

# Runs a call on the artifact, and shows the values in it; None if it cannot.
Shown = Callable[[Call, See], Outcome | None]


@dataclass(frozen=True)
class Judged:
    """Differences that are bugs, and those that are explained (each with its ``cause``).

    ``proved``: ties are those of the artifact's own operands. Else none of these was seen.
    """

    bugs: list[Difference]
    explained: list[Difference]
    proved: bool = True

    @classmethod
    def of(cls, differences: Iterable[Difference]) -> Judged:
        found = cls([], [])
        for item in differences:
            (found.bugs if item.cause in ("", BUG) else found.explained).append(item)
        return found


def judged_by(
    made: Iterable[Runs],
    asked: Sequence[Difference],
    expected: Leaves,
    actual: Leaves,
    *,
    quick: bool,
) -> tuple[Judged, Runs | None]:
    """Sort differences of numbers by as many of eager's runs as that needs; with the last of them.

    ``quick``: a few are enough for differences that are far beyond eager's error in them.
    """
    found, runs = Judged(list(asked), []), None
    for runs in made:
        seen = [Seen.of(item, expected[item.path], actual[item.path], runs) for item in asked]
        found = Judged.of(map(with_cause, seen))
        wrong = {bug.path for bug in found.bugs}
        far = (is_far_beyond(each) for each in seen if each.difference.path in wrong)
        if not wrong or (quick and all(far)):
            break
    return found, runs


@dataclass(eq=False)
class Calibration:
    """Eager's own error on a call, measured with as many runs as a decision needs.

    ``shown`` runs the artifact; ``usual`` returns calls on which no operand of a decision is all
    zero. ``leaves_out_casts``: the artifact's runtime may.
    """

    runs: OtherRuns
    shown: Shown = lambda *_: None
    usual: Callable[[], Sequence[Call]] = tuple
    leaves_out_casts: bool = False

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
        ``known``: the failures that the item has already. With ``WEIGHED`` of them, a few runs are
        enough for a difference that is far beyond eager's error in them.
        """
        both = expected.keys() & actual.keys()
        if any(item.total is None or item.path not in both for item in differences):
            return Judged(list(differences), [])
        on_cpu = self.runs.device == "cpu"
        asked = len(calls) == 1 and (on_cpu or self.leaves_out_casts)
        decisions = self._decisions(calls[0]) if asked else Decisions()
        held = self._held(calls[0], decisions, differences, actual) if on_cpu else NOTHING_HELD
        found = self._judged(differences, calls, expected, actual, held, known >= WEIGHED)
        if not (self.leaves_out_casts and decisions.casts and found.bugs):
            return found
        runs = self.runs.without_casts(calls, [bug.path for bug in found.bugs])
        more = Judged.of(
            as_without_casts(Seen.of(bug, expected[bug.path], actual[bug.path], runs))
            for bug in found.bugs
        )
        return Judged(more.bugs, [*found.explained, *more.explained], found.proved)

    def _judged(
        self,
        asked: Sequence[Difference],
        calls: Sequence[Call],
        expected: Leaves,
        actual: Leaves,
        held: Held,
        quick: bool,
    ) -> Judged:
        """Sort differences of numbers; ``held`` are operands of eager's decisions.

        ``quick``: a few runs are enough to show how far rounding may move a call.
        """
        made = self.runs.of(calls, [item.path for item in asked], expected, held)
        found, runs = judged_by(made, asked, expected, actual, quick=quick)
        if runs is None:
            return found  # eager does not repeat
        if len(held.orders) > 1 and not any(_is_like(leaves, actual) for leaves in runs.others):
            # Each output may be of one of the orders, but not all of the same.
            return Judged([dataclasses.replace(item, cause=BUG) for item in asked], [])
        return dataclasses.replace(found, proved=bool(held))

    def _held(
        self, call: Call, decisions: Decisions, asked: Sequence[Difference], actual: Leaves
    ) -> Held:
        """Return the operands of eager's decisions that the artifact has too.

        NOTHING_HELD if its values cannot be seen, or if it returns something else while they are.
        """
        if not (decisions.operands or decisions.orders):
            return NOTHING_HELD
        wanted, values = self._places.names(), dict[str, torch.Tensor]()

        def see(name: str, value: torch.Tensor) -> None:
            if name in wanted:
                values[name] = value.clone()

        outcome = self.shown(call, see) if wanted else None
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
        places = Places()
        for call in self.usual():
            places.learn(self._decisions(call), partial(self.shown, call))
        return places

    def _decisions(self, call: Call) -> Decisions:
        decisions = Decisions()
        self.runs.run([call], [], [Way(decisions.recorded)])
        return decisions


def _is_like(leaves: Leaves, actual: Leaves) -> bool:
    """Return True if a run of eager gives what the artifact does, but for rounding."""
    pairs = ((plain_tensor(leaf), plain_tensor(actual[path])) for path, leaf in leaves.items())
    return all(
        (is_near if found.is_floating_point() else torch.equal)(made, found)
        for made, found in pairs
        if made is not None and found is not None and made.shape == found.shape
    )

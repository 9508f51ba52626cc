"""Decide whether a difference is rounding, a tie, or a bug, if the table of tolerances fails."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Final

import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.decisions import NOTHING_HELD, Decisions, Held, Places, See, is_near
from pytest_torchexport.judge.last_digits import Ties
from pytest_torchexport.judge.other_runs import MULTIPLE, Leaves, OtherRuns, leaves_after
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


@dataclass
class Seen:
    """One output in eager's other runs: in float64, and rounded differently."""

    truth: torch.Tensor | None = None
    others: list[torch.Tensor] = field(default_factory=list)
    ties: Ties = field(default_factory=Ties)


def plain_tensor(leaf: Any) -> torch.Tensor | None:
    """Return numbers as a dense tensor on the CPU, or None."""
    if isinstance(leaf, torch.Tensor):
        return dense(leaf.detach().cpu())
    return as_tensor(leaf) if isinstance(leaf, (float, complex)) else None


def like(other: Any, wanted: Any) -> torch.Tensor | None:
    """Return ``other`` as a plain tensor if it can be compared with ``wanted``, else None."""
    left, right = plain_tensor(other), plain_tensor(wanted)
    return left if left is not None and right is not None and left.shape == right.shape else None


def with_cause(difference: Difference, seen: Seen, wanted: Any, found: Any) -> Difference:
    tensor, found = plain_tensor(wanted), plain_tensor(found)
    unknown = not seen.others and seen.truth is None
    if tensor is None or found is None or unknown:
        return difference
    if not (tensor.is_floating_point() or tensor.is_complex()):
        # A tie if each differing element also differs among eager's own runs, about as far.
        runs = torch.stack([run.to(torch.float64) for run in (*seen.others, tensor)])
        low, high = runs.amin(dim=0), runs.amax(dim=0)
        reach = high - low
        value = found.to(torch.float64)
        inside = (value >= low - reach) & (value <= high + reach) & (reach > 0)
        falls = bool(inside[tensor != found].all())
        return dataclasses.replace(difference, cause=TIE if falls else BUG)
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    wanted, found = tensor.to(wide), found.to(wide)
    allowed = _allowed(difference, wanted)
    own = _own_error(seen, wanted, allowed, torch.finfo(tensor.dtype).eps)
    within = _is_within(wanted, found, allowed + MULTIPLE * own)
    # One rounding error is divided by another, or a sum is next to the largest number.
    finite = torch.stack([run.isfinite() for run in (*seen.others, wanted)])
    undefined = finite.any(0) & ~finite.all(0) & ~within
    # The largest number stands for infinity where something begins or ends with it: no rounding
    # makes it, unless one of eager's own is near.
    largest = torch.finfo(tensor.dtype).max
    sizes = torch.stack([run.abs().double() for run in (*seen.others, wanted)])
    near = (sizes.isfinite() & (sizes >= largest / 2)).any(0)
    undefined &= (found.abs() != largest) | near
    if bool((within | undefined).all()):
        drowned = _drowned(own, wanted) or bool(undefined.any())
        return _with(difference, own, TIE if seen.ties.met else AMBIGUOUS if drowned else ROUNDING)
    # Described by the worst of the elements that nothing explains.
    bounds = difference.rtol or 0.0, difference.atol or 0.0
    bad = ~(within | undefined)
    worst = number_difference(difference.path, tensor, wanted, found, bad, bounds)
    worst = dataclasses.replace(
        worst,
        kind=difference.kind,
        what=difference.what,
        mismatched=difference.mismatched or 0,
    )
    return _with(worst, own, BUG)


def as_without_casts(
    difference: Difference,
    truth: torch.Tensor | None,
    others: Sequence[torch.Tensor],
    wanted: Any,
    found: Any,
) -> Difference:
    """Return the difference as rounding if the artifact is as exact as eager's casts are.

    A runtime may leave out any casts to narrower floats. Then each element is as near to ``truth``,
    which eager returns in float64 without them, as eager's own is or as such casts may leave it,
    and differs by no more than they may. ``others`` are runs of eager that round in the
    casts otherwise: if they differ as much as the output is large, the casts are what it computes.
    """
    wanted, found = plain_tensor(wanted), plain_tensor(found)
    if truth is None or not others or wanted is None or found is None:
        return difference
    if not wanted.is_floating_point():
        return difference
    wanted, found, truth = wanted.double(), found.double(), truth.double()
    allowed = _allowed(difference, wanted)
    own = _pooled(_furthest(others, wanted), wanted.abs())
    # A runtime may keep some of the casts, where eager's own error is none by chance.
    near = (found - truth).abs() <= torch.maximum((wanted - truth).abs(), own)
    within = near & _is_within(wanted, found, allowed + MULTIPLE * own)
    within |= _is_within(wanted, found, allowed)
    if _drowned(own, wanted) or not bool(within.all()):
        return difference
    return _with(difference, own, ROUNDING)


def is_far_beyond(difference: Difference, seen: Seen, wanted: Any, found: Any) -> bool:
    """Return True if hardly any further run can explain a difference.

    It is FAR times as large as what eager's error, in any element, and the tolerance allow.
    """
    wanted, found = plain_tensor(wanted), plain_tensor(found)
    if wanted is None or found is None or not (wanted.is_floating_point() and seen.others):
        return False
    numbers, runs = wanted.double(), [run.double() for run in seen.others]
    # What is no number, in any of them, may be another order of a sum.
    own = float(torch.stack([(numbers - run).abs().max() for run in runs]).max())
    gap = float((found.double() - numbers).abs().max())
    limit = FAR * (own + float(_allowed(difference, numbers).max()))
    return math.isfinite(gap) and gap > limit


def _allowed(difference: Difference, wanted: torch.Tensor) -> torch.Tensor:
    return (difference.atol or 0.0) + (difference.rtol or 0.0) * wanted.abs()


def _is_within(wanted: torch.Tensor, found: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
    """Return per element whether both are alike; infinity is close to nothing, and no scale."""
    finite = torch.isfinite(wanted) & torch.isfinite(found)
    alike = (wanted == found) | (wanted.isnan() & found.isnan())
    return alike | (finite & ((found - wanted).abs() <= limit))


def _with(difference: Difference, own: torch.Tensor, cause: DifferenceCause) -> Difference:
    error = float(own[difference.index].max()) if difference.index is not None else None
    return dataclasses.replace(difference, own_error=error, cause=cause)


def _own_error(seen: Seen, wanted: torch.Tensor, allowed: torch.Tensor, eps: float) -> torch.Tensor:
    """Return per element how far eager's other runs are from this one."""

    def furthest(runs: Sequence[torch.Tensor]) -> torch.Tensor:
        own = _furthest(runs, wanted)
        # A tie may pick any of its values, however rarely it did so in a dozen runs.
        if seen.ties.met and bool((own > allowed + DROWNED * wanted.abs()).any()):
            return own.max().expand_as(own)
        # At least half a unit in the last place: the runs may miss it.
        size = wanted.abs()
        least = torch.maximum(own, (0.5 * eps * size).nan_to_num(posinf=0.0))
        pooled = _pooled(own, size)
        return torch.where(least > 0, torch.minimum(pooled, SAME_ERROR * least), pooled)

    if seen.truth is None or not seen.others:
        return furthest([run for run in (*seen.others, seen.truth) if run is not None])
    own = furthest(seen.others)
    truth = _furthest([seen.truth], wanted)
    if bool((truth > OTHER_QUESTION * own + allowed.nan_to_num(posinf=0.0)).any()):
        return own
    return furthest([*seen.others, seen.truth])


def _furthest(runs: Sequence[torch.Tensor], wanted: torch.Tensor) -> torch.Tensor:
    """Return per element the largest finite distance of some runs from this one."""
    gaps = torch.stack([(wanted - run.to(wanted.dtype)).abs() for run in runs])
    return torch.where(gaps.isfinite(), gaps, 0.0).amax(dim=0)


def _drowned(own: torch.Tensor, wanted: torch.Tensor) -> bool:
    finite = wanted[torch.isfinite(wanted)].abs()
    return bool(finite.numel()) and float(own.max()) >= DROWNED * float(finite.max())


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


class Calibration:
    """Eager's own error on a call, measured with as many runs as a decision needs."""

    def __init__(
        self,
        runs: OtherRuns,
        *,
        shown: Shown = lambda *_: None,
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
        if not differences or any(item.total is None for item in differences):
            return Judged(list(differences), [])
        single = len(calls) == 1 and self._runs.device == "cpu"
        decisions = self._decisions(calls[0]) if single else None
        held = self._held(calls[0], decisions, differences, actual) if decisions else NOTHING_HELD
        found = self._judged(differences, calls, expected, actual, held, known >= WEIGHED)
        if not (self._leaves_out_casts and decisions and decisions.casts and found.bugs):
            return found
        exact, others = self._runs.without_casts(calls, [bug.path for bug in found.bugs])
        more = Judged.of(
            as_without_casts(
                bug,
                next(iter(_at(bug.path, exact, expected)), None),
                _at(bug.path, others, expected),
                expected[bug.path],
                actual[bug.path],
            )
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
        paths = [item.path for item in asked]
        runs = self._runs.of(calls, paths, expected, held)
        if not runs.repeats:
            return Judged(list(asked), [])
        seen = {
            path: Seen(truth=like(runs.truth.get(path), expected[path]), ties=runs.ties)
            for path in paths
        }
        found, made = Judged(list(asked), []), []

        def about(item: Difference) -> tuple[Difference, Seen, Any, Any]:
            path = item.path
            return item, seen[path], expected.get(path), actual.get(path)

        for batch in runs.batches():
            made += batch
            for path in paths:
                seen[path].others += _at(path, batch, expected)
            found = Judged.of(with_cause(*about(item)) for item in asked)
            if not found.bugs or (quick and all(is_far_beyond(*about(bug)) for bug in found.bugs)):
                break
        if len(held.orders) > 1 and not any(_is_like(leaves, actual) for leaves in made):
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
        places = Places()
        for call in self._usual():
            places.learn(self._decisions(call), partial(self._shown, call))
        return places

    def _decisions(self, call: Call) -> Decisions:
        decisions = Decisions()
        self._runs.under(decisions.recorded, call)
        return decisions


def _at(path: str, runs: Sequence[Leaves], expected: Leaves) -> list[torch.Tensor]:
    """Return one output of some runs, where it can be compared with what eager returned."""
    found = (like(leaves.get(path), expected[path]) for leaves in runs)
    return [tensor for tensor in found if tensor is not None]


def _is_like(leaves: Leaves, actual: Leaves) -> bool:
    """Return True if a run of eager gives what the artifact does, but for rounding."""
    pairs = (
        (like(leaf, actual[path]), plain_tensor(actual[path])) for path, leaf in leaves.items()
    )
    return all(
        (is_near if found.is_floating_point() else torch.equal)(made, found)
        for made, found in pairs
        if made is not None and found is not None
    )

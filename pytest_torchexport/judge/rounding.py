"""Decide whether a difference is rounding, a tie, or a bug, if the table of tolerances fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Final

import torch

from pytest_torchexport.inputs.pytrees import is_plain
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.decisions import NOTHING_HELD, Decisions, Held, Places, See, is_near
from pytest_torchexport.judge.last_digits import Ties
from pytest_torchexport.judge.other_runs import MULTIPLE, Leaves, OtherRuns, leaves_after
from pytest_torchexport.outcomes.compare import (
    Tolerance,
    as_tensor,
    compare_values,
    dense,
    largest_of,
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

# A difference so many times as large as eager's own error in ENOUGH of its other runs is a bug: the
# further runs would have to be as many times further off than these.
FAR, ENOUGH = 1000.0, 4

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
    """Return the difference with its cause and eager's own error at the worst element."""
    wanted, found = plain_tensor(wanted), plain_tensor(found)
    unknown = not seen.others and seen.truth is None
    if wanted is None or found is None or unknown:
        return difference
    if not (wanted.is_floating_point() or wanted.is_complex()):
        whole: DifferenceCause = TIE if _falls_elsewhere(seen.others, wanted, found) else BUG
        return dataclasses.replace(difference, cause=whole)
    eps = torch.finfo(wanted.dtype).eps
    wide = torch.complex128 if wanted.is_complex() else torch.float64
    tensor, wanted, found = wanted, wanted.to(wide), found.to(wide)
    allowed = _allowed(difference, wanted)
    own = _own_error(seen, wanted, allowed, eps)
    gap = (found - wanted).abs()
    # Infinity is neither close to anything nor a scale.
    finite = torch.isfinite(wanted) & torch.isfinite(found)
    within = finite & (gap <= allowed + MULTIPLE * own)
    within |= _are_equal(wanted, found)
    # One rounding error is divided by another, or a sum is next to the largest number.
    undefined = _is_finite_by_chance(seen.others, wanted) & ~within
    undefined &= ~_is_cut_off(seen.others, wanted, found, torch.finfo(tensor.dtype).max)
    cause: DifferenceCause = BUG
    if bool((within | undefined).all()):
        drowned = _drowned(own, wanted) or bool(undefined.any())
        cause = TIE if seen.ties.met else AMBIGUOUS if drowned else ROUNDING
    else:
        difference = _at_the_worst(difference, tensor, wanted, found, ~(within | undefined))
    return _with(difference, own, cause)


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
    moved = torch.stack([_finite((wanted - run.double()).abs()) for run in others]).amax(dim=0)
    own, gap = _pooled(moved, wanted.abs()), (found - wanted).abs()
    # A runtime may keep some of the casts, where eager's own error is none by chance.
    near = (found - truth).abs() <= torch.maximum((wanted - truth).abs(), own)
    within = near & (gap <= allowed + MULTIPLE * own)
    within = (within | (gap <= allowed)) & wanted.isfinite()
    within |= _are_equal(wanted, found)
    if _drowned(own, wanted) or not bool(within.all()):
        return difference
    return _with(difference, own, ROUNDING)


def _allowed(difference: Difference, wanted: torch.Tensor) -> torch.Tensor:
    return (difference.atol or 0.0) + (difference.rtol or 0.0) * wanted.abs()


def _are_equal(wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    return (wanted == found) | (wanted.isnan() & found.isnan())


def _with(difference: Difference, own: torch.Tensor, cause: DifferenceCause) -> Difference:
    """Return the difference with its cause and eager's own error at its element."""
    error = float(own[difference.index].max()) if difference.index is not None else None
    return dataclasses.replace(difference, own_error=error, cause=cause)


def is_far_beyond(difference: Difference, seen: Seen, wanted: Any, found: Any) -> bool:
    """Return True if no further run can explain a difference, unless something in forward jumps.

    It is FAR times as large as what eager's error, in any element, and the tolerance allow.
    """
    wanted, found = plain_tensor(wanted), plain_tensor(found)
    if (
        wanted is None
        or found is None
        or not wanted.is_floating_point()
        or len(seen.others) < ENOUGH
    ):
        return False
    runs = [run.double() for run in (*seen.others, wanted, found)]
    if not all(bool(run.isfinite().all()) for run in runs):
        return False
    numbers = wanted.double()
    own = max(float((numbers - run).abs().max()) for run in runs[:-1])
    allowed = (difference.atol or 0.0) + (difference.rtol or 0.0) * float(numbers.abs().max())
    return float((found.double() - numbers).abs().max()) > FAR * max(allowed, own)


def _at_the_worst(
    difference: Difference,
    tensor: torch.Tensor,
    wanted: torch.Tensor,
    found: torch.Tensor,
    bad: torch.Tensor,
) -> Difference:
    """Return the same difference, described by the worst of the elements that nothing explains.

    ``tensor`` has the output's own dtype.
    """
    allowed = difference.rtol or 0.0, difference.atol or 0.0
    other = number_difference(difference.path, tensor, wanted, found, bad, allowed)
    return dataclasses.replace(
        other,
        kind=difference.kind,
        what=difference.what,
        mismatched=difference.mismatched or 0,
    )


def _own_error(seen: Seen, wanted: torch.Tensor, allowed: torch.Tensor, eps: float) -> torch.Tensor:
    """Return per element how far eager's other runs are from this one."""

    def furthest(runs: Sequence[torch.Tensor]) -> torch.Tensor:
        gaps = torch.stack([_finite((wanted - run.to(wanted.dtype)).abs()) for run in runs])
        own = gaps.amax(dim=0)
        # A tie may pick any of its values, however rarely it did so in a dozen runs.
        tied = seen.ties.met and bool((own > allowed + DROWNED * wanted.abs()).any())
        return own.max().expand_as(own) if tied else _among_equals(own, wanted.abs(), eps)

    if seen.truth is None:
        return furthest(seen.others)
    if not seen.others:
        return furthest([seen.truth])
    own = furthest(seen.others)
    truth = _finite((wanted - seen.truth.to(wanted.dtype)).abs())
    if bool((truth > OTHER_QUESTION * own + allowed.nan_to_num(posinf=0.0)).any()):
        return own
    return furthest([*seen.others, seen.truth])


def _is_finite_by_chance(runs: Sequence[torch.Tensor], wanted: torch.Tensor) -> torch.Tensor:
    """Return per element whether it is a number in some of eager's runs and none in others."""
    finite = torch.stack([torch.isfinite(run) for run in (*runs, wanted)])
    return finite.any(0) & ~finite.all(0)


def _is_cut_off(
    runs: Sequence[torch.Tensor], wanted: torch.Tensor, found: torch.Tensor, largest: float
) -> torch.Tensor:
    """Return per element whether it is the largest finite number, and none of eager's is near.

    That number stands for infinity where something begins or ends with it: no rounding makes it.
    """
    sizes = torch.stack([run.abs().to(torch.float64) for run in (*runs, wanted)])
    near = (sizes.isfinite() & (sizes >= largest / 2)).any(0)
    return (found.abs() == largest) & ~near


def _falls_elsewhere(
    others: Sequence[torch.Tensor], wanted: torch.Tensor, found: torch.Tensor
) -> bool:
    """Return True if each differing element also differs among eager's own runs, about as far."""
    runs = torch.stack([run.to(torch.float64) for run in (*others, wanted)])
    low, high = runs.amin(dim=0), runs.amax(dim=0)
    reach = high - low
    value = found.to(torch.float64)
    inside = (value >= low - reach) & (value <= high + reach) & (reach > 0)
    return bool(inside[wanted != found].all())


def _drowned(own: torch.Tensor, wanted: torch.Tensor) -> bool:
    finite = wanted[torch.isfinite(wanted)].abs()
    return bool(finite.numel()) and float(own.max()) >= DROWNED * float(finite.max())


def _among_equals(error: torch.Tensor, size: torch.Tensor, eps: float) -> torch.Tensor:
    """Return per element the largest error of elements that are at most SAME_SIZE times as large.

    It is at most SAME_ERROR times the element's own error, which counts as at least half a unit in
    the last place: the runs may miss it.
    """
    pooled = _pooled(error, size)
    own = torch.maximum(error, (0.5 * eps * size).nan_to_num(posinf=0.0))
    return torch.where(own > 0, torch.minimum(pooled, SAME_ERROR * own), pooled)


def _pooled(error: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    flat = size.reshape(-1).nan_to_num()
    order = flat.argsort()
    largest = error.reshape(-1)[order].cummax(dim=0).values
    reach = torch.searchsorted(flat[order].contiguous(), flat * SAME_SIZE, right=True) - 1
    return largest[reach].reshape(error.shape)


def _finite(error: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.isfinite(error), error, torch.zeros_like(error))


# An item that has so many failures is red whatever becomes of another call.
WEIGHED = 5

# Runs a call on the artifact, and shows the values in it; None if it cannot.
Shown = Callable[[Call, See], Outcome | None]


def _shows_nothing(call: Call, see: See) -> None:
    """Show no values of an artifact."""


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
        return Judged(more.bugs, [*found.explained, *more.explained], found.proved)

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
        found, made = Judged(list(asked), []), []
        for batch in runs.batches():
            made += batch
            for leaves in batch:
                for path in paths:
                    other = like(leaves.get(path), expected[path])
                    seen[path].others += [other] if other is not None else []
            found = _sort(asked, seen, expected, actual)
            if not found.bugs or (quick and _are_far_beyond(found.bugs, seen, expected, actual)):
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
        """The places at which the artifact has the operands of eager's decisions."""
        places = Places()
        for call in self._usual():
            places.learn(self._decisions(call), partial(self._shown, call))
        return places

    def _decisions(self, call: Call) -> Decisions:
        decisions = Decisions()
        self._runs.under(decisions.recorded, call)
        return decisions


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


# From so many units in the last place of an output's largest element on, a difference is doubted.
# On healthy artifacts none was larger than four, beyond eager's own error (same-numbers.md).
UNITS = 32.0
# So many outputs are judged at the end of an item.
MOST = 3


@dataclass(frozen=True)
class Doubt:
    """The call on which an output was furthest off, and what was returned.

    ``units``: how far, in units in the last place of ``largest``.
    """

    units: float
    largest: float
    call: Call
    expected: torch.Tensor
    actual: torch.Tensor


@dataclass
class Doubts:
    """The largest differences so far that are within the tolerance, by output.

    In units of the output's largest element on this call or on the first one: a sigmoid that is
    next to zero on one call is not off by more than on the others.
    """

    _first: dict[str, float] = field(default_factory=dict)
    _worst: dict[str, Doubt] = field(default_factory=dict)

    def saw(self, call: Call, expected: Leaves, actual: Leaves) -> None:
        """Keep the outputs of a call that are further off than on the calls before."""
        for path, left in expected.items():
            right: Any = actual.get(path)
            if not _comparable(left, right):
                continue
            if path not in self._first:
                self._first[path] = largest_of(left)
            if torch.equal(left, right):
                continue
            largest = max(self._first[path], largest_of(left))
            unit = torch.finfo(left.dtype).eps * largest
            gap = (right.detach().double() - left.detach().double()).abs().nan_to_num(0.0, 0.0, 0.0)
            units = float(gap.max()) / unit if unit else 0.0
            if units > max(UNITS, self._worst[path].units if path in self._worst else 0.0):
                self._worst[path] = Doubt(units, largest, call, left, right)

    def judged(self, calibration: Calibration) -> Iterator[tuple[Doubt, Difference]]:
        """Yield the differences that are no rounding."""
        largest = sorted(self._worst.items(), key=lambda item: -item[1].units)
        for path, doubt in largest[:MOST]:
            atol = UNITS * torch.finfo(doubt.expected.dtype).eps * doubt.largest
            found = compare_values(doubt.expected, doubt.actual, Tolerance(0.0, atol), path)
            leaves = {path: doubt.expected}, {path: doubt.actual}
            for bug in calibration.judge(found, [doubt.call], *leaves).bugs:
                yield doubt, bug


def _comparable(left: Any, right: Any) -> bool:
    """Return True for two tensors of real floats that have one shape."""
    plain = (
        is_plain(left)
        and is_plain(right)
        and (left.shape, left.dtype)
        == (
            right.shape,
            right.dtype,
        )
    )
    return plain and left.is_floating_point() and left.numel() > 0

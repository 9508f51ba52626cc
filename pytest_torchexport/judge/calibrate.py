"""Decide whether a difference is rounding, a tie, or a bug, if the table of tolerances fails.

Eager in float64, and eager with its results rounded differently (``rounding``), tell how far eager
itself is from the exact result on this call. A difference within a small multiple of that error is
rounding. An integer or bool output that also flips between eager's own runs is a tie, unless the
artifact decides on the same numbers (``decisions``). If eager's own error is as large as its
output, the call is ambiguous. Everything else is a bug. Differences under the user's own
``rtol``/``atol`` are never calibrated.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch

from pytest_torchexport.eager.preflight import examine
from pytest_torchexport.inputs.pytrees import flatten, is_plain, tree_map
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.decisions import NOTHING_HELD, Decisions, Held, Places, See
from pytest_torchexport.judge.rounding import Ties, in_double, scattered, sequential
from pytest_torchexport.judge.wholes import MOST_ELEMENTS, Choices, Wholes
from pytest_torchexport.outcomes.compare import (
    Tolerance,
    as_tensor,
    compare_values,
    dense,
    number_difference,
)
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
from pytest_torchexport.results.verdict import Difference, DifferenceCause

# ONNX Runtime was measured within about 3x of |eager - float64| and 1.1x of the largest of a few
# scattered runs.
MULTIPLE = 4.0
# An element is excused by eager's error on elements of up to this many times its own size. One
# error for the whole tensor would let large elements excuse errors of small ones; one per element
# would depend on luck.
SAME_SIZE = 64.0
# It is excused by at most this multiple of its own error: a chaotic element does not excuse a
# stable one beside it.
SAME_ERROR = 16.0
# Scattered runs: a few decide most differences; more are made if those do not explain one.
FEW, MANY = 2, 12
# The lanes of vector registers, of the widths that processors have.
LANES = (4, 8, 16)
# Still more runs are made for a tie: a value that is rarely picked must occur in one of them.
MANY_TIED = 60
# Runs on the item's device if that is not the CPU: its kernels may add up in a new order each time.
NOISE_RUNS = 3
# If float64 is this many times further off than the scattered runs, the code computes something
# else in float64: it depends on the dtype (``torch.finfo(x.dtype).eps``).
OTHER_QUESTION = 64.0
# From this share of the output's own spread on, eager's error is as large as what it computes.
DROWNED = 0.1

# Values after a call, by path: outputs, inputs, parameters and buffers.
Leaves = Mapping[str, Any]
# A block in which eager rounds differently.
Rounding = Callable[[], AbstractContextManager[Any]]
# Runs a call on the artifact, and shows the values in it; None if it cannot.
Shown = Callable[[Call, See], Outcome | None]


def _shows_nothing(call: Call, see: See) -> None:
    """Show no values of an artifact."""


def leaves_after(outcome: Returned, state: Leaves) -> Leaves:
    """Return outputs, inputs and the module's tensors after a call, under ``compare``'s paths."""
    inputs = (outcome.inputs.args, dict(outcome.inputs.kwargs))
    return {
        **dict(flatten(outcome.value, "output")[0]),
        **dict(flatten(inputs, "inputs")[0]),
        **state,
    }


@dataclass(frozen=True)
class Judged:
    """Differences that are bugs, and those that are explained (each with its ``cause``)."""

    bugs: list[Difference]
    explained: list[Difference]


class Calibration:
    """Eager's own error on a call, measured with as many runs as a decision needs."""

    def __init__(
        self,
        subject: Subject,
        seed: int,
        *,
        stateful: bool = True,
        device: str = "cpu",
        may_go_on: Callable[[], bool] = lambda: True,
        shown: Shown = _shows_nothing,
        usual: Callable[[], Sequence[Call]] = tuple,
    ) -> None:
        """Measure nothing yet.

        ``stateful``: runs change the subject. ``may_go_on`` tells whether there is time for more
        than the cheapest runs. ``shown`` runs the artifact; ``usual`` returns calls on which no
        operand of a decision is all zero.
        """
        self._subject = subject
        self._shown, self._usual = shown, usual
        self._places: Places | None = None
        self._stateful = stateful
        self._seed = seed
        self._device = device
        self._may_go_on = may_go_on
        self._copies: dict[torch.dtype | str, Subject] = {}
        self._last: tuple[list[Call], tuple[str, ...], Leaves, _Runs] | None = None

    def take_over(self, other: Calibration) -> None:
        """Use the runs of eager that another one made last: of the same subject, from its seed."""
        self._last = other._last

    def judge(
        self,
        differences: Sequence[Difference],
        calls: Sequence[Call],
        expected: Leaves,
        actual: Leaves,
    ) -> Judged:
        """Sort the differences after the last of ``calls``, made in a row from the pristine state.

        Only differences of numbers can be explained, and only by runs of eager that return.
        """
        bugs = [item for item in differences if item.total is None]
        asked = [item for item in differences if item.total is not None]
        if bugs or not asked:
            return Judged(list(differences), [])
        held = self._held(calls, asked, actual)
        return self._judged(asked, calls, expected, actual, held)

    def _judged(
        self,
        asked: Sequence[Difference],
        calls: Sequence[Call],
        expected: Leaves,
        actual: Leaves,
        held: Held,
    ) -> Judged:
        """Sort differences of numbers; ``held`` are operands of eager's decisions."""
        paths = [item.path for item in asked]
        runs = self._runs(calls, paths, expected, held)
        if not runs.repeats:
            return Judged(list(asked), [])
        seen = {path: _Seen() for path in paths}
        for path in paths:
            seen[path].truth = _like(runs.truth.get(path), expected[path])
            seen[path].ties = runs.ties
        found = Judged(list(asked), [])
        wholes = self._wholes(calls, asked, expected, actual)
        if runs.truth:
            wholes.add(_numbers(runs.truth, expected))
        for batch in runs.batches():
            for leaves in batch:
                wholes.add(_numbers(leaves, expected))
                for path in paths:
                    other = _like(leaves.get(path), expected[path])
                    seen[path].others += [other] if other is not None else []
            found = _sort(asked, seen, expected, actual)
            if not found.bugs and not wholes.doubtful:
                return found
        return found if found.bugs else _without(found, wholes.impossible())

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
            self._run(self._copy("cpu"), calls, choices.recorded, [])
        return Wholes(
            wanted,
            _numbers(actual, expected),
            asked=[item.path for item in asked],
            exact=exact,
            tolerances={path: _tolerance(expected[path], wanted[path]) for path in wanted},
            choices=choices.made,
        )

    def _held(self, calls: Sequence[Call], asked: Sequence[Difference], actual: Leaves) -> Held:
        """Return the operands of eager's decisions that the artifact has too.

        None if its values cannot be seen, or if it returns something else while they are.
        """
        if len(calls) > 1 or self._device != "cpu":
            return NOTHING_HELD
        decisions = self._decisions(calls[0])
        if not decisions.operands:
            return NOTHING_HELD
        if self._places is None:
            self._places = Places()
            for call in self._usual():
                self._places.learn(self._decisions(call), partial(self._shown, call))
        wanted, values = self._places.names(), dict[str, torch.Tensor]()

        def see(name: str, value: torch.Tensor) -> None:
            if name in wanted:
                values[name] = value.clone()

        outcome = self._shown(calls[0], see) if wanted else None
        if not isinstance(outcome, Returned):
            return NOTHING_HELD
        there = leaves_after(outcome, {})
        agrees = all(
            item.path in there
            and not compare_values(actual[item.path], there[item.path], Tolerance(), item.path)
            for item in asked
        )
        return self._places.held(decisions, values) if agrees else NOTHING_HELD

    def _decisions(self, call: Call) -> Decisions:
        decisions = Decisions()
        self._run(self._copy("cpu"), [call], decisions.recorded, [])
        return decisions

    def _runs(
        self, calls: Sequence[Call], paths: Sequence[str], expected: Leaves, held: Held
    ) -> _Runs:
        """Return eager's other runs of these calls, the last ones if the calls are the same."""
        last = self._last
        if (
            last is not None
            and last[1] == tuple(paths)
            and _same_calls(last[0], calls)
            and _agree([expected], [last[2]], paths)  # not what a changed eager returned
            and (last[3].held is held)
        ):
            return last[3]
        repeats, draws = self._repeats(calls, expected, paths)
        truths = [] if draws else self._in_float64(calls, paths, held)
        ties = Ties()
        runs = _Runs(
            repeats=repeats,
            truth=truths[0] if truths else {},
            rest=self._references(calls, paths, ties, truths[0] if truths else {}, held),
            ties=ties,
            held=held,
        )
        self._last = list(calls), tuple(paths), expected, runs
        return runs

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
        if self._device != "cpu" or _agree(plain, [expected], paths):
            return True, draws
        one, other = (self._run(self._subject.copy(), calls, nullcontext, paths) for _ in range(2))
        parted = _parted(one, other, paths)
        if parted:
            raise self._not_repeatable(calls, parted)
        return False, draws

    def _not_repeatable(
        self, calls: Sequence[Call], differences: Sequence[Difference]
    ) -> NotRepeatable:
        """Return the failure, with the first operation that differs if it is found."""
        found = examine(self._subject, calls[-1], self._seed)
        return NotRepeatable(
            found.unrepeatable or "calls on equal inputs, from equal state and seed, differ",
            details=found.uninitialized,
            where=found.where,
            differences=tuple(differences),
        )

    def _references(
        self, calls: Sequence[Call], paths: Sequence[str], ties: Ties, truth: Leaves, held: Held
    ) -> Iterator[list[Leaves]]:
        """Yield the results of eager's other runs in batches, the cheapest first.

        Every second run is on contiguous inputs: torch has other kernels for them, and an artifact
        may use those on strided inputs too.
        """
        strided = any(
            is_plain(t) and not t.is_contiguous() for call in calls for t in call.tensors()
        )
        ways = [calls]
        if strided and truth:
            ways = [self._contiguous(calls, paths, truth), calls]
        scatters: list[Rounding] = [partial(scattered, number, ties) for number in range(MANY)]
        first = [sequential, in_double, *scatters[:FEW]]
        yield [*self._under(first, ways, paths, held), *self._noise(calls, paths)]
        if self._may_go_on():
            lanes: list[Rounding] = [partial(sequential, number) for number in LANES]
            yield self._under([*lanes, *scatters[FEW:]], ways, paths, held)
        if ties.met and self._may_go_on():
            more = [partial(scattered, number, ties) for number in range(MANY, MANY_TIED)]
            yield self._under(more, ways, paths, held)
        yield self._under(held.replays(MULTIPLE), [calls], paths, NOTHING_HELD)

    def _in_float64(
        self, calls: Sequence[Call], paths: Sequence[str], held: Held = NOTHING_HELD
    ) -> list[Leaves]:
        wide = [Call(_double(call.args), _double(dict(call.kwargs))) for call in calls]
        rounding = partial(_holding, held, doubles_by_default)
        return self._run(self._copy(torch.float64), wide, rounding, paths)

    def _under(
        self,
        roundings: Sequence[Rounding],
        ways: Sequence[Sequence[Call]],
        paths: Sequence[str],
        held: Held,
    ) -> list[Leaves]:
        """Run the calls under each rounding, given in one of these ways in turn."""
        return [
            leaves
            for rounding, given in zip(roundings, itertools.cycle(ways), strict=False)
            for leaves in self._run(
                self._copy("cpu"), given, partial(_holding, held, rounding), paths
            )
        ]

    def _contiguous(
        self, calls: Sequence[Call], paths: Sequence[str], truth: Leaves
    ) -> Sequence[Call]:
        """Return the calls with contiguous inputs if that changes nothing but rounding.

        Forward may write to a strided input where it writes to a copy of a contiguous one.
        """
        packed = [Call(_packed(call.args), _packed(dict(call.kwargs))) for call in calls]
        found = self._in_float64(packed, paths)
        return packed if found and _agree(found, [truth], paths) else calls

    def _noise(self, calls: Sequence[Call], paths: Sequence[str]) -> list[Leaves]:
        if self._device == "cpu":
            return []
        moved = [call.to(self._device) for call in calls]
        return [
            leaves
            for _ in range(NOISE_RUNS)
            for leaves in self._run(self._copy(self._device), moved, nullcontext, paths)
        ]

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


@dataclass
class _Runs:
    """Eager's other runs of one call.

    ``repeats``: a plain run gave the same. ``truth`` is the run in float64. ``rest`` are batches of
    further runs, made when needed. ``held`` are operands of its decisions.
    """

    repeats: bool
    truth: Leaves
    rest: Iterator[list[Leaves]]
    ties: Ties
    held: Held
    made: list[list[Leaves]] = field(default_factory=list)

    def batches(self) -> Iterator[list[Leaves]]:
        """Yield the rest in batches."""
        yield from self.made
        for batch in self.rest:
            self.made.append(batch)
            yield batch


@dataclass
class _Seen:
    """One output in eager's other runs: in float64, and rounded differently."""

    truth: torch.Tensor | None = None
    others: list[torch.Tensor] = field(default_factory=list)
    ties: Ties = field(default_factory=Ties)


@contextmanager
def _holding(held: Held, rounding: Rounding) -> Iterator[None]:
    """Round differently, but put back the operands that are held. Entered last, it acts first."""
    with rounding(), held.kept():
        yield


def _agree(left: Sequence[Leaves], right: Sequence[Leaves], paths: Sequence[str]) -> bool:
    """Return True if two runs that both returned gave the same."""
    return not _parted(left, right, paths)


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


# Equal ones are the same to a forward.
_PLAIN = (bool, int, float, complex, str, bytes)


def _same_calls(left: Sequence[Call], right: Sequence[Call]) -> bool:
    return len(left) == len(right) and all(map(_same_call, left, right))


def _same_call(one: Call, other: Call) -> bool:
    """Return True if eager rounds alike on both: tensors also lie in memory alike."""
    if one is other:
        return True
    left, right = dict(one.flatten()[0]), dict(other.flatten()[0])
    return left.keys() == right.keys() and all(_same(left[path], right[path]) for path in left)


def _same(one: Any, other: Any) -> bool:
    if not (isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)):
        return one is other or (type(one) is type(other) and type(one) in _PLAIN and one == other)
    return (
        is_plain(one)
        and is_plain(other)
        and (one.dtype, one.device, one.shape) == (other.dtype, other.device, other.shape)
        and one.stride() == other.stride()
        and torch.equal(one, other)
    )


def _plain(leaf: Any) -> torch.Tensor | None:
    """Return numbers as a dense tensor on the CPU, or None."""
    if isinstance(leaf, torch.Tensor):
        return dense(leaf.detach().cpu())
    return as_tensor(leaf) if isinstance(leaf, (float, complex)) else None


def _like(other: Any, wanted: Any) -> torch.Tensor | None:
    """Return ``other`` as a plain tensor if it can be compared with ``wanted``, else None."""
    left, right = _plain(other), _plain(wanted)
    return left if left is not None and right is not None and left.shape == right.shape else None


def _numbers(leaves: Leaves, wanted: Leaves) -> dict[str, torch.Tensor]:
    """Return what a run returned in float64: tensors of real numbers, of eager's shapes."""
    found = {
        path: _like(leaves[path], wanted[path])
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


def _sort(
    differences: Sequence[Difference],
    seen: Mapping[str, _Seen],
    expected: Leaves,
    actual: Leaves,
) -> Judged:
    found = Judged([], [])
    for difference in differences:
        path = difference.path
        judged = _judged(difference, seen[path], expected.get(path), actual.get(path))
        (found.bugs if judged.cause in ("", BUG) else found.explained).append(judged)
    return found


BUG: Final = "bug"
ROUNDING: Final = "rounding"
TIE: Final = "tie"
AMBIGUOUS: Final = "ambiguous"


def _judged(difference: Difference, seen: _Seen, wanted: Any, found: Any) -> Difference:
    """Return the difference with its cause and eager's own error at the worst element."""
    wanted, found = _plain(wanted), _plain(found)
    unknown = not seen.others and seen.truth is None
    if wanted is None or found is None or unknown:
        return difference
    if not (wanted.is_floating_point() or wanted.is_complex()):
        whole: DifferenceCause = TIE if _falls_elsewhere(seen.others, wanted, found) else BUG
        return dataclasses.replace(difference, cause=whole)
    eps = torch.finfo(wanted.dtype).eps
    wide = torch.complex128 if wanted.is_complex() else torch.float64
    tensor, wanted, found = wanted, wanted.to(wide), found.to(wide)
    allowed = (difference.atol or 0.0) + (difference.rtol or 0.0) * wanted.abs()
    own = _own_error(seen, wanted, allowed, eps)
    gap = (found - wanted).abs()
    # Infinity is neither close to anything nor a scale.
    finite = torch.isfinite(wanted) & torch.isfinite(found)
    within = finite & (gap <= allowed + MULTIPLE * own)
    within |= (wanted == found) | (wanted.isnan() & found.isnan())
    # One rounding error is divided by another, or a sum is next to the largest number.
    undefined = _is_finite_by_chance(seen.others, wanted) & ~within
    undefined &= ~_is_cut_off(seen.others, wanted, found, torch.finfo(tensor.dtype).max)
    cause: DifferenceCause = BUG
    if bool((within | undefined).all()):
        drowned = _drowned(own, wanted) or bool(undefined.any())
        cause = TIE if seen.ties.met else AMBIGUOUS if drowned else ROUNDING
    else:
        difference = _at_the_worst(difference, tensor, wanted, found, ~(within | undefined))
    error = float(own[difference.index].max()) if difference.index is not None else None
    return dataclasses.replace(difference, own_error=error, cause=cause)


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


def _own_error(
    seen: _Seen, wanted: torch.Tensor, allowed: torch.Tensor, eps: float
) -> torch.Tensor:
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
    """Return True if eager's error is as large as its output."""
    finite = wanted[torch.isfinite(wanted)].abs()
    return bool(finite.numel()) and float(own.max()) >= DROWNED * float(finite.max())


def _among_equals(error: torch.Tensor, size: torch.Tensor, eps: float) -> torch.Tensor:
    """Return per element the largest error of elements that are at most SAME_SIZE times as large.

    It is at most SAME_ERROR times the element's own error, which counts as at least half a unit in
    the last place: the runs may miss it.
    """
    flat = size.reshape(-1).nan_to_num()
    order = flat.argsort()
    largest = error.reshape(-1)[order].cummax(dim=0).values
    reach = torch.searchsorted(flat[order].contiguous(), flat * SAME_SIZE, right=True) - 1
    pooled = largest[reach].reshape(error.shape)
    own = torch.maximum(error, (0.5 * eps * size).nan_to_num(posinf=0.0))
    return torch.where(own > 0, torch.minimum(pooled, SAME_ERROR * own), pooled)


def _double(value: Any) -> Any:
    def widen(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if leaf.is_floating_point():
            return leaf.double()
        return leaf.to(torch.complex128) if leaf.is_complex() else leaf

    return tree_map(widen, value)


def _packed(value: Any) -> Any:
    def contiguous(leaf: Any) -> Any:
        return leaf.contiguous() if is_plain(leaf) else leaf

    return tree_map(contiguous, value)


def _finite(error: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.isfinite(error), error, torch.zeros_like(error))

"""Tell rounding, ties and bugs apart, given an output in eager's other runs of the same call.

A difference within a small multiple of eager's own error, which is how far the other runs are from
this one, is rounding. An integer or bool that also flips between them is a tie. If eager's own
error is as large as its output, the call is ambiguous. Everything else is a bug.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from pytest_torchexport.judge.scatter import Ties
from pytest_torchexport.outcomes.compare import as_tensor, dense, number_difference
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
    """Return per element what the tolerance allows."""
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
    """Return True if eager's error is as large as its output."""
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
    """Return per element the largest error of elements up to SAME_SIZE times as large."""
    flat = size.reshape(-1).nan_to_num()
    order = flat.argsort()
    largest = error.reshape(-1)[order].cummax(dim=0).values
    reach = torch.searchsorted(flat[order].contiguous(), flat * SAME_SIZE, right=True) - 1
    return largest[reach].reshape(error.shape)


def _finite(error: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.isfinite(error), error, torch.zeros_like(error))

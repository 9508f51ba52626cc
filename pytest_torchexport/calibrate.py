"""Is a difference rounding, a tie, or a bug? Asked only where the dtype's table of tolerances fails.

Eager in float64, and eager on inputs moved by about one unit in the last place, tell how far eager itself
is from the truth on this very call. A difference within a small multiple of that is rounding; an integer
or bool output that flips there at the same elements is a tie. An ``rtol``/``atol`` of the user's is the law and never comes here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from pytest_torchexport.observe import Returned, observe
from pytest_torchexport.spec.inputs import Call
from pytest_torchexport.subject import Subject
from pytest_torchexport.tree import flatten, tree_map
from pytest_torchexport.verdict import Difference

# ONNX Runtime was measured within about 3x of |eager - float64| and 1.1x of the largest of a few moved runs.
MULTIPLE = 4.0
# An element is excused by eager's error on elements of its own size or smaller, up to this factor: one number
# for the whole tensor lets large elements excuse errors of small ones, and one per element is a matter of luck.
SAME_SIZE = 64.0
MOVES = 8
# A tie among many equals must be seen to fall every way.
TIE_MOVES = 12


class Calibration:
    """Eager in float64, made once per item and only when it is first asked for."""

    def __init__(self, subject: Subject, seed: int) -> None:
        self._subject = subject
        self._seed = seed
        self._double: Subject | None = None

    def keep_bugs(
        self, differences: list[Difference], call: Call, expected: Returned, actual: Any
    ) -> list[Difference]:
        """The differences that eager's own error on this call does not explain.

        Only value differences can be explained, and only by runs of eager that return.
        """
        if any(difference.kind != "values" for difference in differences):
            return differences
        truths = self._references(call, ties=any(_is_discrete(expected, d) for d in differences))
        wanted = dict(flatten(expected.value, "output")[0])
        found = dict(flatten(actual.value, "output")[0])
        kept = []
        for difference in differences:
            path = difference.path
            others = [truth.get(path) for truth in truths]
            judged = _judge(difference, others, wanted.get(path), found.get(path))
            if judged is not None:
                kept.append(judged)
        return kept

    def _references(self, call: Call, *, ties: bool) -> list[dict[str, Any]]:
        """What eager returns in float64, and on the same call moved by about one unit in the last place.

        One float64 run alone is a lucky yardstick: a single rounding can come out right by chance. Where
        integers are in question (``ties``), exact zeros are moved too; for floats they are not, or the
        jump at a threshold would pass for rounding.
        """
        if self._double is None:
            self._double = self._subject.copy()
            if self._double.module is not None:
                self._double.module.double()
        wide = Call(_double(call.args), _double(dict(call.kwargs)))
        outcomes = [observe(self._double.copy().function, wide, seed=self._seed)]
        for number in range(TIE_MOVES if ties else MOVES):
            subject, moved = _moved(self._subject.copy(), call, number, zeros=ties)
            outcomes.append(observe(subject.function, moved, seed=self._seed))
        returned = [outcome.value for outcome in outcomes if isinstance(outcome, Returned)]
        return [dict(flatten(value, "output")[0]) for value in returned]


def _is_discrete(expected: Returned, difference: Difference) -> bool:
    leaf = dict(flatten(expected.value, "output")[0]).get(difference.path)
    return isinstance(leaf, torch.Tensor) and not (leaf.is_floating_point() or leaf.is_complex())


def _moved(subject: Subject, call: Call, number: int, *, zeros: bool) -> tuple[Subject, Call]:
    """The call and the weights with each float moved up or down by about its dtype's epsilon."""
    generator = torch.Generator().manual_seed(number)

    def move(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or not leaf.is_floating_point():
            return leaf
        # Not by a sign alone: equal numbers must part, or a tie among them stays one.
        shift = torch.rand(leaf.shape, generator=generator, dtype=torch.float64) * 3 - 1.5
        value = leaf.detach().cpu()
        size = value.abs()
        if zeros and value.numel():
            size = size.clamp(min=float(size.max()) or 1.0)
        return value + shift.to(value) * size * torch.finfo(leaf.dtype).eps

    if subject.module is not None:
        for parameter in subject.module.parameters():
            parameter.data = move(parameter)
    return subject, Call(tree_map(move, call.args), tree_map(move, dict(call.kwargs)))


def _double(value: Any) -> Any:
    def widen(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if leaf.is_floating_point():
            return leaf.double()
        return leaf.to(torch.complex128) if leaf.is_complex() else leaf

    return tree_map(widen, value)


def _judge(difference: Difference, truths: list[Any], wanted: Any, found: Any) -> Difference | None:
    """The difference with eager's own error in it; None where that error explains it."""
    if not isinstance(wanted, torch.Tensor) or not isinstance(found, torch.Tensor):
        return difference
    wanted, found = wanted.cpu(), found.cpu()
    others = [t for t in truths if isinstance(t, torch.Tensor) and t.shape == wanted.shape]
    if not others:
        return difference
    if not (wanted.is_floating_point() or wanted.is_complex()):
        flips = torch.stack([other.to(wanted.dtype) != wanted for other in others]).any(dim=0)
        return None if bool(flips[wanted != found].all()) else difference
    wide = torch.complex128 if wanted.is_complex() else torch.float64
    gap = (found.to(wide) - wanted.to(wide)).abs()
    own = torch.stack([_finite((wanted.to(wide) - other.to(wide)).abs()) for other in others])
    own = _among_equals(own.amax(dim=0), wanted.to(wide).abs())
    allowed = (difference.atol or 0.0) + (difference.rtol or 0.0) * wanted.to(wide).abs()
    within = (gap <= allowed + MULTIPLE * own) | (gap == 0) | (wanted.isnan() & found.isnan())
    within |= wanted == found  # equal infinities have no gap that is a number
    if bool(within.all()):
        return None
    at = own if difference.index is None else own[difference.index]
    return dataclasses.replace(difference, own_error=float(at.max()))


def _among_equals(error: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Per element, the largest error among elements that are at most SAME_SIZE times as large."""
    flat = size.reshape(-1).nan_to_num()
    order = flat.argsort()
    largest = error.reshape(-1)[order].cummax(dim=0).values
    reach = torch.searchsorted(flat[order].contiguous(), flat * SAME_SIZE, right=True) - 1
    return largest[reach].reshape(error.shape)


def _finite(error: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.isfinite(error), error, torch.zeros_like(error))

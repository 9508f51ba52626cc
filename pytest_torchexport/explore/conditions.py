"""Conditions in the user's source, and the outcomes that each can have.

Separate from the rewriting, because a condition in code without source is a condition too, only
known less precisely.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pytest_torchexport.explore.provenance import Computed, Provenance, distance, number

# The outcomes of a loop: how often it ran. They count because a trace unrolls the loop.
ROUNDS = NONE, ONCE, MORE = "0 iterations", "1 iteration", "2+ iterations"

ConditionOutcome = bool | str

# A file name, and a number that is unique among the conditions of that file.
ConditionId = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition, as small as possible: each part of ``a and b`` is a condition of its own.

    ``kind`` is the statement that it decides: if, while, for, assert, case, except, cond or
    expression. ``text`` is the condition's own source, and ``statement`` is the line on which it
    begins. ``first_line`` is the line on which the whole statement begins. After an outcome in
    ``raises`` the code only raises, so that no legal call takes it. ``coarse`` is True if the code
    is not rewritten: it has no source, or is torch.nn's.
    """

    file: str
    first_line: int
    line: int
    end_line: int
    kind: str
    text: str
    statement: str
    function: str
    raises: frozenset[bool] = frozenset()
    coarse: bool = False

    @property
    def loops(self) -> bool:
        return self.kind == "for"

    @property
    def outcomes(self) -> tuple[ConditionOutcome, ...]:
        """Return every outcome that a legal call may take."""
        if self.loops:
            return ROUNDS
        return tuple(outcome for outcome in (True, False) if outcome not in self.raises)


# Comparisons that rounding may decide.
ORDER = ("<", "<=", ">", ">=")
# Items of a list that are told apart between two calls.
MAX_ITEMS = 64

# A condition, and the path of the module whose forward evaluated it.
ConditionKey = tuple[ConditionId, str]


@dataclass(frozen=True, slots=True)
class Event:
    """One evaluation of a condition.

    ``far`` is the distance to the other outcome, in the units of its operands (infinite: no number
    says so). ``margin`` is that in parts of the largest operand, if rounding may decide: only
    floats were compared, and by order; else it is infinite. ``mark`` differs between two
    evaluations if anything about the condition differed. ``read`` says that the source reads an
    operand from a tensor.
    """

    key: ConditionKey
    outcome: ConditionOutcome
    far: float = math.inf
    margin: float = math.inf
    on_tensors: bool = False
    mark: object = None
    read: bool = False


@dataclass
class Path:
    """The events of one call in order, and how often each loop ran, each time it was reached."""

    events: list[Event] = field(default_factory=list)
    loops: dict[ConditionKey, list[int]] = field(default_factory=dict)

    def taken(self) -> Counter[tuple[ConditionKey, ConditionOutcome]]:
        counts: Counter[tuple[ConditionKey, ConditionOutcome]] = Counter(
            (event.key, event.outcome) for event in self.events if event.key not in self.loops
        )
        for key, lengths in self.loops.items():
            counts.update((key, ROUNDS[min(length, 2)]) for length in lengths)
        return counts

    def marks(self) -> dict[ConditionKey, tuple[object, ...]]:
        """Return the marks of each condition's events, and how often each loop ran."""
        found: dict[ConditionKey, list[object]] = {
            key: [*lengths] for key, lengths in self.loops.items()
        }
        for event in self.events:
            if event.key not in self.loops:
                found.setdefault(event.key, []).append((event.outcome, event.mark))
        return {key: tuple(marks) for key, marks in found.items()}

    def decisions(self) -> tuple[tuple[ConditionKey, ConditionOutcome], ...]:
        return tuple((event.key, event.outcome) for event in self.events)


def moving(paths: Sequence[Path]) -> frozenset[ConditionKey]:
    """Return the conditions that still change from call to call, at the end of a row of calls.

    Not those that go away from the outcome that they do not have.
    """
    if len(paths) < 2:
        return frozenset()
    before, last = paths[-2:]
    marks, earlier = last.marks(), before.marks()

    def farthest(path: Path, key: ConditionKey) -> float:
        known = [event.far for event in path.events if event.key == key]
        return max(filter(math.isfinite, known), default=math.nan)

    return frozenset(
        key
        for key in marks.keys() & earlier.keys()
        if marks[key] != earlier[key] and not farthest(before, key) < farthest(last, key)
    )


def event_of(
    key: ConditionKey,
    outcome: bool,
    provenance: Provenance | None,
    operands: tuple[Any, ...],
    *,
    read: bool = False,
) -> Event:
    """Return the event of a condition, with its distance to the other outcome.

    ``operands`` are used if no provenance gives better ones. ``read`` is that of ``Event``.
    """
    far = distance(provenance, not outcome) if provenance is not None else None
    comparisons = provenance.comparisons if provenance is not None else []
    compared = [operand for each in comparisons for operand in (each.left, each.right)]
    tensors = [operand for operand in compared if isinstance(operand, Tensor)]
    if far is None and not tensors:
        return Event(key, outcome, mark=tuple(map(_kind, operands)), read=read)
    by_order = all(each.operator in ORDER for each in comparisons)
    floats = bool(tensors) and all(tensor.is_floating_point() for tensor in tensors)
    rounded = by_order and floats and not isinstance(provenance, Computed)
    return Event(
        key,
        outcome,
        far=far if far is not None else math.inf,
        margin=far / (_largest(compared) or 1.0) if rounded and far is not None else math.inf,
        on_tensors=bool(tensors),
        mark=tuple(map(_digest, tensors)) if tensors else far,
        read=read,
    )


def _largest(compared: Sequence[Any]) -> float:
    known = [torch.as_tensor(it) for each in compared if (it := number(each)) is not None]
    sizes = [float(item.detach().abs().max()) for item in known if item.numel()]
    return max(filter(math.isfinite, sizes), default=0.0)


def _kind(value: Any) -> Any:
    """Return a scalar or a short container of such as it is, else the name of the type."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if type(value) in (list, tuple, set) and 0 < len(value) <= MAX_ITEMS:
        return tuple(map(_kind, value))
    return type(value).__name__


def _digest(tensor: Tensor) -> float:
    """Return a number that nearly always differs between different tensors."""
    numbers = number(tensor)
    if not isinstance(numbers, Tensor):
        return 0.0
    numbers = numbers.detach().nan_to_num()
    return float((numbers if numbers.numel() == 1 else numbers.abs()).sum())

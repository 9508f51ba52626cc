"""The recorder: what the rewritten conditions call, and the path of one call as they tell it.

It must not change what runs: it computes each condition as Python would, once, and hands it on. It listens
to one thread only; whatever else runs the same code passes through.
"""

from __future__ import annotations

import math
import operator
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from pytest_torchexport.explore.conditions import MORE, NONE, ONCE, Outcome, Site
from pytest_torchexport.explore.provenance import (
    Compared,
    Origin,
    Origins,
    Plain,
    distance,
    is_order,
    leaves,
    origin_of,
)

# Conditions of one call that are worth following, and rounds of its ``while`` loops: beyond, they may never
# end, unless they do so within QUICK seconds.
MAX_EVENTS = 10_000
MAX_ROUNDS = 2000
QUICK = 0.5
# How long a list may be whose items tell one call from another.
SHOWN = 64

OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "is": operator.is_,
    "is not": operator.is_not,
    "in": lambda left, right: left in right,
    "not in": lambda left, right: left not in right,
}

# A site and the module whose forward it ran in.
Key = tuple[int, str]


class Endless(BaseException):
    """A call met more conditions than any that is worth following, went round too often, or ran out of time.
    Not an Exception, which the user's code may catch.
    """


class ConditionListener(Protocol):
    """Who wants to see the conditions of a call while it runs."""

    def came(self, position: int, origin: Origin | None, outcome: Outcome) -> None:
        """The condition at this position of the path came out."""


@dataclass(frozen=True, slots=True)
class Event:
    """A condition that came out. ``distance`` says how far it was from coming out otherwise, in the units of
    its operands (None: no number to it), ``operands`` what was compared, in short. ``mark`` is another
    one where anything about the condition was otherwise. ``rounded`` says that floats alone were compared,
    and by order: only there may rounding decide. ``scale`` is the largest of what was compared.
    """

    key: Key
    outcome: Outcome
    distance: float | None = None
    operands: tuple[Any, ...] = ()
    on_values: bool = False
    mark: object = None
    rounded: bool = False
    scale: float = 0.0

    @property
    def relative(self) -> float:
        """The distance in parts of what was compared; infinite where there is no number to it."""
        if self.distance is None:
            return math.inf
        return self.distance / (self.scale or 1.0)


@dataclass
class Path:
    """What came out of the conditions of one call, in order, and what its loops did."""

    events: list[Event] = field(default_factory=list)
    loops: dict[Key, list[int]] = field(default_factory=dict)

    def taken(self) -> dict[tuple[Key, Outcome], int]:
        """How often each outcome was taken; of loops, how often they ran so many times."""
        counts: dict[tuple[Key, Outcome], int] = {}
        for event in self.events:
            if event.key in self.loops:
                continue
            counts[event.key, event.outcome] = counts.get((event.key, event.outcome), 0) + 1
        for key, lengths in self.loops.items():
            for length in lengths:
                said = (key, _length(length))
                counts[said] = counts.get(said, 0) + 1
        return counts

    def marks(self) -> dict[Key, tuple[object, ...]]:
        """What each condition was made of, each time it came; of loops, how often they went round."""
        found: dict[Key, list[object]] = {key: [*lengths] for key, lengths in self.loops.items()}
        for event in self.events:
            if event.key not in self.loops:
                found.setdefault(event.key, []).append((event.outcome, event.mark))
        return {key: tuple(marks) for key, marks in found.items()}

    def decisions(self) -> tuple[tuple[Key, Outcome], ...]:
        """The path itself: equal for calls that ran through the same code."""
        return tuple((event.key, event.outcome) for event in self.events)


def _length(iterations: int) -> str:
    return (NONE, ONCE)[iterations] if iterations < 2 else MORE


class Recorder:
    """Stands in the rewritten code as a constant."""

    def __init__(self) -> None:
        self.sites: dict[int, Site] = {}
        self.path = Path()
        self.deadline = float("inf")
        self.traveler: ConditionListener | None = None
        self.origins = Origins(self._asked)
        # Codes that have no source: their conditions are told by the truths tensors are asked for.
        self.coarse: set[types.CodeType] = set()
        self.rounds = 0
        # Whether the last call was cut.
        self.cut = False
        self._began = 0.0
        self._most_events = self._most_rounds = math.inf
        self._modules: list[str] = []
        self._names: dict[int, str] = {}
        self._thread = -1
        self._coarse_sites: dict[tuple[str, int], int] = {}

    def start(self, names: dict[int, str]) -> None:
        """Begin a new path. ``names`` are the modules' paths by their ids."""
        self.path = Path()
        self.rounds = 0
        self.cut = False
        self._began = time.perf_counter()
        self.origins.forget()
        self._names = names
        self._modules = []
        self._thread = threading.get_ident()

    def allow(self, times: int) -> None:
        """From here on cut calls that go on for so many times as long as the last one did, and for longer than
        any that is worth following.
        """
        self._most_events = max(MAX_EVENTS, times * len(self.path.events))
        self._most_rounds = max(MAX_ROUNDS, times * self.rounds)

    def stop(self) -> None:
        """Listen to nobody."""
        self._thread = -1

    # -- what the rewritten code calls -----------------------------------------------------------------

    def truth(self, number: int, value: Any, drawn: int, owner: Any = None) -> bool:
        """A condition of which only the truth counts. ``drawn``: its source draws it from a tensor."""
        if self._thread != threading.get_ident():
            return bool(value)
        with self.origins.paused():
            outcome = bool(value)
        number_of = self.origins.of_number
        origin = origin_of(value) if isinstance(value, Tensor) else number_of(value, bool(drawn))
        if origin is None and drawn:
            origin = self.origins.computed()
        self._came(number, owner, outcome, origin, (value,))
        return outcome

    def compare(
        self, number: int, sign: str, left: Any, right: Any, drawn: int, owner: Any = None
    ) -> bool:
        """A comparison of which only the truth counts. ``drawn`` says of its operands whether the source draws
        them from a tensor: 1 the left one, 2 the right one.
        """
        found = OPERATORS[sign](left, right)
        if self._thread != threading.get_ident():
            return bool(found)
        with self.origins.paused():
            outcome = bool(found)
        origin: Origin | None
        if isinstance(found, Tensor):
            origin = origin_of(found)
        elif sign in ("is", "is not", "in", "not in"):
            origin = None
        else:
            origin = Compared(
                sign, self._tensor(left, bool(drawn & 1)), self._tensor(right, bool(drawn & 2))
            )
        self._came(number, owner, outcome, origin, (left, right))
        return outcome

    def value(self, number: int, value: Any, drawn: int, owner: Any = None) -> Any:
        """A value whose truth decides, and which itself goes on."""
        if isinstance(value, Tensor) and value.numel() != 1:
            return value
        self.truth(number, value, drawn, owner)
        return value

    def mark(self, number: int, outcome: bool, owner: Any = None) -> None:
        """A place that was come to: a handler, a case."""
        if self._thread != threading.get_ident():
            return
        key = (number, self._instance(owner))
        if outcome:
            self._revise(key)
        self._add(Event(key, outcome))

    def each(self, number: int, iterable: Iterable[Any], owner: Any = None) -> Iterable[Any]:
        """The items of a loop."""
        if self._thread != threading.get_ident():
            return iterable
        # At once, as a loop does: what is iterated may change before the first item is asked for.
        return self._counted((number, self._instance(owner)), iter(iterable))

    # -- what it keeps ---------------------------------------------------------------------------------

    def _counted(self, key: Key, iterator: Iterator[Any]) -> Iterator[Any]:
        lengths = self.path.loops.setdefault(key, [])
        lengths.append(0)
        place = len(lengths) - 1
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                break
            lengths[place] += 1
            self._add(Event(key, True))
            yield item
        self._add(Event(key, False))

    def _revise(self, key: Key) -> None:
        """A try that raised did not end well, as was assumed when it began."""
        for position in range(len(self.path.events) - 1, -1, -1):
            if self.path.events[position].key == key:
                del self.path.events[position]
                return

    def _tensor(self, value: Any, drawn: bool) -> Any:
        """The tensor that a Python number was drawn from, or the number itself."""
        plain = isinstance(value, (int, float))
        origin = self.origins.of_number(value, drawn) if plain else None
        return origin.value if isinstance(origin, Plain) else value

    def _came(
        self,
        number: int,
        owner: Any,
        outcome: bool,
        origin: Origin | None,
        operands: tuple[Any, ...],
    ) -> None:
        with self.origins.aside():
            if self.traveler is not None:
                self.traveler.came(len(self.path.events), origin, outcome)
            self._add(_event((number, self._instance(owner)), outcome, origin, operands))

    def _add(self, event: Event) -> None:
        events = self.path.events
        self.rounds += event.outcome is True and self.sites[event.key[0]].kind == "while"
        now = time.perf_counter()
        many = len(events) >= self._most_events or self.rounds >= self._most_rounds
        if now > self.deadline or (many and now > self._began + QUICK):
            self.cut = True
            raise Endless
        events.append(event)

    # -- whose forward it is -----------------------------------------------------------------------------

    def enter(self, module: Any, args: Any) -> None:
        """A forward pre-hook."""
        if self._thread == threading.get_ident():
            self._modules.append(self._names.get(id(module), ""))

    def leave(self, module: Any, args: Any, output: Any) -> None:
        """A forward hook, also called where forward raised."""
        if self._thread == threading.get_ident() and self._modules:
            self._modules.pop()

    def _instance(self, owner: Any) -> str:
        if owner is not None:
            name = self._names.get(id(owner))
            if name is not None:
                return name
        return self._modules[-1] if self._modules else ""

    # -- code without source -----------------------------------------------------------------------------

    def _asked(self, outcome: bool) -> None:
        if not self.coarse or self._thread != threading.get_ident():
            return
        frame: types.FrameType | None = sys._getframe(2)
        while frame is not None and frame.f_code not in self.coarse:
            frame = frame.f_back
        if frame is not None:
            number = self._coarse_site(frame)
            self._came(number, None, outcome, self.origins.last(), ())

    def _coarse_site(self, frame: types.FrameType) -> int:
        code, line = frame.f_code, frame.f_lineno
        place = (code.co_filename, line)
        if place not in self._coarse_sites:
            # Below zero: those of rewritten code count upwards.
            self._coarse_sites[place] = number = -1 - len(self._coarse_sites)
            self.sites[number] = Site(
                file=code.co_filename,
                first_line=line,
                line=line,
                end_line=line,
                kind="expression",
                text="a tensor's truth",
                statement="",
                function=code.co_qualname,
                coarse=True,
            )
        return self._coarse_sites[place]


def _event(key: Key, outcome: bool, origin: Origin | None, operands: tuple[Any, ...]) -> Event:
    """A condition with how far it was from coming out otherwise."""
    far = distance(origin, not outcome) if origin is not None else None
    compared = leaves(origin) if origin is not None else []
    tensors = [leaf for leaf in compared if isinstance(leaf, Tensor)]
    if far is None and not tensors:
        kinds = tuple(map(_kind, operands))
        return Event(key, outcome, operands=kinds, mark=kinds)
    said = tuple(map(_short, compared))
    mark = tuple(map(_digest, tensors)) if tensors else far
    rounded = is_order(origin) and all(tensor.is_floating_point() for tensor in tensors)
    return Event(
        key, outcome, far, said, bool(tensors), mark, bool(tensors) and rounded, _scale(compared)
    )


def _scale(compared: Sequence[Any]) -> float:
    """The largest finite number among operands."""
    sizes = [0.0]
    for item in compared:
        if isinstance(item, Tensor):
            dense = item.numel() and item.layout == torch.strided and not item.is_complex()
            sizes.append(float(item.detach().double().abs().max()) if dense else 0.0)
        elif isinstance(item, (int, float)) and not isinstance(item, bool):
            sizes.append(abs(item))
    return max(filter(math.isfinite, sizes))


def _short(value: Any) -> Any:
    """A value as a report may hold it."""
    if isinstance(value, Tensor):
        if value.numel() == 1 and value.layout == torch.strided and not value.is_meta:
            return value.item()
        return f"tensor{list(value.shape)}"
    return _kind(value)


def _kind(value: Any) -> Any:
    """A value that is no number: itself where it is plain, a short list of such, else of which type."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if type(value) in (list, tuple, set) and 0 < len(value) <= SHOWN:
        return tuple(map(_kind, value))
    return type(value).__name__


def _digest(tensor: Tensor) -> float:
    """One number that is another where the tensor is another, mostly."""
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.numel():
        return 0.0
    if tensor.is_complex() or tensor.is_quantized:
        return 0.0
    digest = math.nan
    if tensor.numel() == 1:
        digest = float(tensor.item())
    elif tensor.dtype in (torch.float32, torch.float64):  # most are, and this is twice as fast
        digest = float(tensor.abs().sum(dtype=torch.float64))
    if math.isfinite(digest):
        return digest
    return float(tensor.double().abs().nan_to_num().sum())

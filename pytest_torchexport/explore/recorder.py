"""The recorder that the rewritten code calls: it evaluates each condition and notes the event.

It must not change what runs, so it evaluates a condition exactly as Python would, once, and returns
the result. It records one thread only; other threads that run the same code are not recorded.
"""

from __future__ import annotations

import linecache
import math
import operator
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from pytest_torchexport.eager.queries import is_of_layers, is_torchs
from pytest_torchexport.explore.conditions import (
    Condition,
    ConditionId,
    ConditionKey,
    Event,
    Path,
    event_of,
)
from pytest_torchexport.explore.probe import ProbeListener
from pytest_torchexport.explore.provenance import (
    Compared,
    Provenance,
    ProvenanceMode,
    Uncompared,
    provenance_of,
    sequence_distance,
)

# A call with more events, or more rounds of its ``while`` loops, counts as endless, unless it ends
# within so many seconds of the processor (on a busy machine too).
MAX_EVENTS = 10_000
MAX_ROUNDS = 2000
QUICK_SECONDS = 1.0
# A dict with more keys is a table, of which any number may be looked up.
MAX_KEYS = 256

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


_SIGNS = ("<", "<=", ">", ">=", "==", "!=")


class Endless(BaseException):
    """Raised in a call that evaluates too many conditions or exceeds its deadline.

    Not an Exception, because the user's code may catch those.
    """


class ConditionRecorder:
    """Records the path of a call. It stands in the rewritten code as a constant."""

    def __init__(self) -> None:
        self.conditions: dict[ConditionId, Condition] = {}
        self.path = Path()
        # A call is cut after so many seconds of the processor, and at this time of the clock.
        self.seconds = self.deadline = math.inf
        self.listener: ProbeListener | None = None
        self.mode = ProvenanceMode(self._truth_read)
        # Codes without source: a condition shows when a tensor is asked for its truth in them. In
        # torch.nn too, whose code is not rewritten.
        self.coarse: set[types.CodeType] = set()
        self.rounds = 0
        # Whether ``Endless`` was raised in the last call.
        self.cut = False
        self._started = 0.0
        self._max_events = self._max_rounds = math.inf
        self._modules: list[str] = []
        self._names: dict[int, str] = {}
        self._thread = -1
        # Middle operands of ``a < b < c``, by thread, frame, and the condition ``a < b``.
        self._kept: dict[tuple[int, int, ConditionId], Any] = {}

    def start(self, names: dict[int, str]) -> None:
        """Begin a new path, of the current thread. ``names`` maps ids of modules to their paths."""
        self.path = Path()
        self.rounds = 0
        self.cut = False
        self._started = time.thread_time()
        self.mode.forget()
        self._names = names
        self._modules = []
        self._thread = threading.get_ident()

    def stop(self) -> None:
        for key in list(self._kept):  # of comparisons that ended with ``a < b``
            if key[0] == self._thread:
                del self._kept[key]
        self._thread = -1

    def limit(self, times: int) -> None:
        """From now on cut calls with so many times as many events or rounds as the last one had.

        Calls below ``MAX_EVENTS`` and ``MAX_ROUNDS`` are never cut.
        """
        self._max_events = max(MAX_EVENTS, times * len(self.path.events))
        self._max_rounds = max(MAX_ROUNDS, times * self.rounds)

    # -- called by the rewritten code -----------------------------------------------------------

    def truth(self, own_id: ConditionId, value: Any, read: int, owner: Any = None) -> bool:
        """Record the truth of a value. ``read``: the source reads it from a tensor."""
        if self._thread != threading.get_ident():
            return bool(value)
        with self.mode.paused():
            outcome = bool(value)
        provenance: Provenance | None
        if isinstance(value, Tensor):
            provenance = provenance_of(value)
        else:
            provenance = self.mode.of_number(value, bool(read))
        if provenance is None and read:
            provenance = self.mode.computed()
        self._evaluated(
            (own_id, self._module_of(owner)), outcome, provenance, (value,), read=bool(read)
        )
        return outcome

    def compare(  # called from generated code, by position
        self, own_id: ConditionId, sign: str, left: Any, right: Any, read: int, owner: Any = None
    ) -> bool:
        """Record the truth of a comparison.

        ``read`` is the sum of 1 if the source reads the left operand from a tensor, and 2 if it
        reads the right one.
        """
        return self._recorded(own_id, sign, left, right, read, owner)[0]

    def _recorded(
        self, own_id: ConditionId, sign: str, left: Any, right: Any, read: int, owner: Any
    ) -> tuple[bool, Any]:
        found = OPERATORS[sign](left, right)
        if self._thread != threading.get_ident():
            return bool(found), found
        with self.mode.paused():
            outcome = bool(found)
        provenance: Provenance | None
        if isinstance(found, Tensor):
            provenance = provenance_of(found)
        elif sign not in _SIGNS or not all(isinstance(it, (int, float)) for it in (left, right)):
            provenance = self.mode.computed(sequence_distance(left, right)) if read else None
        else:
            provenance = self._of_numbers(sign, left, right, read)
        key = (own_id, self._module_of(owner))
        self._evaluated(key, outcome, provenance, (left, right), read=bool(read))
        return outcome, found

    def compared(  # called from generated code, by position
        self, own_id: ConditionId, sign: str, left: Any, right: Any, read: int, owner: Any = None
    ) -> Any:
        """Return the result of a comparison; record it if it compares a number with others."""
        numbers = _is_number(left) and (_is_number(right) or sign in ("in", "not in"))
        if numbers and self._thread == threading.get_ident():
            return self._recorded(own_id, sign, left, right, read, owner)[1]
        return OPERATORS[sign](left, right)

    def decided(  # called from generated code, by position
        self,
        own_id: ConditionId,
        function: Callable[..., Any],
        given: tuple[Any, ...],
        read: int,
        owner: Any = None,
    ) -> Any:
        """Return the result of a call that may decide by numbers.

        Record which of two numbers ``max`` and ``min`` choose, and if a dict has a key. ``read`` is
        that of ``compare``.
        """
        found = function(*given)
        if self._thread != threading.get_ident() or not _is_number(given[0]):
            return found
        key = (own_id, self._module_of(owner))
        table = getattr(function, "__self__", None)
        if function in (max, min) and _is_number(given[1]):
            provenance = self._of_numbers(">", given[0], given[1], read)
            self._evaluated(key, given[0] > given[1], provenance, given)
        elif isinstance(table, dict):
            keys = [each for each in table if _is_number(each)] if len(table) <= MAX_KEYS else []
            nearest = min(keys, key=lambda each: abs(each - given[0]), default=None)
            nearest = given[0] if given[0] in table else nearest
            if nearest is None:
                return found
            provenance = self._of_numbers("==", given[0], nearest, read & 1)
            self._evaluated(key, given[0] == nearest, provenance, (given[0], nearest))
        return found

    def value(self, own_id: ConditionId, value: Any, read: int, owner: Any = None) -> Any:
        """Record the truth of a value, and return the value itself, which is asked for it again.

        Not of an object of the user's: it may see how often it is asked.
        """
        one = value.numel() == 1 if isinstance(value, Tensor) else False
        if one or type(value).__module__ == "builtins":
            self.truth(own_id, value, read, owner)
        return value

    def keep(self, own_id: ConditionId, value: Any) -> Any:
        """Return the middle operand of ``a < b < c``, and keep it for the second comparison."""
        self._kept[threading.get_ident(), id(sys._getframe(1)), own_id] = value
        return value

    def kept(self, own_id: ConditionId) -> Any:
        return self._kept.pop((threading.get_ident(), id(sys._getframe(1)), own_id))

    def mark(self, own_id: ConditionId, outcome: bool, owner: Any = None) -> None:
        """Record that a handler or a case was reached, or was not."""
        if self._thread != threading.get_ident():
            return
        key = (own_id, self._module_of(owner))
        if outcome:  # a handler: that this ``try`` raised nothing was told before
            events = self.path.events
            told = (n for n in range(len(events) - 1, -1, -1) if events[n].key == key)
            if (last := next(told, None)) is not None:
                del events[last]
        self._add(Event(key, outcome))

    def each(
        self, own_id: ConditionId, iterable: Iterable[Any], owner: Any = None
    ) -> Iterable[Any]:
        """Return the items of a loop, and record how many are taken."""
        if self._thread != threading.get_ident():
            return iterable
        # ``iter`` at once, as a loop does: the iterable may change before the first item is taken.
        return self._counted((own_id, self._module_of(owner)), iter(iterable))

    # -- the path -------------------------------------------------------------------------------

    def _counted(self, key: ConditionKey, iterator: Iterator[Any]) -> Iterator[Any]:
        lengths = self.path.loops.setdefault(key, [])
        lengths.append(0)
        position = len(lengths) - 1
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                break
            lengths[position] += 1
            self._add(Event(key, True))
            yield item
        self._add(Event(key, False))

    def _of_numbers(self, sign: str, left: Any, right: Any, read: int) -> Compared:
        return Compared(
            sign, self._tensor(left, bool(read & 1)), self._tensor(right, bool(read & 2))
        )

    def _tensor(self, value: float, read: bool) -> Any:
        """Return the tensor that a Python number was read from, or the number itself."""
        provenance = self.mode.of_number(value, read)
        return provenance.value if isinstance(provenance, Uncompared) else value

    def _evaluated(
        self,
        key: ConditionKey,
        outcome: bool,
        provenance: Provenance | None,
        operands: tuple[Any, ...],
        *,
        read: bool = False,
    ) -> None:
        with self.mode.disabled():
            if self.listener is not None:
                self.listener.evaluated(len(self.path.events), provenance, outcome)
            self._add(event_of(key, outcome, provenance, operands, read=read))

    def _add(self, event: Event) -> None:
        events = self.path.events
        self.rounds += event.outcome is True and self.conditions[event.key[0]].kind == "while"
        many = len(events) >= self._max_events or self.rounds >= self._max_rounds
        limit = min(QUICK_SECONDS, self.seconds) if many else self.seconds
        slow = time.thread_time() > self._started + limit
        if slow or time.perf_counter() > self.deadline:
            self.cut = True
            raise Endless
        events.append(event)

    # -- the module whose forward runs ----------------------------------------------------------

    def enter(self, module: Any) -> None:
        if self._thread == threading.get_ident():
            self._modules.append(self._names.get(id(module), ""))

    def leave(self) -> None:
        if self._thread == threading.get_ident() and self._modules:
            self._modules.pop()

    def _module_of(self, owner: Any) -> str:
        """Return the path of ``owner`` (the method's ``self``), or of the module that runs."""
        if owner is not None:
            name = self._names.get(id(owner))
            if name is not None:
                return name
        return self._modules[-1] if self._modules else ""

    # -- code that is not rewritten ---------------------------------------------------------------

    def _truth_read(self, outcome: bool) -> None:
        """Record that a tensor was asked for its truth in code without source, or in torch.nn's."""
        if self._thread != threading.get_ident():
            return
        asking: types.FrameType | None = sys._getframe(2)  # below the mode's frame
        frame = _of_a_layer(asking)
        if frame is None and self.coarse:
            frame = asking
            while frame is not None and frame.f_code not in self.coarse:
                frame = frame.f_back
        if frame is None:
            return
        code, line = frame.f_code, frame.f_lineno
        # Negative, because the ids of rewritten code count from 0.
        own_id = (code.co_filename, -line)
        if own_id not in self.conditions:
            source = linecache.getline(code.co_filename, line).strip()
            self.conditions[own_id] = Condition(
                file=code.co_filename,
                first_line=line,
                line=line,
                end_line=line,
                kind="expression",
                text=source or "a tensor's truth",
                statement=source,
                function=code.co_qualname,
                coarse=True,
            )
        self._evaluated((own_id, self._module_of(None)), outcome, self.mode.last(), ())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _of_a_layer(frame: types.FrameType | None) -> types.FrameType | None:
    """Return the frame that asks if it is in a layer or function of torch.nn, else None."""
    while frame is not None and is_torchs(frame.f_code.co_filename):
        if is_of_layers(frame.f_code.co_filename):
            return frame
        frame = frame.f_back
    return None

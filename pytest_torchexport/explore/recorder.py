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
    NEGATED,
    Compared,
    Provenance,
    ProvenanceMode,
    provenance_of,
    sequence_distance,
)

# A call with more events counts as endless, unless it ends within so many seconds of the processor
# (on a busy machine too).
MAX_EVENTS = 10_000
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
        # Whether ``Endless`` was raised in the last call.
        self.cut = False
        self._started = 0.0
        self._max_events = math.inf
        self._names: dict[int, str] = {}
        self._thread = -1
        # The right operand of each thread's last comparison: the middle one of ``a < b < c``.
        self._right = threading.local()

    def start(self, names: dict[int, str]) -> None:
        """Begin a new path, of the current thread. ``names`` maps ids of modules to their paths."""
        self.path = Path()
        self.cut = False
        self._started = time.thread_time()
        self.mode.forget()
        self._names = names
        self._thread = threading.get_ident()

    def stop(self) -> None:
        self._thread = -1
        self._right.value = None

    def limit(self, times: int) -> None:
        """From now on cut calls with so many times as many events as the last one had.

        Calls below ``MAX_EVENTS`` are never cut.
        """
        self._max_events = max(MAX_EVENTS, times * len(self.path.events))

    # -- called by the rewritten code -----------------------------------------------------------

    def truth(self, own_id: ConditionId, value: Any, read: int) -> bool:
        """Record the truth of a value. ``read``: the source reads it from a tensor."""
        key = self._key(own_id)
        return bool(value) if key is None else self._asked(key, value, read)

    def value(self, own_id: ConditionId, value: Any, read: int) -> Any:
        """Record the truth of a value, and return the value itself, which is asked for it again.

        Not of an object of the user's: it may see how often it is asked.
        """
        tensor = isinstance(value, Tensor)
        known = value.numel() == 1 if tensor else type(value).__module__ == "builtins"
        if known and (key := self._key(own_id)) is not None:
            self._asked(key, value, read)
        return value

    def compare(self, own_id: ConditionId, sign: str, left: Any, right: Any, read: int) -> bool:
        """Record the truth of a comparison.

        ``read`` is the sum of 1 if the source reads the left operand from a tensor, and 2 if it
        reads the right one.
        """
        key = self._key(own_id)
        found = OPERATORS[sign](left, right)
        both = left, right
        outcome = bool(found) if key is None else self._compared(key, sign, found, both, read)
        self._right.value = right  # last: a ``__bool__`` of the user's may compare, too
        return outcome

    def kept(self, own_id: ConditionId) -> Any:  # the id is always given
        """Return the operand of the comparison before, of which ``a < b < c`` asks twice."""
        return self._right.value

    def compared(self, own_id: ConditionId, sign: str, left: Any, right: Any, read: int) -> Any:
        """Return the result of a comparison; record it if it compares a number with others."""
        found = OPERATORS[sign](left, right)
        numbers = _is_number(left) and (_is_number(right) or sign in ("in", "not in"))
        if numbers and (key := self._key(own_id)) is not None:
            self._compared(key, sign, found, (left, right), read)
        return found

    def decided(
        self, own_id: ConditionId, function: Callable[..., Any], given: tuple[Any, ...], read: int
    ) -> Any:
        """Return the result of a call that may decide by numbers.

        Record which of two numbers ``max`` and ``min`` choose, and if a dict has a key, which may
        be a text or a tuple. ``read`` is that of ``compare``.
        """
        found = function(*given)
        key, number = self._key(own_id), given[0]
        table = getattr(function, "__self__", None)
        if key is not None and isinstance(number, (str, tuple)) and isinstance(table, dict):
            self._compared(key, "in", number in table, (number, table), read & 1)
        if key is None or not _is_number(number):
            return found
        sign, other = ">", given[-1]
        if function not in (max, min):
            sign, other = "==", _nearest(table, number)
            read &= 1
        if _is_number(other):
            outcome = OPERATORS[sign](number, other)
            self._compared(key, sign, outcome, (number, other), read)
        return found

    def mark(self, own_id: ConditionId, outcome: bool, later: tuple[ConditionId, ...] = ()) -> None:
        """Record that a handler or a case was reached, or before them that it was not.

        ``later`` are the cases after it, which are not evaluated if it is reached.
        """
        key, events = self._key(own_id), self.path.events
        if key is None:
            return
        before = (n for n in reversed(range(len(events))) if events[n] == Event(key, False))
        last = next(before, None) if outcome else None
        if last is None:
            self._add(Event(key, outcome))
            return
        # The subject of a match may itself evaluate conditions: they stay.
        end, not_met = last + 1 + len(later), [Event((each, key[1]), False) for each in later]
        kept = [event for event in events[last + 1 : end] if event not in not_met]
        events[last:end] = [Event(key, outcome), *kept]

    def each(self, own_id: ConditionId, iterable: Iterable[Any]) -> Iterable[Any]:
        """Return the items of a loop, and record how many are taken."""
        key = self._key(own_id)
        # ``iter`` at once, as a loop does: the iterable may change before the first item is taken.
        return iterable if key is None else self._counted(key, iter(iterable))

    def _key(self, own_id: ConditionId) -> ConditionKey | None:
        """Return a condition of the code two frames below, and its module; None: not recorded."""
        if self._thread != threading.get_ident():
            return None
        return own_id, self._module_of(sys._getframe(2))

    def _module_of(self, frame: types.FrameType | None) -> str:
        """Return the path of the module of which a method runs, the innermost one."""
        while frame is not None and self._names:
            if frame.f_code.co_varnames[:1] == ("self",):
                name = self._names.get(id(frame.f_locals.get("self")))
                if name is not None:
                    return name
            frame = frame.f_back
        return ""

    # -- the path -------------------------------------------------------------------------------

    def _asked(self, key: ConditionKey, value: Any, read: int) -> bool:
        with self.mode.paused():
            outcome = bool(value)
        is_tensor = isinstance(value, Tensor)
        found = provenance_of(value) if is_tensor else self.mode.of_number(value, bool(read))
        if found is None and read:
            found = self.mode.computed()
        self._evaluated(key, outcome, found, (value,), read)
        return outcome

    def _compared(
        self, key: ConditionKey, sign: str, found: Any, operands: tuple[Any, Any], read: int
    ) -> bool:
        with self.mode.paused():
            outcome = bool(found)
        provenance: Provenance | None
        if isinstance(found, Tensor):
            provenance = provenance_of(found)
        elif sign in NEGATED and all(isinstance(each, (int, float)) for each in operands):
            both = zip(operands, (read & 1, read & 2), strict=True)
            provenance = Compared(sign, *(self.mode.source(each, bool(own)) for each, own in both))
        else:
            provenance = self.mode.computed(sequence_distance(*operands)) if read else None
        self._evaluated(key, outcome, provenance, operands, read)
        return outcome

    def _counted(self, key: ConditionKey, iterator: Iterator[Any]) -> Iterator[Any]:
        lengths = self.path.loops.setdefault(key, [])
        lengths.append(0)
        position = len(lengths) - 1
        while True:  # as ``for`` does: the iterator may not be iterable itself
            try:
                item = next(iterator)
            except StopIteration:
                break
            lengths[position] += 1
            self._add(Event(key, True))
            yield item
        self._add(Event(key, False))

    def _evaluated(
        self,
        key: ConditionKey,
        outcome: bool,
        provenance: Provenance | None,
        operands: tuple[Any, ...],
        read: int = 0,
    ) -> None:
        with self.mode.paused():
            if self.listener is not None:
                self.listener.evaluated(len(self.path.events), provenance, outcome)
            self._add(event_of(key, outcome, provenance, operands, read=bool(read)))

    def _add(self, event: Event) -> None:
        many = len(self.path.events) >= self._max_events
        limit = min(QUICK_SECONDS, self.seconds) if many else self.seconds
        slow = time.thread_time() > self._started + limit
        if slow or time.perf_counter() > self.deadline:
            self.cut = True
            raise Endless
        self.path.events.append(event)

    # -- code that is not rewritten ---------------------------------------------------------------

    def _truth_read(self, outcome: bool) -> None:
        """Record that a tensor was asked for its truth in code without source, or in torch.nn's."""
        frame = self._unwritten(sys._getframe(2))  # below the mode's frame
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
        self._evaluated((own_id, self._module_of(frame)), outcome, self.mode.last(), ())

    def _unwritten(self, frame: types.FrameType | None) -> types.FrameType | None:
        """Return the frame that asks if it is of a layer of torch's, or the one without source."""
        within_torch = True
        while frame is not None:
            file = frame.f_code.co_filename
            within_torch = within_torch and is_torchs(file)
            if frame.f_code in self.coarse or (within_torch and is_of_layers(file)):
                return frame
            frame = frame.f_back if within_torch or self.coarse else None
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _nearest(table: Any, number: float) -> Any:
    if not isinstance(table, dict):
        return None
    if number in table:
        return number
    keys = [each for each in table if _is_number(each)] if len(table) <= MAX_KEYS else []
    return min(keys, key=lambda each: abs(each - number), default=None)

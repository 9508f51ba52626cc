"""Run eager with its conditions recorded, one call at a time.

It has its own copy of the module. Verdicts come from another one, which is never observed.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchexport.eager.fingerprint import changed, fingerprint
from pytest_torchexport.eager.queries import answering
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.explore.conditions import Condition, ConditionId, ConditionOutcome, Path
from pytest_torchexport.explore.probe import Probe, ProbeListener, frozen_parameters
from pytest_torchexport.explore.recorder import ConditionRecorder, Endless
from pytest_torchexport.explore.twins import InstrumentedCode
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.limits import TimeLimitExceeded
from pytest_torchexport.outcomes.observe import (
    Outcome,
    Raised,
    Returned,
    State,
    TimedOut,
    observe,
    seed_everything,
)
from pytest_torchexport.results.failures import ends_the_test

# The seconds of the processor after which a call with a ``while`` counts as endless (on a busy
# machine too); more if the example is slow.
ENDLESS_SECONDS = 10.0
# A call may take so many times as many conditions, rounds and seconds as the example.
PATIENCE = 20
# Iterators without end that a ``for`` may go over.
_ENDLESS = re.compile(r"(?<![\w.])(itertools\.)?(count|cycle|repeat|iter)\(")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Facts that calls have shown, for those who observe the same subject later.

    ``loops``: one reached a loop that may not end. ``fresh_each_call``: one changed the module.
    """

    loops: bool
    fresh_each_call: bool


class Observed:
    """The subject's eager forward, with its conditions recorded.

    It also predicts whether a call terminates, for the reference.
    ``example_catches`` is True if forward caught an error of torch's on the example.
    """

    def __init__(
        self,
        eager: Reference,
        seed: int,
        packages: tuple[str, ...] = (),
        *,
        answers: Mapping[str, Any] | None = None,
    ) -> None:
        """Copy the subject. ``answers``: those to what it asks about its run, else its own."""
        self._answers = answers or {}
        self.recorder = ConditionRecorder()
        self.fresh_each_call = eager.fresh_each_call
        self.example_catches = False
        self._loops = False
        self._drifted = False
        self._paths: set[int] = set()
        self._patience = ENDLESS_SECONDS
        self._eager = eager
        self._seed = seed
        self._begin()
        self.code = InstrumentedCode(self._subject, packages, self.recorder)

    @property
    def conditions(self) -> Mapping[ConditionId, Condition]:
        return self.recorder.conditions

    @property
    def kept(self) -> Kept:
        return Kept(loops=self._loops, fresh_each_call=self.fresh_each_call)

    def heed(self, kept: Kept) -> None:
        self._loops |= kept.loops
        self.fresh_each_call |= kept.fresh_each_call

    def branches(self) -> bool:
        """Return True if calls may take other paths, as far as the code that is followed tells."""
        return bool(self.conditions or self.code.unread)

    @property
    def module(self) -> torch.nn.Module | None:
        return self._subject.module

    def installed(self) -> AbstractContextManager[None]:
        return self.code.installed()

    def run(self, call: Call, deadline: float = float("inf")) -> Path | None:
        """Return the path of a call, or None if eager raises or the call is cut.

        ``deadline`` is a value of ``time.perf_counter``. Raises TimeLimitExceeded if the time of
        the item is used up.
        """
        self._renew()
        self.recorder.deadline = deadline
        outcome = self._observe(call)
        self._state.restore()
        if isinstance(outcome, TimedOut):
            raise TimeLimitExceeded  # the item's limit: an observed call has none of its own
        self._loops = self._loops or any(
            condition.kind == "while" or (condition.loops and _ENDLESS.search(condition.text))
            for condition in (self.conditions[own_id] for own_id, _ in self.recorder.path.marks())
        )
        # The state after the first call on each path, and not only after the last call: a later one
        # may undo what an earlier one changed.
        digest = hash(self.recorder.path.decisions())
        if not self.fresh_each_call and digest not in self._paths:
            self._paths.add(digest)
            moved = changed(self._before, fingerprint(self._subject.root, numbers=False))
            if any(not change.ref.is_tensor_of_module for change in moved):
                self.fresh_each_call = self._drifted = True
        return None if isinstance(outcome, Raised) else self.recorder.path

    def path_of(self, capture: Callable[[], Any]) -> Path:
        """Return the path of a copy of the subject that ``capture`` runs, with no module's name.

        As far as it gets: an exporter may refuse it on the way. It may run it more than once.
        """
        self.recorder.deadline = math.inf
        with self.installed():
            self.recorder.start({})
            try:
                capture()
            except Endless:
                pass
            finally:
                self.recorder.stop()
        return self.recorder.path

    def in_a_row(
        self, call: Call, most: int, goes_on: Callable[[Sequence[Path]], bool]
    ) -> list[Path]:
        """Return the paths of equal calls, each of which starts where the one before ended.

        At most ``most`` of them. Ends before that if eager raises, or if ``goes_on`` says so of the
        paths so far. The row starts in the pristine state.
        """
        paths: list[Path] = []
        self._begin()
        try:
            while len(paths) < most and goes_on(paths):
                if not isinstance(self._observe(call), Returned):
                    break
                paths.append(self.recorder.path)
        finally:
            self._begin()
        return paths

    def probe(
        self, call: Call, position: int, wanted: ConditionOutcome, deadline: float
    ) -> Probe | None:
        """Run a call, and probe the condition at ``position`` of its path.

        ``wanted`` is the outcome that the condition did not have. Return None if the call does not
        get to the condition.
        """
        self._renew()
        with torch.enable_grad():
            listener = ProbeListener(call, position, wanted)
        own = listener.call
        self.recorder.listener, self.recorder.deadline = listener, deadline
        seed_everything(self._seed)
        try:
            with torch.enable_grad(), frozen_parameters(self.module), listener.slopes:
                self._recorded(lambda: self._function(*own.args, **own.kwargs))
        except TimeLimitExceeded:
            raise
        except (Exception, Endless) as error:  # ``run`` shows what eager does
            if ends_the_test(error):
                raise
        finally:
            self.recorder.listener = None
            self._state.restore()
        return listener.found

    def _observe(self, call: Call) -> Outcome:
        return observe(
            self._function,
            call,
            seed=self._seed,
            grad_mode=self._subject.grad_mode,
            run=self._recorded,
        )

    def _recorded(self, function: Callable[[], Any]) -> Any:
        self.recorder.start(self._names)
        try:
            with self.recorder.mode:
                return function()
        finally:
            self.recorder.stop()

    # -- state between calls ----------------------------------------------------------------------

    def drifted(self) -> bool:
        """Return True, once, if a call changed state that is not restored after each call.

        From then on every call gets a fresh copy of the module; earlier paths are to be discarded.
        """
        drifted, self._drifted = self._drifted, False
        return drifted

    def _renew(self) -> None:
        """Take a fresh copy of the module, if calls change state that cannot be restored."""
        if self.fresh_each_call:
            self._begin()

    def _begin(self) -> None:
        self._subject = self._eager.pristine.copy()
        function = self._subject.function
        self._function = answering(function, self._answers) if self._answers else function
        module = self._subject.module
        self._state = State(module, thorough=self._eager.stateful)
        self._before = fingerprint(self._subject.root, numbers=False)
        self._names = (
            {id(part): name for name, part in module.named_modules()} if module is not None else {}
        )

    # -- termination --------------------------------------------------------------------------

    def learn(self, example: Call) -> None:
        """Measure the example: later calls may take ``PATIENCE`` times as long."""
        start = time.thread_time()
        with self.installed():
            self.run(example)
        self._patience = max(ENDLESS_SECONDS, PATIENCE * (time.thread_time() - start))
        self.recorder.limit(PATIENCE)
        self.example_catches = self.catches

    @property
    def catches(self) -> bool:
        """Return True if an operation of torch raised in the last call."""
        return self.recorder.mode.raised

    def loops(self) -> bool:
        """Return True if a call reached a loop that may not end."""
        return self._loops

    def ends(self, call: Call) -> bool:
        """Return True if a call returns or raises within the limits."""
        self.recorder.seconds = self._patience
        try:
            with self.installed():
                self.run(call)
        finally:
            self.recorder.seconds = math.inf
        return not self.recorder.cut

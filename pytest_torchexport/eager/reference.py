"""Run the subject in eager mode, the reference: in the right mode, from the same state each time.

Separate because every check asks it, and because only this file undoes what a forward does to its
own module (buffers, parameters, Python attributes).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from pytest_torchexport.config.plan import Plan
from pytest_torchexport.eager.fingerprint import StateRef, changed, fingerprint
from pytest_torchexport.eager.preflight import Findings, examine, is_dropout, rebuilt_at
from pytest_torchexport.eager.queries import answering
from pytest_torchexport.inputs.pytrees import describe, is_plain, leaves_of
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.compare import Tolerance, compare
from pytest_torchexport.outcomes.observe import (
    Outcome,
    Outcomes,
    Raised,
    Returned,
    State,
    Tensors,
    caches_of,
    differ,
    observe,
    raised,
    tensors_of,
)
from pytest_torchexport.outcomes.subject import Subject, is_lazy
from pytest_torchexport.outcomes.torch_state import GradMode
from pytest_torchexport.results.escaped import SHOWN, few
from pytest_torchexport.results.failures import CannotJudge, NotRepeatable, SpecError, TrainingMode
from pytest_torchexport.results.source_line import SourceLine

RETURNS_WITHOUT_GRADIENTS = (
    "remedy: make the test's call under torch.no_grad(): without gradients eager returns"
)


Fact = TypeVar("Fact")


class Learned:
    """Facts about eager, for all items of one subject and spec: one per target.

    ``outcomes`` are those of calls on the CPU. ``key`` is a digest of all that eager depends on;
    empty if no other item may take over what is here.
    """

    def __init__(self, key: str = "") -> None:
        self.key = key
        self.outcomes = Outcomes()
        self._facts: dict[Hashable, Any] = {}

    def once(self, what: Hashable, find: Callable[[], Fact]) -> Fact:
        """Return a fact that only eager decides, found once."""
        if what not in self._facts:
            self._facts[what] = find()
        found: Fact = self._facts[what]
        return found

    def keep_from_others(self) -> None:
        """Let no other item take over what is here."""
        self.key = ""

    def forget(self) -> None:
        """Begin anew, and for one item alone: eager does something else from now on."""
        self.keep_from_others()
        self.outcomes.forget()
        self._facts.clear()


class Reference:
    """The subject in eager mode, on the CPU and on the item's device."""

    _fingerprint: Mapping[StateRef, Any]

    def __init__(
        self,
        original: Subject,
        plan: Plan,
        note: Callable[[str], None],
        example: Call,
        running: Callable[[], AbstractContextManager[None]] = nullcontext,
        learned: Learned | None = None,
    ) -> None:
        """Copy the subject to the CPU. ``running`` is entered around each call of eager.

        ``learned`` is what an earlier item may have learned of the same subject.
        """
        self._running, self._plan, self._note = running, plan, note
        self.learned = learned or Learned()
        self.pristine = original.copy().to("cpu")
        if is_lazy(self.pristine.module):
            # Its first call makes its parameters.
            self._observe(self.pristine.function, example)
        self.fresh_each_call = False
        self._ends: Callable[[Call], bool] = lambda _: True
        # True if a call has reached a loop that may not end.
        self.may_not_end: Callable[[], bool] = lambda: False
        # The paths of outputs that vary with the seed; in words, their draws.
        self.random: frozenset[str] = frozenset()
        self.draws: tuple[str, ...] = ()
        # The lines at which dropout is active although the module is in eval mode.
        self.dropped_at: tuple[SourceLine, ...] = ()
        # The lines of forward that write to its module and its inputs, as far as they are known.
        self.written_at: Mapping[StateRef, SourceLine] = {}
        self.stateful = False
        # Buffers with persistent=False, also those that calls in a row register.
        self.caches = caches_of(self.pristine.module)
        self.returns_nan = False
        # Sentences on effects of forward in which artifacts are not compared with it.
        self.uncompared: tuple[str, ...] = ()
        # The mode in which an artifact runs: without gradients, unless eager cannot do that.
        self.served = GradMode.NO_GRAD
        # The mode of the test's call, in which the subject is exported.
        self.exported_in = original.grad_mode
        self._mode = plan.mode
        self._set_mode(self._mode)
        if self._mode != "train" and self.exported_in is GradMode.GRAD:
            self.pristine = replace(self.pristine, grad_mode=self.served)
        self._begin()

    def _observe(
        self,
        function: Callable[..., Any],
        call: Call,
        seed: int | None = None,
        grad_mode: GradMode | None = None,
    ) -> Outcome:
        seed, mode = self._plan.seed if seed is None else seed, grad_mode or self.pristine.grad_mode
        with self._running():
            return observe(function, call, seed=seed, grad_mode=mode)

    def guard(self, loops: Callable[[], bool], ends: Callable[[Call], bool]) -> None:
        """Ask ``ends`` before each call, once ``loops`` says that a call may not end."""
        self.may_not_end, self._ends = loops, ends

    def on_cpu(
        self,
        call: Call,
        seed: int | None = None,
        grad_mode: GradMode | None = None,
        answers: Mapping[str, Any] = MappingProxyType({}),
    ) -> Outcome:
        """Return eager's outcome on the call, from the pristine state.

        ``grad_mode`` is another one than the subject's; ``answers`` are other ones to what it asks
        about its run.
        """
        if self.may_not_end() and not self._ends(call):
            return Raised("Endless", "a while loop of forward does not come to an end on this call")
        if answers:
            return self._on("cpu", call, seed, grad_mode, answers)
        how = self._plan.seed if seed is None else seed, grad_mode or self.pristine.grad_mode
        return self.learned.outcomes.once(call, how, lambda: self._on("cpu", call, *how))

    def _on(
        self,
        device: str,
        call: Call,
        seed: int | None = None,
        grad_mode: GradMode | None = None,
        answers: Mapping[str, Any] = MappingProxyType({}),
    ) -> Outcome:
        subject, state = self._at(device)
        function = answering(subject.function, answers) if answers else subject.function
        outcome = self._observe(function, call.to(device), seed, grad_mode)
        if state is not None and state.restore() and not self.stateful:
            self.stateful = True
            self.learned.keep_from_others()
        return outcome

    def drifted(self) -> bool:
        """Return True if calls changed more of the module than is put back after each.

        If so, earlier outcomes are to be discarded, and every later call starts from a fresh copy.
        """
        if self.fresh_each_call:
            return False
        here, state = self._copies["cpu"]
        stale = state.stale() or state.lost
        left, right = self.pristine.module, here.module
        if not stale and left is not None and right is not None:
            # By value: a write by way of ``.data`` leaves no trace.
            weights = zip(left.parameters(), right.parameters(), strict=False)
            stale = any(is_plain(a) and differ(a.detach(), b.detach()) for a, b in weights)
        now = fingerprint(here.root, numbers=False)
        changes, self._fingerprint = changed(self._fingerprint, now), now
        moved = [str(item) for item in changes if not item.ref.is_tensor_of_module]
        if not moved and not stale:
            return False
        named = few(moved or ["buffers or parameters"])
        self.stateful, self.fresh_each_call = True, bool(moved)
        self._note(f"forward changes {named} on some calls; each call starts anew")
        self.learned.forget()
        self._begin()
        return True

    def _begin(self) -> None:
        """Take fresh copies from now on."""
        self._copies: dict[str, tuple[Subject, State]] = {}
        self._fingerprint = fingerprint(self._at("cpu")[0].root, numbers=False)

    def _at(self, device: str) -> tuple[Subject, State | None]:
        """Return the copy that is called on a device, and its state, to be put back after the call.

        Of a module that changes, every tensor is compared then.
        """
        if self.fresh_each_call:
            return self.pristine.copy().to(device), None
        if device not in self._copies:
            copied = self.pristine.copy().to(device)
            self._copies[device] = copied, State(copied.module, thorough=self.stateful)
        return self._copies[device]

    def tensors(self) -> Tensors:
        """Return the parameters and buffers that eager starts with on the item's device."""
        return tensors_of(self.pristine.copy().to(self._plan.device).module)

    def in_a_row(self, calls: Sequence[Call]) -> list[tuple[Outcome, Tensors]]:
        """Return eager's outcome on each call on the item's device, and the state after it.

        Each call starts from the state that the one before left.
        """
        run = self.anew(self._plan.device, state=True)
        return [run(call) for call in calls]

    def anew(self, device: str, *, state: bool) -> Callable[[Call], tuple[Outcome, Tensors]]:
        """Return a function that makes a call, from the state that its call before has left.

        With the outcome, it returns the state after the call, or nothing unless ``state``.
        """
        subject = self.pristine.copy().to(device)

        def run(call: Call) -> tuple[Outcome, Tensors]:
            outcome = self._observe(subject.function, call.to(device))
            self.caches |= caches_of(subject.module)
            return outcome, tensors_of(subject.module) if state else {}

        return run

    def on_device(self, call: Call, outcome: Outcome, device: str | None = None) -> Outcome:
        """Return eager's outcome on the item's device, for a call that has this one on the CPU.

        Or on another ``device``. It is made on the CPU first: an index out of range would leave
        CUDA unusable.
        """
        device = device or self._plan.device
        if device == "cpu":
            return outcome
        try:
            return self._on(device, call)
        except torch.OutOfMemoryError as error:
            return raised(error)

    def prepare(self, example: Call, names: Sequence[str]) -> Sequence[str]:
        """Run the example and examine eager; ``names`` are the paths of the call's leaves.

        Return the sentences that a pass is shown with. Raises SpecError if eager does not return
        something to compare, NotRepeatable, or TrainingMode; CannotJudge if eager does not run on
        the item's device, which nobody named.
        """
        first = self._on("cpu", example)
        if self.exported_in is not self.pristine.grad_mode and isinstance(first, Raised):
            self._serve_with_gradients()
            first = self._on("cpu", example)
        first = self._returned(first, example)
        how = self._plan.seed, self.pristine.grad_mode
        earlier = self.learned.outcomes.once(example, how, lambda: first)
        if earlier is not first and compare(first, earlier, Tolerance()):
            self.learned.forget()  # an earlier item did not have the same eager after all
        self.returns_nan = has_nan(first.value)
        for name in first.changed:
            self._note(f"forward changes torch's {name}; it is put back after each call")
        found = partial(examine, self.pristine, example, self._plan.seed, names)
        # Before any other call: it says how what a call changes is put back.
        findings = self.learned.once("findings", found)
        self._heed(findings)
        modes = self.pristine.grad_mode, self.served
        if modes == (GradMode.GRAD, GradMode.NO_GRAD) and isinstance(
            self.on_cpu(example, grad_mode=self.served), Raised
        ):
            self._serve_with_gradients()
        if first.rebuilt:
            seed = self._plan.seed
            asked = partial(rebuilt_at, self.pristine, example, seed, first.rebuilt)
            line = self.learned.once("rebuilt at", asked)
            at = f" at {line}" if line is not None else ""
            changed = f"forward changes a container that it was given ({', '.join(first.rebuilt)})"
            apart = "artifacts are not compared in that, and most do not; return what is needed"
            self.uncompared = (f"{changed}{at}: {apart}",)
        other = self.on_cpu(example, self._plan.seed + 1)
        varied = compare(first, other, Tolerance()) if isinstance(other, Returned) else []
        self.random = frozenset(difference.path for difference in varied)
        if self.random:
            drawn = f" ({'; '.join(self.draws)})" if self.draws else ""
            self._note(
                f"forward is random{drawn}; eager and artifact are seeded alike before each call"
            )
        device = self._plan.device
        there = self._on(device, example) if device != "cpu" else first
        if isinstance(there, Raised):
            text = f"eager raises on {device}, and not on the CPU: {there}"
            if self._plan.device_named or self._plan.settings.strict:
                raise SpecError(text, where=there.where)
            raise CannotJudge(f"{text} (nobody named {device} for this test)")
        return self._unmeant(findings)

    def _serve_with_gradients(self) -> None:
        self.served = GradMode.GRAD
        self.pristine = replace(self.pristine, grad_mode=self.served)
        self._note("eager raises without gradients: the artifact runs with gradients too")
        self._begin()

    def _heed(self, findings: Findings) -> None:
        """Raise if eager is no reference; else note findings, and choose how to restore state."""
        if findings.unrepeatable is not None:
            raise NotRepeatable(
                findings.unrepeatable,
                details=findings.uninitialized,
                where=findings.where,
                differences=findings.differences,
            )
        unmeant = self._unmeant(findings)
        if unmeant and (self._mode == "as-is" or self._plan.settings.strict):
            mend, meant = (
                ("call .eval() on it", "train")
                if findings.training
                else ("pass training=self.training", "sampling")
            )
            raise TrainingMode(
                "; ".join(unmeant[:3]),
                details=(f"remedy: {mend}, or declare mode={meant!r} if it is meant",),
                where=next(iter(findings.dropped_at), None),
            )
        self.draws, self.written_at = findings.random, findings.written_at
        self.dropped_at = findings.dropped_at if self._mode != "sampling" else ()
        self.stateful = bool(findings.changed) or findings.hidden
        in_python = any(not item.ref.is_tensor_of_module for item in findings.changed)
        self.fresh_each_call = in_python or findings.hidden
        if self.stateful:
            self._begin()
        if not findings.complete:
            self._note("eager could not be watched to the end: not all that it does is known")
        if findings.hidden:
            self._note("forward changes its module where we do not see it; each call starts anew")
        if findings.changes:
            self._note(f"forward changes {few(findings.changes, '; ')}; each call starts anew")
        for sentence in findings.writes_inputs:
            self._note(f"forward {sentence}")

    def _unmeant(self, findings: Findings) -> Sequence[str]:
        """Return the sentences on parts in training mode, and dropout, that no mode declares."""
        if self._mode == "train":
            return ()
        return (*findings.training, *(findings.dropping if self._mode != "sampling" else ()))

    def differing(self, first: Outcome, second: Outcome) -> frozenset[str]:
        """Return the paths of outputs that are random in eager and differ between two outcomes."""
        if not isinstance(first, Returned):
            return frozenset()
        return self.random & {item.path for item in compare(first, second, Tolerance())}

    def _returned(self, outcome: Outcome, example: Call) -> Returned:
        if isinstance(outcome, Raised):
            where = (
                "" if self._plan.device == "cpu" else " on the CPU, where each call is made first"
            )
            other = self.on_cpu(example, grad_mode=GradMode.NO_GRAD)
            raise SpecError(
                f"eager raises on the example{where}: {outcome}",
                details=(RETURNS_WITHOUT_GRADIENTS,) if isinstance(other, Returned) else (),
                where=outcome.where,
            )
        if not isinstance(outcome, Returned):
            raise SpecError("eager did not return on the example within the time limit")
        # Numbers of numpy are what its functions return for an array without axes.
        if not any(hasattr(leaf, "__array__") for leaf in leaves_of(outcome.value)):
            value = outcome.value
            if isinstance(value, (tuple, list)) and value:
                kinds = dict.fromkeys(type(item).__name__ for item in value)
                what = f"a {type(value).__name__} of {' and '.join(kinds)}"
            else:
                what = describe(value)
            raise SpecError(
                f"forward returns no tensor that could be compared, but {what}",
                details=("remedy: check a module that calls it and returns tensors of the result",),
            )
        return outcome

    def _set_mode(self, mode: str) -> None:
        module = self.pristine.module
        if module is None or mode == "train":
            return
        # A frozen ScriptModule has no training flag any more.
        training = [
            f"{path} ({type(part).__name__})" if path else self.pristine.name
            for path, part in module.named_modules()
            if getattr(part, "training", False)
        ]
        if not training:
            return
        if mode == "as-is":
            parts = " parts" if len(training) > SHOWN else ""
            are = f"{parts} are" if len(training) > 1 else " is"
            raise TrainingMode(
                f"{few(training)}{are} in training mode: call .eval() before the export, or "
                "declare mode='train' if it is meant"
            )
        put_into(module, mode)
        self._note("put into eval mode for the check")


def put_into(module: torch.nn.Module, mode: str) -> None:
    """Put a module into a mode; ``sampling``: into eval, except the dropout that is active."""
    meant = [part for part in module.modules() if part.training and is_dropout(part)]
    if mode in ("eval", "sampling"):
        module.eval()
    for part in meant if mode == "sampling" else ():
        part.train()


def has_nan(value: Any) -> bool:
    return any(is_plain(leaf) and bool(leaf.isnan().any()) for leaf in leaves_of(value))

"""Run a test's body again, with artifacts in the place of the modules that it calls.

A body may build its modules anew, so each call is matched with those of the first run
(``capture.Keys``). The module stays the one that the body has: only while it is called is its
``forward`` another one, which runs eager beside the artifact and returns what the artifact does.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from types import CodeType, TracebackType
from typing import Any

import pytest
import torch

from pytest_torchexport import engine, targets
from pytest_torchexport.checks import artifact_files
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.inputs.pytrees import clone, flatten, is_plain, tree_map
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.compare import Tolerance, compare_values, largest_error
from pytest_torchexport.outcomes.observe import State, raised
from pytest_torchexport.outcomes.subject import unwrapped
from pytest_torchexport.outcomes.torch_state import (
    GradMode,
    ModuleCallHandler,
    module_calls_through,
    random_numbers,
    under_autocast,
    without_warnings,
)
from pytest_torchexport.plugin.capture import Keys, Recording, is_torchs, line_of_test
from pytest_torchexport.results.failures import (
    ArtifactRaised,
    CannotJudge,
    Failure,
    Ineffective,
    NotRepeatable,
    PipelineFailed,
    ends_the_test,
)
from pytest_torchexport.results.source_line import SourceLine, is_users, source_line
from pytest_torchexport.results.verdict import Difference, Verdict
from pytest_torchexport.targets.base import Artifact, device_of
from pytest_torchexport.torch_private.circumstances import is_transforming

# What a body raises that does not pass. pytest.exit is an Exception, and ends the run.
_FAILS = (Exception, pytest.fail.Exception, pytest.skip.Exception)
IN_A_PROCESS = (
    "stand_in: the body was not run on the artifact: that is called in a process of its own ({why})"
)
SHARED = (
    "remedy: a body that is run again has the fixtures of its first run (tmp_path, caplog, ...), "
    "and modules and files as that left them: write it so that it passes twice, or leave out "
    "stand_in"
)
STRICTER = (
    "the body also fails in eager if the module's outputs are moved within the tolerance",
    "remedy: compare with torch.testing.assert_close, or test values further from the threshold",
)
AROUND = (
    "{name} and its artifact agree in {calls} (largest error {error:.2g}): what differs is done "
    "around them"
)


class BodyRun:
    """A context manager around a further run of a test's body.

    ``handle`` sees the outermost calls of modules in the thread of the body. ``error``: what the
    body raised, which does not pass on.
    """

    def __init__(self, random: Callable[[], None], handle: ModuleCallHandler | None = None) -> None:
        self._random = random
        self._handle = handle
        self._inside = False
        self._stack = ExitStack()
        self.error: BaseException | None = None

    def __enter__(self) -> None:
        self._random()
        self._thread = threading.get_ident()
        if self._handle is not None:
            self._stack.enter_context(module_calls_through(self._called))

    def __exit__(
        self, _: object, error: BaseException | None, __: TracebackType | None
    ) -> bool | None:
        self._stack.close()
        if isinstance(error, _FAILS) and not isinstance(error, pytest.exit.Exception):
            self.error = error
        return error is not None and error is self.error

    def _called(
        self,
        real: Callable[..., Any],
        module: torch.nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        __tracebackhide__ = True
        elsewhere = self._inside or threading.get_ident() != self._thread
        if elsewhere or self._handle is None or is_torchs(module):
            return real(module, *args, **kwargs)
        self._inside = True
        try:
            return self._handle(real, module, args, kwargs)
        finally:
            self._inside = False


@dataclass
class Served:
    """A recorded module with its verdict, and what its artifact did in the place of the module.

    ``plan``: with the directory for its files. ``refusal``: why there is no artifact after all.
    ``apart``: the first call on which it differs from eager, and how.
    """

    recording: Recording
    verdict: Verdict
    plan: Plan
    artifact: Artifact | None = None
    refusal: str = ""
    failure: Failure | None = None
    calls: int = 0
    error: float = 0.0
    apart: str = ""

    def exported(self, module: torch.nn.Module) -> bool:
        """Export the module as it is now, once. Return True if there is an artifact."""
        if self.artifact is None and not self.refusal:
            try:
                self.artifact = engine.export(module, self.recording.calls, self.plan)
            except (CannotJudge, Failure) as error:
                self.refusal = f"no artifact of {self.verdict.subject}: {error}"
                self.failure = error if isinstance(error, Failure) else None
        return self.artifact is not None


def as_served(artifact: Artifact, call: Call, device: str) -> Any:
    """Call an artifact on its device, without gradients; return the value on the call's device."""
    given, own = call.to(device), device_of(call)
    with GradMode.NO_GRAD.entered(), without_warnings():
        value = artifact(*given.args, **given.kwargs)
    return tree_map(lambda leaf: leaf.to(own) if isinstance(leaf, torch.Tensor) else leaf, value)


class StandIn:
    """Calls of a body's further run, on the artifacts of what was recorded in its first one.

    ``eager``: how many calls ran in eager, by the reason.
    """

    def __init__(self, served: Sequence[Served], body: CodeType | None) -> None:
        self._all = served
        self._served = {each.recording.key: each for each in served if each.recording.key}
        instances = {instance for instance, _ in self._served}
        self._keys = Keys(lambda parts, number: (parts, number) in instances)
        self._body = body
        self.eager: Counter[str] = Counter()
        self.last: Served | None = None

    def handle(
        self,
        real: Callable[..., Any],
        module: torch.nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Run an outermost call of a module, on its artifact if there is one."""
        __tracebackhide__ = True
        own, _ = unwrapped(module)
        why, served = self._found(own, Call(args, kwargs))
        if served is None:
            self.eager[why] += 1
            return real(module, *args, **kwargs)
        with ExitStack() as stack:

            @functools.wraps(own.forward)
            def forward(*args: Any, **kwargs: Any) -> Any:
                __tracebackhide__ = True
                stack.close()  # forward may call its module
                return self._beside(served, own, Call(args, kwargs))

            stack.enter_context(_attribute(own, "forward", forward))
            return real(own, *args, **kwargs)

    def _found(self, module: torch.nn.Module, call: Call) -> tuple[str, Served | None]:
        """Return why a call is made in eager, or what serves it."""
        if is_transforming() or under_autocast():
            return "in a transform or under autocast", None
        key = self._keys.of(module, call)
        served = self._served.get(key)
        if served is None:
            same = key is not None and key[0] in {instance for instance, _ in self._served}
            return "another structure" if same else "another module", None
        if served.verdict.status != "passed":
            return f"{served.verdict.subject} has no artifact that passed", None
        return served.refusal, served if served.exported(module) else None

    def _beside(self, served: Served, module: torch.nn.Module, call: Call) -> Any:
        """Return what the artifact does; raise what eager does, if it does."""
        __tracebackhide__ = True
        assert served.artifact is not None
        options = served.plan.options
        runtime = targets.get(served.plan.target).traits.rtol
        # Only eager has gradients, to arguments too. Without, the artifact gets the body's objects.
        copied = call.clone()
        ours, theirs = (call, copied) if torch.is_grad_enabled() else (copied, call)
        before = random_numbers()
        try:
            expected = module.forward(*ours.args, **ours.kwargs)
        except Exception:
            self.eager["eager raises"] += 1
            raise
        after, problem, value = random_numbers(), None, None
        before()
        self.last = served
        try:
            value = as_served(served.artifact, theirs, served.plan.device)
        except Exception as error:
            if ends_the_test(error):
                raise
            problem = error
        finally:
            after()
        wanted = clone(expected)
        tolerance = Tolerance(options.rtol, options.atol, runtime=runtime)
        differences = [] if problem else compare_values(wanted, value, tolerance)
        if (problem or differences) and _trains(module, call, expected, served.plan, before):
            after()
            self.eager["training mode"] += 1
            return expected
        served.calls += 1
        if problem is not None:
            where = line_of_test(sys._getframe(), self._body)
            text = f"{raised(problem)}; called with {call.describe()}"
            served.failure = served.failure or ArtifactRaised(text, where=where)
            raise problem
        served.error = max(served.error, largest_error(wanted, value) or 0.0)
        if differences and not served.apart:
            served.apart = f"call {served.calls} ({call.describe()}): {told(differences[0])}"
        return with_gradients(expected, value)

    def verdicts(
        self, error: BaseException | None, *, repeats: bool, stricter: bool
    ) -> list[Verdict]:
        """Return the verdicts after the further run, in which the body raised ``error``.

        ``repeats``: without artifacts it raises nothing. ``stricter``: it does in eager with
        outputs within the tolerance.
        """
        served = self._all
        calls = sum(each.calls for each in served)
        why = ", ".join(f"{reason} ({count})" for reason, count in self.eager.items())
        ran = f"{calls} of {calls + self.eager.total()} calls of the body ran on artifacts"
        note = f"stand_in: {ran}" + (f"; in eager: {why}" if why else "")
        if error is not None and not any(each.failure for each in served):
            blamed = next((each for each in served if each.apart), self.last) or served[0]
            if not repeats or self.last is None:
                text = f"run again without an artifact, the body raises {raised(error)}"
                blamed.failure = NotRepeatable(
                    text, details=(SHARED,), where=_line_in(error, self._body)
                )
            else:
                blamed.failure = self._failed(blamed, error, stricter)
        return [_judged(each, note, is_vain=not calls) for each in served]

    def _failed(self, blamed: Served, error: BaseException, stricter: bool) -> Failure:
        name = blamed.verdict.name
        calls = "1 call" if blamed.calls == 1 else f"{blamed.calls} calls"
        around = AROUND.format(name=name, calls=calls, error=blamed.error)
        apart = f"the artifact differs from {name} in {blamed.apart}"
        return PipelineFailed(
            str(raised(error)),
            details=(apart if blamed.apart else around, *(STRICTER if stricter else ())),
            where=_line_in(error, self._body),
        )


def run_again(
    served: Sequence[Served], body: CodeType | None, random: Callable[[], None]
) -> Generator[AbstractContextManager[Any], None, list[Verdict]]:
    """Yield a context for each further run of the body, all on one plan; return the verdicts.

    ``random`` puts random numbers to where the first run had them. If the body fails on artifacts,
    it is run without, and then with eager's outputs moved within the tolerance.
    """
    plan, verdicts = served[0].plan, [each.verdict for each in served]
    if all(verdict.status != "passed" for verdict in verdicts):
        return verdicts
    if plan.why_isolated:
        why = IN_A_PROCESS.format(why=plan.why_isolated)
        return [_judged(each, why, is_vain=True) for each in served]
    tolerance = Tolerance(plan.options.rtol, plan.options.atol)
    generator = torch.Generator().manual_seed(plan.seed)
    stand_in, as_left = StandIn(served, body), random_numbers()
    plain = BodyRun(random)
    shaken = BodyRun(
        random, lambda real, module, a, k: moved(real(module, *a, **k), tolerance, generator)
    )
    try:
        yield (run := BodyRun(random, stand_in.handle))
        if run.error is not None and stand_in.last is not None:
            yield plain
            if plain.error is None:
                yield shaken
    finally:
        as_left()
    return stand_in.verdicts(
        run.error, repeats=plain.error is None, stricter=shaken.error is not None
    )


def failed(verdict: Verdict, failure: Failure) -> Verdict:
    """Return a verdict with a failure."""
    return dataclasses.replace(
        verdict,
        status="failed",
        failure=type(failure).__name__,
        reason=str(failure),
        details=failure.details,
        where=failure.where,
        differences=failure.differences,
    )


def _judged(served: Served, note: str, *, is_vain: bool) -> Verdict:
    """Return the verdict with what the further run adds; ``is_vain``: no call had an artifact."""
    verdict, failure = served.verdict, served.failure
    if is_vain and verdict.status == "passed" and failure is None:
        verdict = dataclasses.replace(verdict, ineffective=(*verdict.ineffective, note))
        failure = Ineffective(note) if served.plan.settings.strict else None
    else:
        verdict = dataclasses.replace(verdict, notes=(*verdict.notes, note))
    if failure is None:
        return verdict
    if served.plan.settings.ship:
        artifact_files.clear(served.plan.settings.ship)
    return failed(verdict, failure)


def _trains(
    module: torch.nn.Module, call: Call, expected: Any, plan: Plan, random: Callable[[], None]
) -> bool:
    """Return True if a call in training mode returns something else than in the check's mode."""
    with in_mode_of(plan, module) as is_other:
        if is_other:
            random()
            value = module.forward(*call.clone().args, **call.clone().kwargs)
            return bool(compare_values(clone(expected), value, Tolerance()))
    return False


@contextmanager
def in_mode_of(plan: Plan, module: torch.nn.Module) -> Iterator[bool]:
    """Put a module into the mode in which it is exported, and afterwards put it and its state back.

    The value: if that is another mode.
    """
    modes = [(part, part.training) for part in module.modules()]
    asked, state = plan.options.mode or plan.settings.mode, State(module)
    try:
        if asked in ("eval", "sampling"):
            module.eval()
        yield any(part.training != training for part, training in modes)
    finally:
        state.restore()
        for part, training in modes:
            part.training = training


@contextmanager
def _attribute(thing: Any, name: str, value: Any) -> Iterator[None]:
    """Give an object an attribute, past its ``__setattr__``; afterwards put back what it had."""
    own = vars(thing)
    had, before = name in own, own.get(name)
    own[name] = value
    try:
        yield
    finally:
        if had:
            own[name] = before
        else:
            own.pop(name, None)


def _line_in(error: BaseException, body: CodeType | None) -> SourceLine | None:
    """Return the line of the test's function that an exception passed, else the user's first."""
    frames = [(each.f_code, line) for each, line in traceback.walk_tb(error.__traceback__)]
    users = [(code, line) for code, line in frames if is_users(code.co_filename)]
    for code, line in [*(each for each in frames if each[0] is body), *users]:
        return source_line(code.co_filename, line)
    return None


def told(difference: Difference) -> str:
    """Return a difference from eager in words: ``output[0]: 3 of 6 elements of ... differ``."""
    if difference.total is not None:
        counted = f"{difference.mismatched} of {difference.total} elements of {difference.what}"
        worst = "" if difference.max_abs is None else f", by up to {difference.max_abs:.3g}"
        return f"{difference.path}: {counted} differ{worst}"
    what = difference.what or f"{difference.expected} became {difference.actual}"
    return f"{difference.path}: {what}"


def moved(value: Any, tolerance: Tolerance, generator: torch.Generator) -> Any:
    """Return a module's outputs, with floats moved at random by at most their tolerance."""

    def move(leaf: Any) -> Any:
        if not is_plain(leaf) or not leaf.is_floating_point():
            return leaf
        size = leaf.detach().abs().nan_to_num(posinf=0.0)
        rtol, atol = tolerance.of(leaf.dtype, float(size.max()) if leaf.numel() else 0.0)
        noise = 2 * torch.rand(leaf.shape, generator=generator) - 1
        return leaf + noise.to(leaf) * (atol + rtol * size)

    return tree_map(move, value)


class _Through(torch.autograd.Function):
    """The artifact's numbers, with the gradients of eager's."""

    @staticmethod
    def forward(_: Any, __: torch.Tensor, actual: torch.Tensor) -> torch.Tensor:
        return actual.clone()

    @staticmethod
    def backward(_: Any, *gradients: torch.Tensor) -> Any:
        return (*gradients, None)


def with_gradients(expected: Any, actual: Any) -> Any:
    """Return the artifact's value, through which gradients reach what eager's depends on."""
    of_eager = dict(flatten(expected)[0])
    leaves, structure = flatten(actual)

    def through(path: str, leaf: Any) -> Any:
        twin = of_eager.get(path)
        if not isinstance(leaf, torch.Tensor) or not isinstance(twin, torch.Tensor):
            return leaf
        is_alike = (twin.shape, twin.dtype) == (leaf.shape, leaf.dtype)
        if not twin.requires_grad or not is_alike:
            return leaf
        return _Through.apply(twin, leaf)  # type: ignore[no-untyped-call]  # torch's stubs

    if not any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in of_eager.values()):
        return actual
    return structure.unflatten([through(path, leaf) for path, leaf in leaves])

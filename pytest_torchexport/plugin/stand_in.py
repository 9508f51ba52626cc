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
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import CodeType
from typing import Any

import pytest
import torch

from pytest_torchexport import engine, targets
from pytest_torchexport.checks import artifact_files
from pytest_torchexport.checks.after_export import IN_MEMORY
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.eager.reference import put_into
from pytest_torchexport.inputs.pytrees import clone, flatten, is_plain, tree_map
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.compare import Tolerance, compare_values, largest_error
from pytest_torchexport.outcomes.messages import refuses_its_inputs
from pytest_torchexport.outcomes.observe import State, raised, tensors_of
from pytest_torchexport.outcomes.subject import unwrapped
from pytest_torchexport.outcomes.torch_state import (
    GradMode,
    ModuleCallHandler,
    module_calls_through,
    random_numbers,
    under_autocast,
    without_warnings,
)
from pytest_torchexport.plugin.capture import (
    Keys,
    Recording,
    as_called,
    line_of_test,
    outermost,
    shapes_of,
)
from pytest_torchexport.results.failures import (
    ArtifactRaised,
    Failure,
    Ineffective,
    NotRepeatable,
    PipelineFailed,
    ends_the_test,
    facts_of,
)
from pytest_torchexport.results.verdict import Verdict, with_more
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
OTHER_SIZES = (
    "run again without an artifact, the body calls {name} with sizes that its first run did not: "
    "{call}"
)
# Of pytest's text on an assert, which goes on with the values of all that is in it.
FIRST_LINES = 6
STRICTER = (
    "the body also fails in eager if the module's outputs are moved within the tolerance",
    "remedy: compare with torch.testing.assert_close, or test values further from the threshold",
)
OUTSIDE = "remedy: declare shapes and dims that hold for all calls of the body, or none"
AROUND = (
    "{name} and its artifact agree in {calls} (largest error {error:.2g}): what differs is done "
    "around them"
)


@contextmanager
def _run(
    errors: list[BaseException], random: Callable[[], None], handle: ModuleCallHandler = as_called
) -> Iterator[None]:
    """Surround a further run of a body. ``errors`` gets what it raises, which does not pass on."""
    random()
    try:
        with module_calls_through(outermost(handle)):
            yield
    except _FAILS as error:
        if isinstance(error, pytest.exit.Exception):
            raise
        errors.append(error)


@dataclass
class Served:
    """A recorded module with its verdict, and what its artifact did in the place of the module.

    ``plan``: with the directory for its files. ``state``: the module's, of which the artifact is.
    ``refusal``: why there is no artifact after all. ``apart``: the first call on which it differs
    from eager, and how.
    """

    recording: Recording
    verdict: Verdict
    plan: Plan
    artifact: Artifact | None = None
    state: Any = None
    refusal: str = ""
    failure: Failure | None = None
    calls: int = 0
    error: float = 0.0
    apart: str = ""

    def export(self, module: torch.nn.Module) -> str:
        """Have an artifact of the module as it is now. Return why there is none."""
        is_other = bool(compare_values(self.state, _state_of(module), Tolerance(0.0, 0.0)))
        if self.artifact is not None and is_other and module.training:
            return "changed in training"
        if (self.artifact is None or is_other) and not self.refusal:
            try:
                self.artifact = engine.export(module, self.recording.calls, self.plan)
                self.state = _state_of(module)
            except Exception as error:
                if ends_the_test(error):
                    raise
                self.refusal = f"no artifact of {self.verdict.subject}: {error}"
                self.failure = error if isinstance(error, Failure) else None
        return self.refusal


def as_served(artifact: Artifact, device: str, /, *args: Any, **kwargs: Any) -> Any:
    """Call an artifact on its device, without gradients; return the value on the call's device."""
    call = Call(args, kwargs)
    given, own = call.to(device), device_of(call)
    with GradMode.NO_GRAD.entered(), without_warnings():
        value = artifact(*given.args, **given.kwargs)
    return tree_map(lambda leaf: leaf.to(own) if isinstance(leaf, torch.Tensor) else leaf, value)


class StandIn:
    """Calls of a body's further run, on the artifacts of what was recorded in its first one.

    ``eager``: how many calls ran in eager, by the reason.
    """

    def __init__(self, served: Sequence[Served], body: CodeType | None) -> None:
        self._served = {each.recording.key: each for each in served if each.recording.key}
        self._keys = self._new_keys()
        self._body, self._thread = body, threading.get_ident()
        self.eager: Counter[str] = Counter()
        self.last: Served | None = None

    def _new_keys(self) -> Keys:
        instances = {instance for instance, _ in self._served}
        return Keys(lambda parts, number: (parts, number) in instances)

    def in_eager(self) -> ModuleCallHandler:
        """Return a handler that says of a refused call if eager alone makes others too."""
        keys = self._new_keys()

        def handle(
            real: Callable[..., Any], module: torch.nn.Module, args: Any, kwargs: Any
        ) -> Any:
            __tracebackhide__ = True
            own, call = unwrapped(module)[0], Call(args, kwargs)
            served = None if is_transforming() else self._served.get(keys.of(own, call))
            if (
                served is not None
                and isinstance(served.failure, ArtifactRaised)
                and shapes_of(call) not in served.recording.sizes
            ):
                text = OTHER_SIZES.format(name=served.verdict.name, call=call.describe())
                where = line_of_test(traceback.walk_stack(sys._getframe()), self._body)
                served.failure = NotRepeatable(text, details=(SHARED,), where=where)
            return real(module, *args, **kwargs)

        return handle

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
        # Past nn.Module's __setattr__, with the signature, which transformers' generate reads.
        with pytest.MonkeyPatch.context() as patched:

            @functools.wraps(own.forward)
            def forward(*args: Any, **kwargs: Any) -> Any:
                __tracebackhide__ = True
                patched.undo()  # forward may call its module
                return self._beside(served, own, Call(args, kwargs))

            patched.setitem(vars(own), "forward", forward)
            return real(own, *args, **kwargs)

    def _found(self, module: torch.nn.Module, call: Call) -> tuple[str, Served | None]:
        """Return why a call is made in eager, or what serves it."""
        if is_transforming() or under_autocast() or threading.get_ident() != self._thread:
            return "in a transform, another thread, or under autocast", None
        key = self._keys.of(module, call)
        served = self._served.get(key)
        if served is None:
            same = key is not None and key[0] in {instance for instance, _ in self._served}
            return "another structure" if same else "another module", None
        if served.verdict.status != "passed":
            return f"{served.verdict.subject} has no artifact that passed", None
        why = served.export(module)
        return why, None if why else served

    def _beside(self, served: Served, module: torch.nn.Module, call: Call) -> Any:
        """Return the artifact's value. Raises the exception of eager, or of the artifact."""
        __tracebackhide__ = True
        assert served.artifact is not None
        plan, traits = served.plan, targets.get(served.plan.target).traits
        tolerance = Tolerance(plan.options.rtol, plan.options.atol, runtime=traits.rtol)
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
            value = as_served(served.artifact, plan.device, *theirs.args, **theirs.kwargs)
        except Exception as error:
            if ends_the_test(error):
                raise
            problem = error
        finally:
            after()
        served.state = _state_of(module)  # that of the artifact after the same calls
        differences = [] if problem else compare_values(clone(expected), value, tolerance)
        if (problem or differences) and _trains(module, call, expected, plan, before):
            after()
            self.eager["training mode"] += 1
            return expected
        served.calls += 1
        if problem is not None:
            where = line_of_test(traceback.walk_stack(sys._getframe()), self._body)
            text = f"{raised(problem)}; called with {call.describe()}"
            details = (OUTSIDE,) if refuses_its_inputs(str(problem)) else ()
            served.failure = served.failure or ArtifactRaised(text, details=details, where=where)
            raise problem
        served.error = max(served.error, largest_error(expected, value) or 0.0)
        if differences and not served.apart:
            served.apart = f"call {served.calls} ({call.describe()}): {differences[0]}"
        return with_gradients(expected, value)

    def failure(self, blamed: Served, error: BaseException, *, stricter: bool) -> Failure:
        """Return the failure for what the body raised on artifacts, and does not raise in eager.

        ``stricter``: it does with outputs that are moved within the tolerance.
        """
        name, calls = blamed.verdict.name, f"{blamed.calls} call{'s' * (blamed.calls != 1)}"
        around = AROUND.format(name=name, calls=calls, error=blamed.error)
        found = f"the artifact differs from {name} in {blamed.apart}" if blamed.apart else around
        details = (*(STRICTER if stricter else ()), found)  # the first one is not left out
        where = line_of_test(traceback.walk_tb(error.__traceback__), self._body)
        return PipelineFailed(first_lines(str(raised(error))), details=details, where=where)


def first_lines(text: str) -> str:
    lines = text.splitlines()
    more = len(lines) - FIRST_LINES
    return "\n".join([*lines[:FIRST_LINES], *([f"... and {more} more lines"] if more > 0 else [])])


def run_again(
    served: Sequence[Served], body: CodeType | None, random: Callable[[], None]
) -> Generator[AbstractContextManager[None], None, list[Verdict]]:
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
    stand_in, as_left = StandIn(served, body), random_numbers()
    tolerance = Tolerance(plan.options.rtol, plan.options.atol)
    generator = torch.Generator().manual_seed(plan.seed)
    on_artifacts: list[BaseException] = []
    in_eager: list[BaseException] = []
    shaken: list[BaseException] = []
    try:
        yield _run(on_artifacts, random, stand_in.handle)
        is_blamed = any(each.failure for each in served)
        if on_artifacts or is_blamed:
            yield _run(in_eager, random, stand_in.in_eager())
            if not (is_blamed or in_eager or any(each.apart for each in served)):
                yield _run(shaken, random, moving(tolerance, generator))
    finally:
        as_left()
    if on_artifacts and not any(each.failure for each in served):
        passed = next(each for each in served if each.verdict.status == "passed")
        blamed = next((each for each in served if each.apart), stand_in.last or passed)
        blamed.failure = stand_in.failure(blamed, on_artifacts[0], stricter=bool(shaken))
        for error in in_eager:
            text = (
                f"run again without an artifact, the body raises {first_lines(str(raised(error)))}"
            )
            where = line_of_test(traceback.walk_tb(error.__traceback__), body)
            blamed.failure = NotRepeatable(text, details=(SHARED,), where=where)
    calls = sum(each.calls for each in served)
    why = ", ".join(f"{reason} ({count})" for reason, count in stand_in.eager.items())
    every = calls + stand_in.eager.total()
    ran = f"stand_in: {calls} of {every} calls of the body ran on artifacts"
    note = "; in eager: ".join(filter(None, (ran, why)))
    return [_judged(each, note, is_vain=not calls) for each in served]


def _judged(served: Served, note: str, *, is_vain: bool) -> Verdict:
    """Return the verdict with what the further run adds; ``is_vain``: no call had an artifact."""
    verdict, failure = served.verdict, served.failure
    if is_vain and verdict.status == "passed" and failure is None:
        verdict = with_more(verdict, ineffective=[note])
        failure = Ineffective(note) if served.plan.settings.strict else None
    else:
        changed = served.calls and served.plan.after_export()
        cautions = [IN_MEMORY.format(what="the body")] if changed else []
        verdict = with_more(verdict, notes=[note], cautions=cautions)
    if failure is None:
        return verdict
    if served.plan.settings.ship:
        artifact_files.clear(served.plan.settings.ship)
    return dataclasses.replace(verdict, **facts_of(failure))


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
    state = State(module)
    try:
        put_into(module, plan.mode)
        yield any(part.training != training for part, training in modes)
    finally:
        state.restore()
        for part, training in modes:
            part.training = training


def _state_of(module: torch.nn.Module) -> Any:
    """Return copies of the tensors of a module, and its numbers and strings but for its mode."""
    named = {
        f"{path}.{name}": value
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, (bool, int, float, str)) and name != "training"
    }
    return tensors_of(module), named


def moving(tolerance: Tolerance, generator: torch.Generator) -> ModuleCallHandler:
    """Return a handler that moves the floats a call returns at random within their tolerance."""

    def move(leaf: Any) -> Any:
        if not is_plain(leaf) or not leaf.is_floating_point():
            return leaf
        size = leaf.detach().abs().nan_to_num(posinf=0.0)
        rtol, atol = tolerance.of(leaf.dtype, float(size.max()) if leaf.numel() else 0.0)
        noise = 2 * torch.rand(leaf.shape, generator=generator) - 1
        return leaf + noise.to(leaf) * (atol + rtol * size)

    return lambda real, module, args, kwargs: tree_map(move, real(module, *args, **kwargs))


def with_gradients(expected: Any, actual: Any) -> Any:
    """Return the artifact's value, through which gradients reach what eager's depends on."""
    pairs = flatten(expected)[0]
    twins = {path: twin for path, twin in pairs if is_plain(twin) and twin.requires_grad}
    if not twins:
        return actual
    leaves, structure = flatten(actual)
    for number, (path, leaf) in enumerate(leaves):
        twin = twins.get(path)
        if twin is None or not is_plain(leaf):
            continue
        if (leaf.dtype, leaf.shape) == (twin.dtype, twin.shape):
            # Adds zeros: infinity less itself is none.
            leaves[number] = path, leaf + (twin - twin.detach()).nan_to_num()
    return structure.unflatten(leaf for _, leaf in leaves)

"""Compare what code returns that is built around a module with what it returns around its artifact.

The code may ask what it got: that is the artifact itself, or the path of its file, and has nothing
of the module.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport import engine, targets
from pytest_torchexport.checks import after_export
from pytest_torchexport.checks.after_export import IN_MEMORY
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.inputs.pytrees import clone, flatten
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.other_runs import MULTIPLE
from pytest_torchexport.outcomes.compare import ONLY_ITSELF, Tolerance, compare_values
from pytest_torchexport.outcomes.observe import raised, seed_everything
from pytest_torchexport.outcomes.subject import Subject, unwrapped, without
from pytest_torchexport.outcomes.torch_state import (
    GradMode,
    ModuleCallHandler,
    module_calls_through,
    random_numbers,
)
from pytest_torchexport.plugin.capture import Keys, Recording, as_called, outermost
from pytest_torchexport.plugin.stand_in import as_served, first_lines, in_mode_of, moving
from pytest_torchexport.results.failures import (
    ArtifactRaised,
    CannotJudge,
    Failure,
    Ineffective,
    LoadFailed,
    NotRepeatable,
    OutputsDiffer,
    PipelineFailed,
    SpecError,
    ends_the_test,
    facts_of,
)
from pytest_torchexport.results.verdict import Difference, Verdict, with_more
from pytest_torchexport.targets.base import Artifact

# Runs of the code around a module whose outputs are moved within their tolerance.
SHAKEN = 6
# Calls of a run that are compared, to find the step that differs.
COMPARED = 8
NO_CALL = "build(module) does not call the module: there is nothing to export"
SEVERAL = (
    "build(module) calls the module in {count} ways (other dtypes, numbers of axes, containers or "
    "Python values), and an artifact takes one: {calls}. The marker's stand_in=True takes all"
)
NO_ATTRIBUTE = (
    "the artifact has no attribute {name!r}: give its value to build, or use the marker's "
    "stand_in=True, with which the module keeps its attributes"
)
ENDLESS = "same: build returns a {cls} that contains itself, or is nested too deep"
POSTPROCESS = "step postprocess: the artifact gets and returns what the module does"
MOVES = (
    "{path} differs from build(module), which moves as much if the module's outputs are moved "
    "within their tolerance"
)
FORM = ("structure", "shape")
FORM_MOVES = (
    "{path} was not compared: its length or shape changes too if the module's outputs are moved "
    "within their tolerance. Keep scores further from their threshold"
)
BLIND = "{path} was not compared: a {cls} has no `__eq__` and no attributes"
EMPTY = (
    "build(module) returns {value}, in which nothing can differ: let it return what the pipeline "
    "makes"
)
UNLIKE = "build(module) does not agree with itself: {what}"
REPEAT = (
    "remedy: leave out of the result what differs between any two runs (times, ids), and seed what "
    "is drawn: torch, random and numpy.random begin alike in each run, a generator of your own "
    "does not"
)


@dataclass
class Calls:
    """The calls of one run: of the first ones, the arguments by name and what they returned.

    ``error``: what the last call raised that did not return.
    """

    signature: Any
    made: list[list[Any]] = field(default_factory=list)
    count: int = 0
    error: Exception | None = None

    def through(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        made = [self._named(Call(args, kwargs).clone())]  # it may write to its arguments
        self.count += 1
        if len(self.made) < COMPARED:
            self.made.append(made)
        try:
            value = function(*args, **kwargs)
        except Exception as error:
            self.error = error
            raise
        made.append(clone(value))
        return value

    def _named(self, call: Call) -> Any:
        with suppress(AttributeError, TypeError):  # no signature, or a call that it does not take
            return dict(self.signature.bind(*call.args, **call.kwargs).arguments)
        return call.args, dict(call.kwargs)


class Watched:
    def __init__(self, artifact: Artifact, device: str, calls: Calls) -> None:
        self._artifact, self._device, self._calls = artifact, device, calls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._calls.through(
            partial(as_served, self._artifact, self._device), *args, **kwargs
        )

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(self._artifact, name)
        except AttributeError:
            raise AttributeError(NO_ATTRIBUTE.format(name=name)) from None


def same(build: Callable[[Any], Any], model: Any, plan: Plan, *, file: bool) -> Verdict:
    """Return the verdict on ``build(artifact)`` beside ``build(model)``.

    ``file``: build gets the path of the artifact's file. Raises what ``build(model)`` raises.
    """
    own, wrappers = unwrapped(model)
    if not isinstance(own, torch.nn.Module):
        raise SpecError(f"same: {type(model).__name__} is no torch.nn.Module")
    notes = (without(wrappers),) if wrappers else ()
    verdict = plan.verdict(type(own).__name__, status="passed", notes=notes)
    as_left = random_numbers()
    try:
        return _judged(verdict, build, model, own, plan, file=file)
    except CannotJudge as skip:
        return dataclasses.replace(verdict, status="skipped", skip=skip.kind, reason=str(skip))
    except Failure as failure:
        return dataclasses.replace(verdict, **facts_of(failure))
    finally:
        as_left()


def _judged(
    verdict: Verdict,
    build: Callable[[Any], Any],
    model: Any,
    own: torch.nn.Module,
    plan: Plan,
    *,
    file: bool,
) -> Verdict:
    """Return the verdict with what rounding explains. Raises the failure for any other."""
    signature, traits = Subject.of(own).signature(), targets.get(plan.target).traits
    tolerance = Tolerance(plan.options.rtol, plan.options.atol, runtime=traits.rtol)
    ours, theirs = Calls(signature), Calls(signature)
    recording, keys, ways = Recording(own), Keys(), dict[Any, str]()

    def run(thing: Any, handle: ModuleCallHandler = as_called) -> Any:
        seed_everything(plan.seed)
        with in_mode_of(plan, own), module_calls_through(outermost(handle, own)):
            return _kept(build(thing))

    def record(real: Callable[..., Any], module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        call = Call(args, kwargs).clone()
        if not ways:
            recording.grad_mode = GradMode.current()
        ways.setdefault(keys.of(own, call), call.describe())
        recording.add(call)
        return ours.through(partial(real, module), *args, **kwargs)

    expected = run(model, record)
    if not ways:
        raise Ineffective(NO_CALL)
    if len(ways) > 1:
        raise SpecError(SEVERAL.format(count=len(ways), calls="; ".join(ways.values())))
    blind = _unlike(expected, partial(run, model), tolerance)
    held, structure = flatten(expected, "result")
    is_empty = all(leaf is None or path in blind for path, leaf in held)
    empty = [EMPTY.format(value=structure.describe())] if is_empty else []
    if empty and plan.settings.strict:
        raise Ineffective(*empty)
    with recording.grad_mode.entered():
        artifact = engine.export(own, recording.calls, plan)
    try:
        found = _on_artifact(run, artifact, theirs, plan, file=file)
    except (ArtifactRaised, PipelineFailed) as failure:
        failure.details = () if file else tuple(_steps(ours, theirs, tolerance))[:1]
        raise
    judged = _compared(expected, found, partial(run, model), tolerance, seed=plan.seed)
    # What a second run of eager has as another object too.
    judged = [each for each in judged if each.path not in blind or each.what != ONLY_ITSELF]
    bugs = tuple(each for each in judged if each.cause == "bug")
    if bugs:
        text = f"build({plan.target}) returns something else than build(module)"
        steps = () if file else (*_steps(ours, theirs, tolerance), POSTPROCESS)[:1]
        raise OutputsDiffer("; ".join((text, *steps)), differences=bugs)
    return with_more(
        _told(verdict, judged),
        cautions=(
            *(BLIND.format(path=path, cls=cls) for path, cls in blind.items()),
            *([] if file or not plan.after_export() else [IN_MEMORY.format(what="build")]),
        ),
        ineffective=empty,
    )


def _told(verdict: Verdict, judged: Sequence[Difference]) -> Verdict:
    """Return the verdict with the differences that rounding explains."""
    # Only a list or array of another form makes a tie of numbers.
    forms = [each for each in judged if each.cause == "tie" and (each.total or each.kind in FORM)]
    return with_more(
        dataclasses.replace(verdict, explained=tuple(judged)),
        notes=(MOVES.format(path=each.path) for each in judged if each not in forms),
        cautions=(FORM_MOVES.format(path=each.path) for each in forms),
    )


def _compared(
    expected: Any,
    found: Any,
    run: Callable[[ModuleCallHandler], Any],
    tolerance: Tolerance,
    *,
    seed: int,
) -> list[Difference]:
    """Return the differences of two results with their causes; ``run`` makes moved runs."""
    differences = compare_values(expected, found, tolerance, "result")
    runs: list[tuple[list[Difference], list[Difference]]] = []
    shaken = moving(tolerance, torch.Generator().manual_seed(seed))
    for _ in range(SHAKEN if differences and not tolerance.given else 0):
        with suppress(Exception):  # another way through the user's code
            moved = run(shaken)
            moves = compare_values(expected, moved, Tolerance(0.0, 0.0), "result")
            runs.append((moves, compare_values(moved, found, tolerance, "result")))
    return [_with_cause(each, runs) for each in differences]


def _unlike(expected: Any, run: Callable[[], Any], tolerance: Tolerance) -> dict[str, str]:
    """Return where a second run has objects that cannot be compared, with their classes.

    Raises NotRepeatable if it differs in any other way.
    """
    try:
        differences = compare_values(expected, run(), tolerance, "result")
    except Exception as error:
        if ends_the_test(error):
            raise
        what = raised(error)
        text = UNLIKE.format(what=f"its second run raises {what}")
        raise NotRepeatable(text, details=(REPEAT,), where=what.where) from error
    unlike = tuple(each for each in differences if each.what != ONLY_ITSELF)
    if unlike:
        text = UNLIKE.format(what=", ".join(each.path for each in unlike[:COMPARED]))
        raise NotRepeatable(text, details=(REPEAT,), differences=unlike)
    return {each.path: each.expected for each in differences}


def _kept(value: Any) -> Any:
    """Return a copy: build may return the same object again, changed. Read a generator."""
    value = list(value) if isinstance(value, Iterator) else value
    try:
        return Call((value,)).clone().args[0]
    except RecursionError:
        raise SpecError(ENDLESS.format(cls=type(value).__name__)) from None


def _on_artifact(
    run: Callable[[Any], Any], artifact: Artifact, calls: Calls, plan: Plan, *, file: bool
) -> Any:
    """Return the result of build for the artifact or its file. Raises the failure, if any."""
    with tempfile.TemporaryDirectory() as directory:
        thing: Any = Watched(artifact, plan.device, calls)
        try:
            thing = artifact.save(Path(directory)) if file else thing
        except Exception as error:
            raise LoadFailed(f"the artifact cannot be saved: {raised(error)}") from error
        for function in plan.after_export() if file else ():
            thing = after_export.changed(function, thing, Path(directory), plan.target).path
        try:
            return run(thing)
        except Exception as error:
            if ends_the_test(error):
                raise
            what, cls = raised(error), ArtifactRaised if calls.error is error else PipelineFailed
            given = "the path of the artifact's file" if file else "the artifact"
            text = f"build raises {what.type} with {given}, not with the module: {what.message}"
            raise cls(first_lines(text), where=what.where) from error


def _with_cause(
    difference: Difference, runs: Sequence[tuple[Sequence[Difference], Sequence[Difference]]]
) -> Difference:
    """Return a difference with its cause.

    ``runs``: of each of eager's moved runs, what differs from eager's own, and the artifact's from
    it. Those in which the value has the artifact's form decide, if there are any.
    """
    path, kind = difference.path, difference.kind
    alike = [
        moves
        for moves, beside in runs
        if not any(
            each.kind in FORM and (_is_in(path, each.path) or _is_in(each.path, path))
            for each in beside
        )
    ]
    if not alike and kind not in FORM:
        alike = [moves for moves, _ in runs]
    own = [move for moves in alike for move in moves if _is_in(path, move.path)]
    if any(move.total is None and (difference.total or move.kind == kind) for move in own):
        return dataclasses.replace(difference, cause="tie")
    error = max((move.max_abs or 0.0 for move in own), default=0.0)
    is_small = difference.max_abs is not None and difference.max_abs <= MULTIPLE * error
    return dataclasses.replace(difference, cause="rounding" if is_small else "bug", own_error=error)


def _is_in(path: str, holder: str) -> bool:
    return path == holder or path.startswith(f"{holder}[")


def _steps(ours: Calls, theirs: Calls, tolerance: Tolerance) -> Iterator[str]:
    """Yield the steps that differ: what is done before the module, and the module itself."""
    for number, pair in enumerate(zip(ours.made, theirs.made, strict=False), 1):
        steps = (("preprocess", "inputs"), ("model", "output"))
        for (step, what), left, right in zip(steps, *pair, strict=False):
            for difference in compare_values(left, right, tolerance, what):
                yield f"step {step}: in call {number}, {difference}"
    if ours.count != theirs.count:
        yield f"step preprocess: {ours.count} calls of the module, {theirs.count} of the artifact"

"""Weigh a pass: doubts about it, and bugs that are put into the artifact to be found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter
from typing import Any

import torch

from pytest_torchexport.config.named_dims import Dim, Expr
from pytest_torchexport.eager.batch_axes import SEQUENCE
from pytest_torchexport.inputs.pytrees import tree_map
from pytest_torchexport.inputs.recipes import Recipe, example_recipe
from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.coverage import uncovered, weighed
from pytest_torchexport.judge.log import ItemLog
from pytest_torchexport.judge.rounding import Doubt
from pytest_torchexport.judge.runner import AsFunction, Runnable
from pytest_torchexport.outcomes.compare import Tolerance, compare_values
from pytest_torchexport.outcomes.limits import TimeLimitExceeded, interrupted_after
from pytest_torchexport.outcomes.observe import Outcome, Returned, observe
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.failures import CannotJudge, Ineffective
from pytest_torchexport.results.verdict import Difference, SeededBug, SeededBugKind


def weigh(case: Case) -> None:
    """Raise Ineffective if hardly anything was checked; else log why a pass says little.

    Also log what the calls left uncovered.
    """
    log, accepted = case.log, case.accepted
    log.ineffective += weighed(
        log.outputs,
        # A call that was made with the example's values instead was refused as well.
        refused=max(log.calls["rejected"], accepted.fell_back),
        refusal=accepted.refusal,
        only_the_examples_values=accepted.fell_back and not accepted.takes_other_values,
        sizes_vary=bool(accepted.spec.dims),
        fixed=accepted.fixed,
    )
    for text in log.outputs.partial():
        log.note(text)
    for doubt, found in case.judge.doubted():
        log.caution(_doubted(doubt, found))
    if text := _reordered(case):
        log.caution(text)
    log.uncovered = uncovered(
        log.covered, case.spec, case.plan.options, case.artifact.facts, tied=accepted.tied
    )


def _reordered(case: Case) -> str:
    """Return a warning if a file's inputs are not in forward's order: they are fed in silence."""
    eager = case.reference.pristine.signature()
    by_position = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    parameters = eager.parameters.items() if eager is not None else ()
    positions = [name for name, item in parameters if item.kind in by_position]
    own = [name for name in case.artifact.facts.inputs() if name in positions]
    wanted = [name for name in positions if name in own]
    if own == wanted:
        return ""
    return (
        f"the file's inputs are in the order {', '.join(own)}, as the call named them, and not in "
        f"forward's ({', '.join(wanted)}): whoever runs the file must feed them by name"
    )


def require(case: Case) -> None:
    """Raise CannotJudge if random outputs cannot be compared.

    Raises Ineffective under strict for any reason why a pass says little.
    """
    paths = ", ".join(sorted(case.random_paths))
    unjudged = paths and (
        f"forward is random, and {case.plan.target} draws from another random stream than eager: "
        f"the values of {paths} cannot be compared"
    )
    if case.plan.settings.strict and (case.log.ineffective or unjudged):
        first, *more = [unjudged] if unjudged else case.log.ineffective
        raise Ineffective(first, details=tuple(more))
    if unjudged:
        raise CannotJudge(unjudged)


def _doubted(doubt: Doubt, found: Difference) -> str:
    many = found.in_own_errors
    times = f" and {many:.0f} times eager's own error" if many else ""
    return (
        f"{found.path} differs by {found.max_abs:.2g}, {doubt.units:.0f} units in the last place "
        f"of its largest element{times}: within the tolerance, but no rounding; give rtol and "
        "atol if it must not differ"
    )


def weigh_sequence(case: Case) -> None:
    """Log a warning if the artifact does not take another length of a sequence, as eager does."""
    accepted = case.accepted.at_any_length()
    if accepted is None:
        return
    other = dataclasses.replace(case, accepted=accepted, log=ItemLog())
    spec, dim = other.spec, other.spec.dims[SEQUENCE]
    for size in (dim.example + 1, dim.high, dim.example - 1):
        recipe = example_recipe(spec, {SEQUENCE: size})
        failure = other.judge.quietly(recipe) if size in dim.sizes else None
        if failure is not None:
            leaf = next(leaf for leaf in spec.tensors if Expr(SEQUENCE) in leaf.shape)
            varies = " ".join(axis.text for axis in leaf.shape)
            stays = " ".join(axis.fixed(SEQUENCE, dim.example).text for axis in leaf.shape)
            case.log.ineffective.append(
                f"dim {leaf.shape.index(Expr(SEQUENCE))} of {leaf.path} is a sequence of "
                f"{dim.example}: the artifact is not right at {size} ({type(failure).__name__}); "
                f'say if its length varies, with shapes={{{leaf.path!r}: "{varies}"}}, or not, '
                f'with "{stays}"'
            )
            return


# How far a seeded bug moves the weights: the error of a weight stored in eight bits.
WEIGHT_NOISE = 0.01
# How many weights are tried until the output depends on one.
WEIGHTS = 20
# The most time for one bug, in seconds and as a share of the item's time limit.
SECONDS_EACH = 20.0
SHARE_EACH = 0.1

Run = Callable[[Call], Any]
Sabotage = Callable[[Call, Run], Any]


@dataclass(frozen=True)
class Mutant:
    """An artifact with a bug in it."""

    inner: Runnable
    sabotage: Sabotage

    @property
    def module(self) -> Any:
        return self.inner.module

    @property
    def native_loops(self) -> bool:
        return self.inner.native_loops

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.sabotage(Call(args, kwargs), lambda call: self.inner(*call.args, **call.kwargs))


@dataclass(frozen=True)
class _Eager:
    """A copy of the subject with other weights, in place of the artifact."""

    function: Callable[..., Any]
    module: Any
    native_loops: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def seed_bugs(case: Case) -> None:
    """Log each seeded bug as caught, missed or not applicable.

    Raises Ineffective under strict if one is missed. Has time limits of its own: a bug
    with which the artifact does not return does not apply.
    """
    case.plan.progress("self-test")
    example = case.reference.on_cpu(case.spec.example)
    calls = case.log.ran
    # The calls of control_flow alone are made to take branches: they show no size, weight or cast.
    if not isinstance(example, Returned) or not calls or not case.plan.checks("parity"):
        case.log.self_test.append(_not_applicable("every bug", "the check parity made no calls"))
        return
    with case.log.timed("self-test"):
        for bug in _bugs(case, example):
            case.log.self_test.append(_tried(case, bug, calls))
    missed = [bug.name for bug in case.log.self_test if bug.result == "missed"]
    if missed and case.plan.settings.strict:
        raise Ineffective(f"self-test: this item would miss a {', a '.join(missed)}")


@dataclass(frozen=True)
class _Bug:
    """A bug, and the artifact with it; or why there is no such artifact."""

    kind: SeededBugKind
    mutant: Runnable | str
    dim: str = ""


def _tried(case: Case, bug: _Bug, calls: Sequence[tuple[str, Recipe]]) -> SeededBug:
    if isinstance(bug.mutant, str):
        return _not_applicable(bug.kind, bug.mutant, bug.dim)
    judge = case.judge_of(case.runner_of(bug.mutant), ItemLog())
    try:
        with interrupted_after(_seconds(case)):
            for number, (origin, recipe) in enumerate(calls, start=1):
                failure = judge.quietly(recipe)
                if failure is not None:
                    name = type(failure).__name__
                    why = f"call {number} of {len(calls)} ({origin}), {name}"
                    return SeededBug(kind=bug.kind, dim=bug.dim, result="caught", explanation=why)
    except TimeLimitExceeded:
        return _not_applicable(bug.kind, f"no answer within {_seconds(case):g} s", bug.dim)
    why = f"{len(calls)} calls agree"
    return SeededBug(kind=bug.kind, dim=bug.dim, result="missed", explanation=why)


def _not_applicable(kind: SeededBugKind, why: str, dim: str = "") -> SeededBug:
    return SeededBug(kind=kind, dim=dim, result="does not apply", explanation=why)


def _bugs(case: Case, example: Returned) -> Iterator[_Bug]:
    spec = case.spec
    # In the sandbox an artifact is called through its runner.
    isolated = case.runner.isolated
    artifact: Runnable = AsFunction(case.runner, case.plan.seed) if isolated else case.artifact
    if not spec.dims:
        yield _Bug("frozen size", "no size varies")
    for name, dim in spec.dims.items():
        one = len(dim.sizes) == 1
        mutant = "only one size was declared" if one else Mutant(artifact, _frozen(spec, dim))
        yield _Bug("frozen size", mutant, dim=name)
    yield _Bug("perturbed weight", _perturbed(case, example))
    yield _Bug("dropped output", _dropped(artifact, example.value))
    yield _Bug("cast to half", _cast(artifact, example.value))
    yield _Bug("swapped branch", _branch(artifact, spec))


def _dropped(artifact: Runnable, outputs: Any) -> Runnable | str:
    if isinstance(outputs, (tuple, list, Mapping)) and len(outputs) > 1:
        return Mutant(artifact, lambda call, run: _without_last(run(call)))
    return "there is only one output, or a container of a class of its own"


def _cast(artifact: Runnable, outputs: Any) -> Runnable | str:
    if compare_values(outputs, tree_map(_through_half, outputs), Tolerance()):
        return Mutant(artifact, lambda call, run: tree_map(_through_half, run(call)))
    return "half precision holds the output"


def _frozen(spec: InputSpec, dim: Dim) -> Sabotage:
    """Return the bug of an exporter that took the example's size for a constant."""
    return lambda call, run: run(spec.resized(call, {dim.name: dim.example}))


def _perturbed(case: Case, example: Returned) -> Runnable | str:
    """Return eager with noise on the first weight that the example's output depends on."""
    names = [name for name, _ in _floats(case.reference.pristine)]
    if not names:
        return "there are no weights"
    for name in names[:WEIGHTS]:
        subject = case.reference.pristine.copy()
        weight = dict(_floats(subject))[name]
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).to(weight)
        size = weight.detach().abs()
        # A weight of zeros is moved as one of ones would be.
        size = size.clamp(min=float(size.mean()) or 1.0)
        with torch.no_grad():
            weight.copy_(weight + WEIGHT_NOISE * noise * size)
        outcome = _quickly(subject, case)
        if outcome is None:
            return "forward does not return with other weights"
        if isinstance(outcome, Returned) and compare_values(
            example.value, outcome.value, Tolerance()
        ):
            return _Eager(subject.to(case.plan.device).function, subject.module)
    return "no weight matters to the example"


def _quickly(subject: Subject, case: Case) -> Outcome | None:
    try:
        with interrupted_after(_seconds(case)):
            return observe(
                subject.function,
                case.spec.example,
                seed=case.plan.seed,
                grad_mode=subject.grad_mode,
            )
    except TimeLimitExceeded:
        return None


def _seconds(case: Case) -> float:
    return min(SECONDS_EACH, SHARE_EACH * case.plan.settings.time_limit)


def _floats(subject: Subject) -> list[tuple[str, torch.nn.Parameter]]:
    named = subject.module.named_parameters() if subject.module is not None else ()
    return [
        (name, weight) for name, weight in named if weight.is_floating_point() and weight.numel()
    ]


def _without_last(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(list(value.items())[:-1])
    return tuple(value)[:-1]


def _through_half(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float32:
        return leaf.half().float()
    return leaf


def _branch(artifact: Runnable, spec: InputSpec) -> Runnable | str:
    """Return the artifact with a frozen branch on its first numeric input."""
    leaf = next((item for item in spec.tensors if item.dtype != torch.bool), None)
    if leaf is None or not leaf.example.numel() or leaf.dtype.is_complex:
        return "no input holds numbers"
    low, high, path = leaf.domain.low, leaf.domain.high, leaf.path
    middle = (float(low) + float(high)) / 2 if low is not None and high is not None else 0.0

    def above(call: Call) -> bool:
        return float(dict(spec.flatten(call))[path].double().mean()) > middle

    return Mutant(artifact, _swapped(spec, above))


def _swapped(spec: InputSpec, predicate: Callable[[Call], bool]) -> Sabotage:
    taken = predicate(spec.example)

    def sabotage(call: Call, run: Run) -> Any:
        value = run(call)
        return value if predicate(call) == taken else tree_map(_otherwise, value)

    return sabotage


def _otherwise(leaf: Any) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    return ~leaf if leaf.dtype == torch.bool else leaf + 1

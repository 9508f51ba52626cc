"""The self-test: would this very item have caught a bug? Known ones are seeded into its own artifact.

Separate from the engine because it judges the gate, not the model: the calls are those that the item has
just passed with, and green is what must not come out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchexport.config.dims import Dim
from pytest_torchexport.inputs.pytrees import tree_map
from pytest_torchexport.inputs.recipes import Recipe
from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.judge import Judge
from pytest_torchexport.judge.log import ItemLog
from pytest_torchexport.judge.runners import Runnable
from pytest_torchexport.outcomes.compare import Tolerance, compare_values
from pytest_torchexport.outcomes.limits import TimeLimitExceeded, interrupted_after
from pytest_torchexport.outcomes.observe import Outcome, Returned, observe
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.failures import Ineffective

# How far a seeded bug moves the weights: the error of a weight stored in eight bits.
WEIGHT_NOISE = 0.01
# How many weights are tried for one that matters, and how long one bug may take.
WEIGHTS = 20
SECONDS_EACH = 20.0
SHARE_EACH = 0.1

CAUGHT, MISSED, NOT_APPLICABLE = "caught", "missed", "does not apply"

Run = Callable[[Call], Any]
Sabotage = Callable[[Call, Run], Any]


@dataclass(frozen=True)
class Mutant:
    """An artifact with a bug in it."""

    inner: Runnable
    sabotage: Sabotage

    @property
    def module(self) -> Any:
        """The artifact's."""
        return self.inner.module

    @property
    def native_loops(self) -> bool:
        """The artifact's."""
        return self.inner.native_loops

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the artifact, wrongly."""
        return self.sabotage(Call(args, kwargs), lambda call: self.inner(*call.args, **call.kwargs))


@dataclass(frozen=True)
class _Eager:
    """A copy of the subject with other weights in the artifact's place."""

    function: Callable[..., Any]
    module: Any
    native_loops: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def seed_bugs(case: Case) -> None:
    """Note per seeded bug ``caught: ...``, ``missed: ...`` or ``does not apply: ...``; under strict a missed
    one is raised. Keeps its own time: a mutant that does not return is not tried further.
    """
    case.plan.progress("self-test")
    example = case.eager.on_cpu(case.spec.example)
    calls, found = case.log.ran, case.log.self_test
    if not isinstance(example, Returned) or not calls:
        found["every bug"] = f"{NOT_APPLICABLE}: the check parity made no calls"
        return
    with case.log.timed("self-test"):
        for name, mutant in _mutants(case, example):
            if isinstance(mutant, str):
                found[name] = f"{NOT_APPLICABLE}: {mutant}"
                continue
            try:
                with interrupted_after(_seconds(case)):
                    found[name] = _caught(case.judge_of(mutant, ItemLog()), calls)
            except TimeLimitExceeded:
                found[name] = f"{NOT_APPLICABLE}: no answer within {_seconds(case):g} s"
    missed = [name for name, came in found.items() if came.startswith(MISSED)]
    if missed and case.plan.settings.strict:
        raise Ineffective(f"self-test: this item would miss a {', a '.join(missed)}")


def _caught(judge: Judge, calls: Sequence[tuple[str, Recipe]]) -> str:
    for number, (origin, recipe) in enumerate(calls, start=1):
        failure = judge.quietly(recipe)
        if failure is not None:
            return f"{CAUGHT}: call {number} of {len(calls)} ({origin}), {type(failure).__name__}"
    return f"{MISSED}: {len(calls)} calls agree"


def _mutants(case: Case, example: Returned) -> Iterator[tuple[str, Runnable | str]]:
    artifact, spec, outputs = case.artifact, case.spec, example.value
    if not spec.dims:
        yield "frozen size", "no size varies"
    for name, dim in spec.dims.items():
        one = len(dim.sizes) == 1
        mutant = "one size alone was declared" if one else Mutant(artifact, _frozen(spec, dim))
        yield f"frozen size of {name}", mutant
    yield "perturbed weight", _perturbed(case, example)
    if isinstance(outputs, (tuple, list, Mapping)) and len(outputs) > 1:
        yield "dropped output", Mutant(artifact, lambda call, run: _without_last(run(call)))
    else:
        yield "dropped output", "there is one output alone, or a container of its own class"
    if compare_values(outputs, tree_map(_through_half, outputs), Tolerance()):
        yield "cast to half", Mutant(artifact, lambda call, run: tree_map(_through_half, run(call)))
    else:
        yield "cast to half", "half precision holds the output"
    yield "swapped branch", _branch(artifact, spec)


def _frozen(spec: InputSpec, dim: Dim) -> Sabotage:
    """The artifact as it would be had the exporter taken the example's size for a constant."""
    return lambda call, run: run(spec.resized(call, {dim.name: dim.example}))


def _perturbed(case: Case, example: Returned) -> Runnable | str:
    """Eager with noise on the first weight that matters to the example."""
    names = [name for name, _ in _floats(case.eager.pristine)]
    if not names:
        return "there are no weights"
    for name in names[:WEIGHTS]:
        subject = case.eager.pristine.copy()
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
    """Eager with other weights may loop for ever: an iteration that no longer converges."""
    try:
        with interrupted_after(_seconds(case)):
            return observe(subject.function, case.spec.example, seed=case.plan.seed)
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
    """The artifact with a branch on its first input of numbers, taken on the example's side for good."""
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

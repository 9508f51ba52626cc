"""Weigh a pass: doubts about it, and bugs that are put into the artifact to be found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import Parameter
from typing import Any, Literal

import torch

from pytest_torchexport.config.named_dims import Expr
from pytest_torchexport.eager.accepted import SEQUENCE, as_in_the_example
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.pytrees import tree_map
from pytest_torchexport.inputs.recipes import Recipe, example_recipe, plain_recipe
from pytest_torchexport.inputs.spec import Call, InputSpec, TensorLeaf
from pytest_torchexport.inputs.strategies import layouts_of
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.coverage import uncovered, weighed
from pytest_torchexport.judge.log import UNTIL_CALLS, ItemLog
from pytest_torchexport.judge.runner import Runner
from pytest_torchexport.outcomes.compare import Tolerance, compare_values
from pytest_torchexport.outcomes.limits import TimeLimitExceeded, interrupted_after
from pytest_torchexport.outcomes.observe import Outcome, Returned, observe
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.failures import CannotJudge, Ineffective
from pytest_torchexport.results.verdict import SeededBug, SeededBugKind


def weigh(case: Case) -> None:
    """Raise Ineffective if hardly anything was checked; else log why a pass says little.

    Also log what the calls left uncovered.
    """
    log, accepted = case.log, case.accepted
    tolerance = case.judge.tolerance
    log.ineffective += weighed(log.outputs, tolerance, accepted, log.calls["rejected"])
    for text in log.outputs.complaints(tolerance, partial=True):
        log.note(text)
    if text := _reordered(case):
        log.caution(text)
    for text in _other_layouts(case):
        log.note(text)  # of a file of such a target it is no news
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


def _other_layouts(case: Case) -> Iterator[str]:
    """Yield a note for each input of which the artifact reads another memory layout wrongly.

    Only for a target whose files have the layouts of the example: all other calls keep these. A
    layout that the artifact refuses needs no note.
    """
    spec, judge = case.spec, case.judge.aside()
    if not case.traits.fixes_layouts:
        return
    given = as_in_the_example(spec, example_recipe(spec))
    normal = plain_recipe(spec, "normal", spec.example_sizes, case.plan.seed)
    for number, leaf in enumerate(spec.leaves):
        if not isinstance(leaf, TensorLeaf):
            continue
        for layout in layouts_of(leaf):
            leaves = [*given.leaves]
            leaves[number] = dataclasses.replace(normal.leaves[number], layout=layout)
            call = build(spec, dataclasses.replace(given, leaves=tuple(leaves)))
            if call is None or layout == leaf.layout or case.deadline.is_past(UNTIL_CALLS):
                continue
            expected = case.reference.on_device(call, case.reference.on_cpu(call))
            if not isinstance(expected, Returned):
                continue
            found = judge.run(call)
            if isinstance(found, Returned) and judge.differences([call], expected, found):
                own = leaf.layout
                if own == "strided":
                    own = f"laid out in memory by the strides {tuple(leaf.example.stride())}"
                yield (
                    f"{leaf.path} is read as {own}, as in the example: a {layout} one gives other "
                    "results than eager, so copy it into that layout before the call"
                )


# -- seeded bugs -----------------------------------------------------------------------------------

# How far a seeded bug moves the weights: the error of a weight stored in eight bits.
WEIGHT_NOISE = 0.01
# How many weights are tried until the output depends on one.
WEIGHTS = 20
# The most time for one bug, as a share of the item's time limit.
SHARE_EACH = 0.1

Run = Callable[[Call], Outcome]


@dataclass(frozen=True)
class _Bug:
    """A bug, and how the artifact runs with it; or why there is no such artifact."""

    kind: SeededBugKind
    run: Run | str
    dim: str = ""

    def result(
        self, result: Literal["caught", "missed", "does not apply"], explanation: str
    ) -> SeededBug:
        return SeededBug(kind=self.kind, dim=self.dim, result=result, explanation=explanation)


class _Mutant(Runner):
    """Runs an artifact with a bug in it."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def run(self, call: Call, seed: int, *, again: bool = False) -> Outcome:
        return self._run(call)


def seed_bugs(case: Case) -> None:
    """Log each seeded bug as caught, missed or not applicable.

    Raises Ineffective under strict if one is missed. Has time limits of its own: a bug
    with which the artifact does not return does not apply.
    """
    log, calls = case.log, case.log.ran
    example = case.reference.on_cpu(case.spec.example)
    # The calls of control_flow alone are made to take branches: they show no size, weight or cast.
    if not isinstance(example, Returned) or not calls or not case.plan.checks("parity"):
        every = _Bug("every bug", "")
        log.self_test.append(every.result("does not apply", "the check parity made no calls"))
        return
    with log.timed("self-test"):
        log.self_test += (_tried(case, bug, calls) for bug in _bugs(case, example))
    missed = [bug.name for bug in log.self_test if bug.result == "missed"]
    if missed and case.plan.settings.strict:
        raise Ineffective(f"self-test: this item would miss a {', a '.join(missed)}")


def _tried(case: Case, bug: _Bug, calls: Sequence[tuple[str, Recipe]]) -> SeededBug:
    if isinstance(bug.run, str):
        return bug.result("does not apply", bug.run)
    judge = case.judge_of(_Mutant(bug.run), ItemLog())
    try:
        with interrupted_after(_seconds(case)):
            for number, (origin, recipe) in enumerate(calls, start=1):
                failure = judge.quietly(recipe)
                if failure is not None:
                    name = type(failure).__name__
                    why = f"call {number} of {len(calls)} ({origin}), {name}"
                    return bug.result("caught", why)
    except TimeLimitExceeded:
        return bug.result("does not apply", f"no answer within {_seconds(case):g} s")
    return bug.result("missed", f"{len(calls)} calls agree")


def _bugs(case: Case, example: Returned) -> Iterator[_Bug]:
    spec, outputs = case.spec, example.value

    def run(call: Call) -> Outcome:
        return case.runner.run(call, case.plan.seed)

    def then(change: Callable[[Any], Any], where: Callable[[Call], bool] = lambda _: True) -> Run:

        def changed(call: Call) -> Outcome:
            outcome = run(call)
            if not isinstance(outcome, Returned) or not where(call):
                return outcome
            return dataclasses.replace(outcome, value=change(outcome.value))

        return changed

    def of_sizes(sizes: dict[str, int], call: Call) -> Outcome:
        """Take these sizes for constants, as exporters do with the example's."""
        return run(spec.resized(call, sizes))

    if not spec.dims:
        yield _Bug("frozen size", "no size varies")
    for name, dim in spec.dims.items():
        one = len(dim.sizes) == 1
        frozen = partial(of_sizes, {name: dim.example})
        yield _Bug("frozen size", "only one size was declared" if one else frozen, dim=name)
    yield _Bug("perturbed weight", _perturbed(case, example))
    several = isinstance(outputs, (tuple, list, Mapping)) and len(outputs) > 1
    why = "there is only one output, or a container of a class of its own"
    drop = then(
        lambda value: (
            dict(list(value.items())[:-1]) if isinstance(value, Mapping) else tuple(value)[:-1]
        )
    )
    yield _Bug("dropped output", drop if several else why)
    halved = partial(tree_map, _through_half)
    loses = compare_values(outputs, halved(outputs), Tolerance())
    yield _Bug("cast to half", then(halved) if loses else "half precision holds the output")
    other_side = _other_side(spec)
    if other_side is None:
        yield _Bug("swapped branch", "no input holds numbers")
    else:
        yield _Bug("swapped branch", then(partial(tree_map, _otherwise), other_side))


def _perturbed(case: Case, example: Returned) -> Run | str:
    """Return eager with noise on the first weight that the example's output depends on."""

    def floats(subject: Subject) -> dict[str, torch.nn.Parameter]:
        named = subject.module.named_parameters() if subject.module is not None else ()
        return {name: each for name, each in named if each.is_floating_point() and each.numel()}

    names = list(floats(case.reference.pristine))
    if not names:
        return "there are no weights"
    for name in names[:WEIGHTS]:
        subject = case.reference.pristine.copy()
        weight = floats(subject)[name]
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).to(weight)
        size = weight.detach().abs()
        # A weight of zeros is moved as one of ones would be.
        size = size.clamp(min=float(size.mean()) or 1.0)
        with torch.no_grad():
            weight.copy_(weight + WEIGHT_NOISE * noise * size)
        run = partial(observe, subject.function, seed=case.plan.seed, grad_mode=subject.grad_mode)
        try:
            with interrupted_after(_seconds(case)):
                outcome = run(case.spec.example)
        except TimeLimitExceeded:
            return "forward does not return with other weights"
        if isinstance(outcome, Returned) and compare_values(
            example.value, outcome.value, Tolerance()
        ):
            subject.to(case.plan.device)
            return lambda call: run(call.to(case.plan.device))
    return "no weight matters to the example"


def _seconds(case: Case) -> float:
    return SHARE_EACH * case.plan.settings.time_limit


def _through_half(leaf: Any) -> Any:
    halves = isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float32
    return leaf.half().float() if halves else leaf


def _otherwise(leaf: Any) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    return ~leaf if leaf.dtype == torch.bool else leaf + 1


def _other_side(spec: InputSpec) -> Callable[[Call], bool] | None:
    """Return whether a call is on another side of a branch on the first numbers than the example.

    None if no input holds numbers.
    """
    leaf = next((item for item in spec.tensors if item.dtype != torch.bool), None)
    if leaf is None or not leaf.example.numel() or leaf.dtype.is_complex:
        return None
    low, high, path = leaf.domain.low, leaf.domain.high, leaf.path
    middle = (float(low) + float(high)) / 2 if low is not None and high is not None else 0.0

    def above(call: Call) -> bool:
        return float(dict(spec.flatten(call))[path].double().mean()) > middle

    taken = above(spec.example)
    return lambda call: above(call) != taken

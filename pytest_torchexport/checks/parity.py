"""The check ``parity``: on every call that eager takes, the artifact does what eager does.

Runs the example, the real inputs, the other calls that the test made, the calls stored by an
earlier run, the boundary calls, the calls that the branch search found, those that Hypothesis
draws, and those that reach thresholds of operators. If only ``control_flow`` is asked for, the
example and the calls of the branch search alone. Hypothesis draws here (``for_each``).
Raises the failure of the smallest failing call: ArtifactRaised, OutputsDiffer, StructureDiffers,
StateDiffers, DimsNarrowed, ArtifactCrashed, ArtifactHung. Raises CannotJudge if nobody named the
target and the artifact raises on the example itself. Before, on the example: does the artifact vary
with the random seed if eager does, and only then? If it draws from another random stream than
eager, its random outputs are not compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

import hypothesis
import torch
from hypothesis import errors

from pytest_torchexport.eager.queries import answering
from pytest_torchexport.eager.reference import Learned
from pytest_torchexport.explore.difference import DifferenceSearch
from pytest_torchexport.explore.operator_run import OperatorRuns
from pytest_torchexport.inputs.building import build, readable
from pytest_torchexport.inputs.drawing import for_each
from pytest_torchexport.inputs.recipes import (
    Recipe,
    example_recipe,
    origin_of,
    recorded_recipes,
    some_recorded,
)
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.inputs.strategies import NewSizes, examples, least_examples, recipes
from pytest_torchexport.judge import narrow
from pytest_torchexport.judge.case import DEADLY, Case, explained
from pytest_torchexport.judge.log import UNTIL_CALLS, Activity
from pytest_torchexport.outcomes.compare import Tolerance, compare_values
from pytest_torchexport.outcomes.limits import TimeLimitExceeded
from pytest_torchexport.outcomes.observe import Returned, State
from pytest_torchexport.results.escaped import few
from pytest_torchexport.results.failures import (
    ArtifactRaised,
    CannotJudge,
    OutputsDiffer,
    SpecError,
)
from pytest_torchexport.results.verdict import DrawnUntil
from pytest_torchexport.targets.base import HasSteps

# An artifact's first run may differ from its later ones; TorchScript's also at each other size:
# https://github.com/pytorch/pytorch/issues/80606
REPEATS = 3
# How many failing calls are kept for the next run.
STORED = 10
# The origins of calls whose values somebody gave.
GIVEN_CALLS = ("example", "inputs", "recorded")
# Drawing stops after this many calls that crash or hang: the artifact is loaded again each time.
DEADLY_CALLS = 3
# Drawing stops after this many calls of which none has passed.
ALL_FAILING = 20


class _Enough(BaseException):
    """Raised inside ``@given`` to stop drawing.

    A BaseException, because Hypothesis takes an Exception for a failing example.
    """


def run(case: Case) -> Case:
    """Run every call, and keep those that fail in the log.

    Return a new case if eager turned out to change between calls.
    """
    with case.log.timed("parity"):
        _every(case)
        if case.reference.drifted():
            # Results of eager so far depended on earlier calls: discard what was judged by them.
            case.log.forget_calls()
            case = case.anew()
            _every(case)
        for text in case.log.covered.fell_short(case.spec):
            case.log.note(text)
        if case.plan.checks("parity"):
            if not case.log.failed:
                narrow.judge(case)
            failed = [recipe.as_dict() for recipe, _ in case.log.failed]
            case.plan.corpus.store(case.key, failed)
    return case


def explain(case: Case) -> None:
    """Shrink the failing call that is to be explained, and raise its failure.

    Raises CannotJudge if nobody named the target and its artifact raises on the example itself.
    """
    if _fails_as_exported(case):
        failure = case.log.failed[0][1]
        at = f" ({failure.where.place})" if failure.where is not None else ""
        case.refused(f"made an artifact that raises on the example itself: {failure}{at}")
    if case.log.failed:
        recipe, failure = case.log.failed[0]
        # Beyond the example's path another fault may show.
        with case.log.during(Activity.EAGER):  # the judge says when the artifact runs
            beside = case.branches.beside_example(recipe) if case.branches else None
            raise explained(case, recipe, failure, as_well=beside)


def _every(case: Case) -> None:
    if case.branches:
        case.branches.tried.clear()
    if not _trial(case, "example", example_recipe(case.spec), repeats=REPEATS):
        _raise_for_the_example(case)
    if _fails_as_exported(case) and not case.plan.named:
        return
    if case.plan.checks("parity"):
        _given(case)
        stored = readable(case.spec, case.plan.corpus.load(case.key))
        _explicit(case, "stored", stored)
        scripted = isinstance(case.artifact.module, torch.jit.ScriptModule)
        _explicit(case, "boundary", case.boundary(), repeats=REPEATS if scripted else 1)
    _explicit(case, "explored", case.explored)
    if case.plan.checks("parity"):
        _draw(case)
        if not case.log.failed:
            _explicit(case, "searched", searched(case))


def _raise_for_the_example(case: Case) -> NoReturn:
    """Raise SpecError if filter or eager refuses the example, else CannotJudge."""
    found = case.accepted.call(example_recipe(case.spec))
    if found is None and case.spec.filter is not None:
        raise SpecError("filter refuses the example itself")
    if found is None:
        raise SpecError(f"eager refuses the example itself: {case.accepted.refusal}")
    outcome = case.reference.on_device(found.call, found.outcome)
    if not isinstance(outcome, Returned):
        raise SpecError(f"eager refuses the example itself on {case.plan.device}: {outcome}")
    # Neither: its call or its result cannot be sent to the process in which it is isolated.
    raise CannotJudge(f"the example cannot be judged: {case.judge.run(found.call)}")


def _fails_as_exported(case: Case) -> bool:
    """Return True if the artifact raises on the example, at which it was exported."""
    exported = not case.frozen_sizes and not case.foreign
    return exported and any(
        isinstance(failure, ArtifactRaised) and recipe == example_recipe(case.spec)
        for recipe, failure in case.log.failed[:1]
    )


def _given(case: Case) -> None:
    """Run the real inputs and the test's own calls; caution of real inputs that are not run."""
    spec = case.spec
    real: list[Recipe] = []
    own: list[Recipe] = []
    for recipe in recorded_recipes(spec):
        (real if origin_of(spec, recipe.leaves[0]) else own).append(recipe)
    refused = _explicit(case, "inputs", real)
    _explicit(case, "recorded", own)
    count = sum(map(bool, spec.origins))
    if len(real) < count:
        text = f"inputs: {count - len(real)} of {count} not run: their sizes are left out"
        case.log.caution(f"{text}, by shapes= or dims=, or because eager refuses them")
    if refused:
        call = build(spec, refused[0])
        why = f"eager: {case.reference.on_cpu(call)}" if call is not None else "filter="
        names = few([origin_of(spec, recipe.leaves[0]) for recipe in refused])
        case.log.caution(f"inputs: {len(refused)} of {count} not run ({names}): {why:.200}")


def _explicit(
    case: Case, origin: str, items: Sequence[Recipe], repeats: int = 1
) -> Sequence[Recipe]:
    """Run these calls; of several repeats, one is enough at the sizes of the example.

    Return those that are not legal.
    """
    refused: list[Recipe] = []
    for number, recipe in enumerate(items):
        if _is_deadly(case):
            return refused
        if number and case.deadline.is_past(UNTIL_CALLS):
            case.log.ineffective.append(
                f"ran {number} of {len(items)} {origin} calls: half of {case.plan.limit()} was used"
            )
            return refused
        case.plan.progress(f"{origin} calls", number, len(items))
        times = repeats if recipe.sizes != case.spec.example_sizes else 1
        if not _trial(case, origin, recipe, times):
            refused.append(recipe)
    return refused


def _draw(case: Case) -> None:
    """Draw a few calls, and more as long as they bring something new."""
    if not case.spec.leaves or _is_deadly(case):
        return
    # Inside of ``@given``, Hypothesis has other settings.
    log, most, least = case.log, examples(case.plan), least_examples(case.plan)
    new = NewSizes(case.spec, log.covered.with_varied_values)
    in_vain = 0

    def drawn(recipe: Recipe) -> None:
        nonlocal in_vain
        enough = log.calls["drawn"] >= least and 2 * in_vain >= least
        log.drawn_until = _end_of_drawing(case) or ("nothing new" if enough else "")
        if log.drawn_until:
            raise _Enough
        case.plan.progress("drawn calls", log.calls["drawn"], most)
        before = log.news()
        try:
            legal = _trial(case, "drawn", recipe)
        except (TimeLimitExceeded, Exception) as error:
            # Hypothesis would take it for a failing example, and make the call again.
            raise _Enough from error
        in_vain = in_vain + 1 if log.news() == before else 0
        if not legal:
            new.refused(recipe.sizes)
        hypothesis.assume(legal)

    known = (*case.explored, *some_recorded(case.spec))
    strategy = recipes(case.spec, known, new.instead_of)
    try:
        for_each(strategy, drawn, seed=case.plan.seed, most=most)
        log.drawn_until = "all"
    except errors.Unsatisfiable:
        who = "eager" if case.spec.filter is None else "eager or filter"
        log.note(f"{who} refused every call that was drawn")
    except _Enough as enough:
        if enough.__cause__ is not None:
            raise enough.__cause__ from None


def _end_of_drawing(case: Case) -> DrawnUntil:
    """Return why no more calls can be drawn, or would be worth it; empty if they are."""
    log, calls = case.log, case.log.calls
    if case.deadline.is_past(UNTIL_CALLS):
        log.ineffective.append(
            f"stopped drawing after {calls['drawn']} calls: half of {case.plan.limit()} was used"
        )
        return "time"
    if _is_deadly(case):
        return "deaths"
    ran = sum(calls.values()) - calls["rejected"] - calls["failed"]
    # More would tell nothing about the failure.
    return "none passes" if calls["failed"] == ran >= ALL_FAILING else ""


def _is_deadly(case: Case) -> bool:
    """Return True if enough calls have crashed the artifact or made it hang."""
    deaths = [failure for _, failure in case.log.failed if isinstance(failure, DEADLY)]
    return len(deaths) >= DEADLY_CALLS


def _trial(case: Case, origin: str, recipe: Recipe, repeats: int = 1) -> bool:
    """Run one call and count it. Return False if it is not legal."""
    log = case.log
    judgment = case.judge.call(recipe, repeats, kept=origin != "inputs")
    if judgment is None:
        log.calls["rejected"] += 1
        return False
    log.calls[origin] += 1
    if case.plan.settings.self_test:
        log.ran.append((origin, recipe))
    recipe, failure = judgment.made.recipe, judgment.failure
    log.covered.saw(case.spec, recipe)
    if origin not in GIVEN_CALLS:
        log.covered.drew(case.spec, recipe, judgment.made.call)
    if case.branches:
        case.branches.book(recipe, failed=failure is not None, unsure=judgment.unsure)
    if failure is not None:
        log.calls["failed"] += 1
        if origin == "inputs":
            log.failed_inputs.append(origin_of(case.spec, recipe.leaves[0]))
        if len(log.failed) < STORED:
            log.failed.append((recipe, failure))
    elif not log.failed and case.modes.left:
        case.modes.compare(judgment.made)
    return True


def searched(case: Case) -> Sequence[Recipe]:
    """Return calls that reach thresholds of eager's operators, and of the artifact's."""
    reference, seed = case.reference, case.plan.seed
    if reference.may_not_end():
        return ()  # a call with other numbers may be one that does not
    subject, observed = reference.pristine.copy(), case.observed
    eager = OperatorRuns(
        fresh=lambda: (
            (reference.pristine.copy() if reference.fresh_each_call else subject).function
        ),
        done=State(subject.module, thorough=reference.stateful).restore,
        seed=seed,
        grad_mode=subject.grad_mode,
        learned=reference.learned,
    )
    search = DifferenceSearch(
        case.spec,
        eager,
        _of_artifact(case) or _as_exported(case, eager),
        bounds=case.artifact.facts.bounds(),
        # Every call of eager runs the same operators, as far as its code tells.
        straight=(
            case.branches.straight
            if case.branches
            else observed is not None and not observed.branches()
        ),
        seed=seed,
        before_call=case.log.try_call,
    )
    case.plan.progress("search for thresholds")
    with case.log.timed("search"), case.log.during(Activity.EAGER):
        return search.run()


def _of_artifact(case: Case) -> OperatorRuns | None:
    """Return the runs of the artifact; None if it is not to be run here, or not by torch."""
    reference, artifact = case.reference, case.artifact
    elsewhere = case.plan.device != "cpu" or case.runner.isolated or artifact.native_loops
    # Torch does not see the operators of what is compiled, which has steps.
    library = case.traits.library
    by_torch = library == "torch" and not isinstance(artifact, HasSteps)
    if elsewhere or not by_torch or reference.fresh_each_call:
        return None
    state = State(artifact.module, thorough=reference.stateful)
    return OperatorRuns(
        fresh=lambda: artifact,
        done=state.restore,
        seed=case.plan.seed,
        grad_mode=reference.served,
    )


def _as_exported(case: Case, eager: OperatorRuns) -> OperatorRuns | None:
    """Return the runs of eager as the exporter sees it; None if it does not ask what runs it.

    None also if the artifact is isolated: eager would run here what may have killed a process.
    """
    asked = case.questions
    if not asked or case.runner.isolated:
        return None
    answers = case.traits.answers
    return replace(eager, fresh=lambda: answering(eager.fresh(), answers, asked), learned=Learned())


# -- random numbers --------------------------------------------------------------------------------


def compare_streams(case: Case) -> Case | None:
    """Raise OutputsDiffer if the artifact is constant and eager is not.

    Return a case that knows which outputs the artifact draws from a stream of its own.
    """
    eager, example, seed = case.reference, case.spec.example, case.plan.seed
    if not eager.random:
        return None
    wanted = eager.on_cpu(example)
    first, other = (case.judge.run(example, at) for at in (seed, seed + 1))
    again = case.judge.run(example, again=True)
    if not isinstance(first, Returned) or not isinstance(wanted, Returned):
        return None  # parity judges what it raises
    returned = Call((first.value,)).to("cpu").args[0]
    if any(d.kind != "values" for d in compare_values(wanted.value, returned, Tolerance())):
        return None  # parity judges another structure too
    own = eager.differing(first, again)
    constant = eager.random - own - eager.differing(first, other)
    if constant:
        raise OutputsDiffer(
            "the artifact is constant where eager varies with the random seed: "
            + ", ".join(sorted(constant)),
            details=eager.draws,
        )
    return replace(case, random_paths=own)


def check_seeds(case: Case) -> None:
    """Raise OutputsDiffer if the artifact varies with the seed and eager does not.

    A forward may set a seed of its own, which exporters leave out. With one seed alone, the two
    agree if both seeds are the same number.
    """
    if case.reference.random:
        return
    example, seed = case.spec.example, case.plan.seed
    first, other = (case.judge.run(example, at) for at in (seed, seed + 1))
    if not isinstance(first, Returned):
        return
    differences = case.judge.differences([example], first, other)
    if differences:
        again = case.judge.differences([example], first, case.judge.run(example, again=True))
        varies = "from call to call" if again else "with the random seed"
        raise OutputsDiffer(
            f"the artifact varies {varies}, and eager does not", differences=tuple(differences)
        )

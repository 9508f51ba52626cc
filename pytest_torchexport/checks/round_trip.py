"""The check ``round_trip``: the artifact, loaded without the model's source, does the same.

Its first calls are made in the clean process before any is made in this process, so that an
artifact that crashes takes down the child and not pytest. Other differences are held back, and
raised only if every other step passed. Also switches the item to the sandbox: if the user asked
for it, after a crash, and for artifacts with native loops.
Raises LoadFailed, RoundTripDiffers, ArtifactCrashed and ArtifactHung; CannotJudge if the artifact
cannot be saved and nobody named the target.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pytest_torchexport.eager.accepted import ReferenceCall
from pytest_torchexport.inputs.recipes import Recipe, example_recipe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.inputs.strategies import boundary_recipes
from pytest_torchexport.judge.case import Case, attempt, attempted
from pytest_torchexport.judge.judge import carried_differences
from pytest_torchexport.judge.log import BEFORE_CALLS, Activity
from pytest_torchexport.judge.runner import (
    InSandbox,
    SavedArtifact,
    call_loaded,
)
from pytest_torchexport.outcomes.limits import interrupted_after
from pytest_torchexport.outcomes.observe import (
    Crashed,
    NotTransferable,
    Outcome,
    Raised,
    Returned,
    Tensors,
    TimedOut,
)
from pytest_torchexport.results.failures import (
    ArtifactCrashed,
    ArtifactHung,
    Failure,
    LoadFailed,
    RoundTripDiffers,
)
from pytest_torchexport.sandbox.session import SandboxSession
from pytest_torchexport.targets.formats.load_errors import OWN_CLASS, remedy_of

# Calls of the example that are made in a row after loading.
FIRST_RUNS = 3
# Calls beyond the example.
CALLS = 24
# No more bytes of calls are kept until they are made here: twenty calls of a large image model.
KEPT = 128 * 2**20
# A dim with at most this many sizes is tried at each of them, in the clean process first.
FEW_SIZES = 8
KILLED = "it killed its process on {}"

State = tuple[Outcome, Tensors]


# -- the example in the clean process --------------------------------------------------------------


def run_example(case: Case) -> Case | None:
    """Make the example's calls in the clean process, or isolate the item if that is asked for.

    Return a case that has their outcomes. Raises ArtifactHung.
    """
    saved = case.saved
    if saved is None or saved.session is None:
        return None
    session = saved.session
    case.log.trying = example_recipe(case.spec)
    if case.plan.why_isolated:
        outcome, _ = _call_there(case, session, case.spec.example)
        if isinstance(outcome, NotTransferable):
            case.log.note(f"not isolated: {outcome}")
            return None
        if isinstance(outcome, Crashed):
            return _crashed(case, saved, [case.spec.example], outcome, case.plan.why_isolated)
        return _isolated(case, saved, case.plan.why_isolated)
    with case.log.timed("round trip"):
        return _first_runs(case, saved, session)


def _first_runs(case: Case, saved: SavedArtifact, session: SandboxSession) -> Case:
    calls = [case.spec.example] * FIRST_RUNS
    with interrupted_after(case.deadline.left):
        eager = [outcome for outcome, _ in case.reference.in_a_row(calls)]
    # Some forwards cannot be called twice.
    survived = next((n for n, o in enumerate(eager) if not isinstance(o, Returned)), len(eager))
    runs: list[State] = []
    for number, call in enumerate(calls[:survived]):
        found = _call_there(case, session, call, anew=not number, state=True)
        if isinstance(found[0], Crashed):
            return _crashed(
                case, saved, calls[: number + 1], found[0], KILLED.format("the example")
            )
        runs.append(found)
    return dataclasses.replace(case, saved=dataclasses.replace(saved, first_runs=tuple(runs)))


def run_others(case: Case) -> Case | None:
    """Make other calls in the clean process, and end it: large weights are in one at a time.

    Return a case that has their outcomes, isolated if one crashed.
    """
    saved = case.saved
    if saved is None or saved.session is None or case.runner.isolated:
        return None
    session, tried = saved.session, case.log.trying
    recipes = [*boundary_recipes(case.spec, case.plan.seed), *case.branches.recipes, *_sizes(case)]
    made: list[tuple[ReferenceCall, Outcome]] = []
    with case.log.timed("round trip"):
        for number, recipe in enumerate(recipes[:CALLS]):
            late = case.deadline.is_past(BEFORE_CALLS)
            if late or sum(found.nbytes for found, _ in made) > KEPT:
                left, lack = len(recipes[:CALLS]) - number, "time" if late else "memory"
                case.log.note(
                    f"the round trip left out {left} of its other calls for lack of {lack}"
                )
                break
            case.log.trying = recipe
            found = case.accepted.call(recipe)
            if found is None:
                continue
            there, _ = _call_there(case, session, found.call)
            if isinstance(there, Crashed):
                case = _crashed(case, saved, [found.call], there, KILLED.format("another call"))
                break
            made.append((found, there))
    if not (case.artifact.native_loops or case.runner.isolated):
        saved.end()
    case.log.trying = tried  # the next steps call the example again
    return dataclasses.replace(case, saved=dataclasses.replace(saved, others=tuple(made)))


def _sizes(case: Case) -> list[Recipe]:
    return [
        example_recipe(case.spec, {dim.name: size})
        for dim in case.spec.dims.values()
        if len(dim.sizes) <= FEW_SIZES
        for size in dim.sizes
        if size not in dim.boundary()
    ]


# -- the same calls on both sides ------------------------------------------------------------------


def compare(case: Case) -> Case | None:
    """Compare the calls in the clean process with those in this one.

    Return a case whose artifact is isolated if it has native loops: in this process, a loop without
    end would go on in its thread.
    """
    saved = case.saved
    if saved is None or saved.session is None or case.runner.isolated:
        return None
    with case.log.timed("round trip"):
        calls = [case.spec.example] * len(saved.first_runs)
        pairs = zip(case.judge.in_a_row(calls), saved.first_runs, strict=True)
        for number, (ours, theirs) in enumerate(pairs, start=1):
            _compare(case, calls[:number], ours, theirs, f"run {number} after loading")
        for found, there in saved.others:
            if case.log.held:
                break
            case.log.trying = found.recipe
            here = case.judge.run(found.call)
            sizes = ", ".join(f"{name} = {size}" for name, size in found.recipe.sizes.items())
            what = f"a call at {sizes or 'the example'} after loading"
            _compare(case, [found.call], (here, {}), (there, {}), what)
    returned = all(isinstance(outcome, Returned) for outcome, _ in saved.first_runs)
    if case.artifact.native_loops and saved.first_runs and returned and not case.log.held:
        case = _isolated(
            case, saved, "it has loops, and one that does not end is ended with its process"
        )
    # Their memory is not needed any more.
    return dataclasses.replace(case, saved=dataclasses.replace(saved, others=()))


def _compare(case: Case, calls: Sequence[Call], ours: State, theirs: State, what: str) -> None:
    (wanted, left), (found, right) = ours, theirs
    try:
        note = raise_if_not_callable(wanted, found, what)
        if isinstance(wanted, Returned) and isinstance(found, Returned):
            more = carried_differences(left, right, case.judge.tolerance)
            differences = case.judge.differences(calls, wanted, found, (left, right), more)
            if differences:
                raise RoundTripDiffers(what, differences=tuple(differences))
    except Failure as failure:
        case.hold(failure, calls)
        return
    if note:
        case.log.note(note)


def _call_there(
    case: Case, session: SandboxSession, call: Call, *, anew: bool = True, state: bool = False
) -> State:
    """Return the loaded artifact's outcome of a call, and its state. Raises ArtifactHung."""
    seed, limit = case.plan.seed, case.call_limit()
    with case.log.during(Activity.ARTIFACT):
        outcome, tensors = call_loaded(
            session, case.artifact, call, seed=seed, limit=limit, anew=anew, state=state
        )
    if isinstance(outcome, TimedOut):
        case.log.shrunk = attempt(case)
        raise ArtifactHung(f"the loaded artifact: {outcome}", output=session.printed())
    return outcome, tensors


# -- isolation -------------------------------------------------------------------------------------


def _isolated(case: Case, saved: SavedArtifact, why: str) -> Case:
    """Return a case whose further calls of the artifact are all made in the clean process."""
    case.log.note(f"isolated: every call of the artifact is made in a process of its own ({why})")
    runner = InSandbox(
        artifact=case.artifact,
        open=saved.open,
        left=case.call_limit,
        session=None if saved.session is None or saved.session.over else saved.session,
    )
    case.resources.callback(runner.close)
    return dataclasses.replace(case, runner=runner)


def _crashed(
    case: Case, saved: SavedArtifact, calls: Sequence[Call], crash: Crashed, why: str
) -> Case:
    """Return a case isolated for the reason ``why`` after a crash, and hold the crash back.

    If parity reproduces it, parity reports it with a shrunk call; otherwise the held failure is
    raised. A SIGKILL, maybe of the OOM killer, counts only if it recurs.
    """
    case = _isolated(case, saved, why)
    if crash.from_outside:
        again, _ = case.judge.in_a_row(calls)[-1]
        if not isinstance(again, Crashed):
            return case
    row = (f"call {len(calls)} of {len(calls)} in a row",) if len(calls) > 1 else ()
    details = (*attempted(case), *row)
    case.hold(ArtifactCrashed(crash.reason, details=details, output=crash.output), calls)
    return case


# -- failures --------------------------------------------------------------------------------------


def raise_held(case: Case) -> None:
    """Raise the first failure that was held back, if there is one.

    Raises CannotJudge if the artifact cannot be saved and nobody named the target.
    """
    for held in case.log.held[:1]:
        if case.saved is None and isinstance(held.failure, LoadFailed):
            case.refused(f"made an artifact that {held.failure}")
        with case.log.making(held.calls):
            raise held.failure


def raise_if_not_callable(wanted: Outcome, found: Outcome, what: str) -> str | None:
    """Raise RoundTripDiffers if only the loaded artifact raises, not the one in memory.

    ``wanted`` is the outcome in memory. Raises LoadFailed if the loaded artifact cannot be called
    at all. Return why it could not be judged, or None.
    """
    if isinstance(found, NotTransferable):
        if found.own_class:
            raise LoadFailed(
                f"cannot be called where the source does not exist: {found}", details=(OWN_CLASS,)
            )
        return f"round trip not checked: {found}"
    if isinstance(found, Raised) and isinstance(wanted, Returned):
        remedy = remedy_of(found.type, found.message)
        raise RoundTripDiffers(
            f"{what} raises {found}",
            details=remedy.lines,
            where=found.where,
            imports=remedy.imports,
        )
    return None  # parity judges what it did in this process

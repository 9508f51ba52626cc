"""The check ``round_trip``: the artifact, loaded without the model's source, does the same.

The first calls are made in the clean process before any is made in this process, so that an
artifact that crashes takes down the child and not pytest. Files that do not load, and what differs
there, are held back, and raised only if every other step passed. Also switches the item to the
sandbox: if the user asked for it, after a crash, and for artifacts with native loops.
Raises LoadFailed, RoundTripDiffers, ArtifactCrashed and ArtifactHung; CannotJudge if the artifact
cannot be saved and nobody named the target.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence

import torch

from pytest_torchexport.eager.accepted import ReferenceCall
from pytest_torchexport.inputs.recipes import example_recipe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case, attempt, attempted
from pytest_torchexport.judge.judge import LENGTH, carried_differences
from pytest_torchexport.judge.log import BEFORE_CALLS, Activity
from pytest_torchexport.judge.runner import (
    InSandbox,
    SavedArtifact,
    artifact_directory,
    call_loaded,
    loader_of,
    raise_if_unsound,
    raise_not_loaded,
    source_of,
)
from pytest_torchexport.judge.saving import written
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
    Ineffective,
    LoadFailed,
    NotRepeatable,
    RoundTripDiffers,
)
from pytest_torchexport.sandbox.session import SandboxSession
from pytest_torchexport.targets.formats.load_errors import OWN_CLASS, remedy_of

# Calls beyond the example.
CALLS = 24
# No more bytes of calls are kept until they are made here: twenty calls of a large image model.
KEPT = 128 * 2**20
KILLED = "it killed its process on {}"

State = tuple[Outcome, Tensors]


# -- saving and loading ----------------------------------------------------------------------------


def save(case: Case) -> Case | None:
    """Save the artifact and move it. Return a case with the moved file.

    A failure is held back: LoadFailed if it cannot be saved. Raises Ineffective if something of the
    machine ran out.
    """
    plan = case.plan
    if case.foreign:
        return None
    if loader_of(plan.target) is None:
        case.log.note(
            f"round trip not checked: target {plan.target!r} is registered only in this process"
        )
        return None
    with case.log.timed("round trip"), case.deadline.paused():
        try:
            saved = _moved(case)
        except Ineffective:
            raise  # the machine's fault, which no skip of a later step is to hide
        except Failure as failure:
            _not_isolated(case, failure)
            case.hold(failure)
            return None
    case.resources.callback(saved.close)
    return dataclasses.replace(case, saved=saved)


def _moved(case: Case) -> SavedArtifact:
    there = artifact_directory(case.plan.target)
    try:
        path = written(case, there)
        home = artifact_directory(case.plan.target)
        for file in there.iterdir():
            file.rename(home / file.name)
    finally:
        shutil.rmtree(there, ignore_errors=True)
    reference = case.reference
    scripted = isinstance(case.artifact.module, torch.jit.ScriptModule)
    source = source_of(
        case.plan,
        home / path.name,
        case.blocked,
        reference,
        thorough=reference.stateful,
        fresh=reference.fresh_each_call and scripted,
    )
    return SavedArtifact(source=source, plan=case.plan)


def load(case: Case) -> Case | None:
    """Load the file in the clean process. Return a case with the session.

    A failure is held back, LoadFailed, unless the item is to be isolated and
    the file crashes or hangs while it loads: a call in this process might be the last.
    """
    if case.saved is None or case.foreign:
        return None
    with case.log.timed("round trip"), case.deadline.paused():
        try:
            session = case.saved.open()
            case.resources.callback(session.close)
            if session.problem is not None:
                raise_not_loaded(session.problem, session.printed(), case.blocked)
            case = dataclasses.replace(case, saved=dataclasses.replace(case.saved, session=session))
            if pickled := session.found.get("pickled", ()):
                case.log.note(
                    f"the file holds pickles that name {', '.join(pickled)}: loading it runs code "
                    "of these"
                )
            raise_if_unsound(session.found.get("problems", ()))
        except Ineffective:
            raise  # the machine's fault, which no skip of a later step is to hide
        except Failure as failure:
            _not_isolated(case, failure)
            case.hold(failure)
    return case


def _not_isolated(case: Case, failure: Failure) -> None:
    """Raise a failure that prevents isolation; note it if calls in this process do no harm."""
    if not case.plan.why_isolated or (case.saved is not None and case.saved.session is not None):
        return
    if case.plan.checks("round_trip") or not isinstance(failure, LoadFailed):
        raise failure
    case.log.note(f"not isolated: {failure}")


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
    calls = [case.spec.example] * LENGTH
    runs: list[State] = []
    with case.log.timed("round trip"):
        with interrupted_after(case.deadline.left):
            eager = [outcome for outcome, _ in case.reference.in_a_row(calls)]
        for number, outcome in enumerate(eager):
            if not isinstance(outcome, Returned):
                break  # some forwards cannot be called twice
            found = _call_there(case, session, case.spec.example, anew=not number, state=True)
            if isinstance(found[0], Crashed):
                why = KILLED.format("the example")
                return _crashed(case, saved, calls[: number + 1], found[0], why)
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
    recipes = [*case.boundary(), *case.explored]
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
    """Hold back RoundTripDiffers, or LoadFailed if the loaded artifact cannot be called at all."""
    (wanted, left), (found, right) = ours, theirs
    if isinstance(found, NotTransferable) and found.own_class:
        text = f"cannot be called where the source does not exist: {found}"
        case.hold(LoadFailed(text, details=(OWN_CLASS,)), calls)
    elif isinstance(found, NotTransferable):
        case.log.note(f"round trip not checked: {found}")
    elif isinstance(wanted, Returned) and isinstance(found, Raised):
        remedy = remedy_of(found.type, found.message)
        raises = RoundTripDiffers(
            f"{what} raises {found}",
            details=remedy.lines,
            where=found.where,
            imports=remedy.imports,
        )
        case.hold(raises, calls)
    elif isinstance(wanted, Returned) and isinstance(found, Returned):
        more = carried_differences(left, right, case.judge.tolerance)
        try:
            differences = case.judge.differences(calls, wanted, found, (left, right), more)
        except NotRepeatable as failure:
            case.hold(failure, calls)
        else:
            if differences:
                case.hold(RoundTripDiffers(what, differences=tuple(differences)), calls)
    # Parity judges what else it did in this process.


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

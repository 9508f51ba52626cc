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
import hashlib
import re
import shutil
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.eager.accepted import ReferenceCall
from pytest_torchexport.inputs.recipes import Recipe, example_recipe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.inputs.strategies import boundary_recipes
from pytest_torchexport.judge import loading
from pytest_torchexport.judge.case import Case, attempt, attempted
from pytest_torchexport.judge.load_failures import raise_if_unsound, raise_not_loaded
from pytest_torchexport.judge.log import Activity
from pytest_torchexport.judge.runners import InSandbox, LoadedArtifact, is_scripted
from pytest_torchexport.judge.saved_artifact import SavedArtifact
from pytest_torchexport.judge.state_differences import carried_differences
from pytest_torchexport.outcomes import machine
from pytest_torchexport.outcomes.grad_mode import GradMode
from pytest_torchexport.outcomes.limits import interrupted_after
from pytest_torchexport.outcomes.observe import (
    Crashed,
    NotTransferable,
    Outcome,
    Raised,
    Returned,
    Tensors,
    TimedOut,
    raised,
)
from pytest_torchexport.outcomes.texts import text_of
from pytest_torchexport.results.failures import (
    ArtifactCrashed,
    ArtifactHung,
    Failure,
    Ineffective,
    LoadFailed,
    RoundTripDiffers,
)
from pytest_torchexport.sandbox.session import SandboxSession
from pytest_torchexport.targets.formats.missing_dependencies import OWN_CLASS, remedy_of

# Calls of the example that are made in a row after loading.
FIRST_RUNS = 3
# Calls beyond the example stop at this share of the time limit, and at this number.
SHARE = 0.25
CALLS = 24
# So many bytes of calls are made in the clean process before they are made here.
KEPT = 64 * 2**20
# A dim with at most this many sizes is tried at each of them, in the clean process first.
FEW_SIZES = 8
# Files of more megabytes are not saved twice.
SAVED_TWICE = 64
# The digest of a text, as targets/formats/contents.py makes it.
_DIGEST = re.compile(r",? \b[0-9a-f]{16}\b")
KILLED = "it killed its process on {}"

State = tuple[Outcome, Tensors]


# -- saving ----------------------------------------------------------------------------------------


def save(case: Case) -> Case | None:
    """Save the artifact twice and move it. Return a case with the moved file.

    A failure is held back: LoadFailed if it cannot be saved, RoundTripDiffers if saving twice gives
    different files. Raises Ineffective if something of the machine ran out.
    """
    plan = case.plan
    if case.foreign:
        return None
    if loading.loader_of(plan.target) is None:
        case.log.note(
            f"round trip not checked: target {plan.target!r} is registered only in this process"
        )
        return None
    plan.progress("round trip")
    with case.log.timed("round trip"), case.deadline.paused():
        try:
            saved = _moved(case)
        except Ineffective:
            raise  # the machine's fault, which no skip of a later step is to hide
        except Failure as failure:
            _not_isolated(case, failure)
            _hold(case, failure)
            return None
    case.resources.callback(saved.close)
    return dataclasses.replace(case, saved=saved, directory=saved.path.parent)


def _moved(case: Case) -> SavedArtifact:
    with ExitStack() as stack:
        there = _directory(case, stack)
        path = _saved(case, there)
        files = _below(there)
        if sum(file.stat().st_size for file in files.values()) < SAVED_TWICE * 2**20:
            _compare_second_save(case, stack, path, files)
        home = loading.artifact_directory(case.plan.target)
        for file in there.iterdir():
            file.rename(home / file.name)
        return _artifact_at(case, home / path.name)


def _compare_second_save(
    case: Case, stack: ExitStack, path: Path, files: Mapping[str, Path]
) -> None:
    again = _directory(case, stack)
    second = _saved(case, again)
    others = _below(again)
    if list(files) != list(others):
        raise RoundTripDiffers(
            f"saved twice, it wrote {', '.join(files)} and then {', '.join(others)}"
        )
    # Files with different bytes may be the same program: a format may write a time of day.
    if _digests(files) != _digests(others):
        raise_if_renamed(_described(case, path), _described(case, second), "saving it again")


def _artifact_at(case: Case, path: Path) -> SavedArtifact:
    return SavedArtifact(
        path=path,
        plan=case.plan,
        blocked=case.blocked,
        thorough=case.reference.stateful,
        fresh=case.reference.fresh_each_call and is_scripted(case.artifact.module),
        gradients=case.reference.served is GradMode.GRAD,
    )


def _described(case: Case, path: Path) -> Mapping[str, str]:
    """Return what the program in a file contains, by name."""
    with _artifact_at(case, path).open() as session:
        if session.problem is not None:
            raise_not_loaded(session.problem, session.printed(), case.blocked)
        contents: Mapping[str, str] = session.found.get("contents", {})
        return contents


def _directory(case: Case, stack: ExitStack) -> Path:
    directory = loading.artifact_directory(case.plan.target)
    stack.callback(shutil.rmtree, directory, ignore_errors=True)
    return directory


def _saved(case: Case, directory: Path) -> Path:
    case.log.trying = None
    with case.log.during(Activity.SAVING), interrupted_after(case.plan.settings.time_limit):
        try:
            path: Any = case.artifact.save(directory)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            machine.raise_fault(error)
            raise _not_saved(error, directory) from None
    if isinstance(path, Path) and path.parent == directory and path.exists():
        return path
    wrote = ", ".join(_below(directory)) or "nothing"
    raise LoadFailed(
        "cannot be saved: save is to return the path of a file in the directory that it is given, "
        f"and returned {path!r}; it wrote {wrote} there"
    )


def _not_saved(error: Exception, directory: Path) -> LoadFailed:
    reason = raised(error)
    left = ", ".join(_below(directory))
    details = (f"and leaves {left} behind, half-written",) if left else ()
    lines = (*remedy_of(reason.type, text_of(error)).lines, *details)
    return LoadFailed(f"cannot be saved: {reason}", details=lines, where=reason.where)


def _digests(files: Mapping[str, Path]) -> list[str]:
    found = []
    for path in files.values():
        with path.open("rb") as opened:
            found.append(hashlib.file_digest(opened, "blake2b").hexdigest())
    return found


def _below(directory: Path) -> dict[str, Path]:
    """Return all files below a directory by their relative names."""
    found = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {path.relative_to(directory).as_posix(): path for path in found}


# -- loading ---------------------------------------------------------------------------------------


def load(case: Case) -> Case | None:
    """Load the file in the clean process. Return a case with the session.

    A failure is held back, LoadFailed or RoundTripDiffers, unless the item is to be isolated and
    the file crashes or hangs while it loads: a call in this process might be the last.
    """
    if case.saved is None:
        return None
    with case.log.timed("round trip"), case.deadline.paused():
        try:
            session = case.saved.open()
            case.resources.callback(session.close)
            if session.problem is not None:
                raise_not_loaded(session.problem, session.printed(), case.blocked)
            case = dataclasses.replace(case, saved=dataclasses.replace(case.saved, session=session))
            _judge_file(case, session.found)
        except Ineffective:
            raise  # the machine's fault, which no skip of a later step is to hide
        except Failure as failure:
            _not_isolated(case, failure)
            _hold(case, failure)
    return case


def _not_isolated(case: Case, failure: Failure) -> None:
    """Raise a failure that prevents isolation; note it if calls in this process do no harm."""
    if not case.plan.why_isolated or (case.saved is not None and case.saved.session is not None):
        return
    if case.plan.checks("round_trip") or not isinstance(failure, LoadFailed):
        raise failure
    case.log.note(f"not isolated: {failure}")


def _judge_file(case: Case, found: Mapping[str, Any]) -> None:
    own = case.artifact.facts.contents()
    pickled = found.get("pickled", ())
    if pickled:
        case.log.note(
            f"the file holds pickles that name {', '.join(pickled)}: loading it runs code of these"
        )
    raise_if_unsound(found.get("problems", ()))
    raise_if_renamed(own, found.get("contents", own), "saving and loading it")


# -- the example in the clean process --------------------------------------------------------------


def run_example(case: Case) -> Case | None:
    """Make the example's calls in the clean process, or isolate the item if that is asked for.

    Return a case that has their outcomes. Raises ArtifactHung.
    """
    saved = case.saved
    if saved is None or saved.session is None:
        return None
    loaded = _loaded(case, saved.session)
    case.log.trying = example_recipe(case.spec)
    if case.plan.why_isolated:
        outcome, _ = _call_there(case, loaded, case.spec.example)
        if isinstance(outcome, NotTransferable):
            case.log.note(f"not isolated: {outcome}")
            return None
        if isinstance(outcome, Crashed):
            return _crashed(case, saved, [case.spec.example], outcome, case.plan.why_isolated)
        return _isolated(case, saved, case.plan.why_isolated)
    with case.log.timed("round trip"):
        return _first_runs(case, saved, loaded)


def _first_runs(case: Case, saved: SavedArtifact, loaded: LoadedArtifact) -> Case:
    calls = [case.spec.example] * FIRST_RUNS
    with interrupted_after(case.deadline.left):
        eager = [outcome for outcome, _ in case.reference.in_a_row(calls)]
    # Some forwards cannot be called twice.
    survived = next((n for n, o in enumerate(eager) if not isinstance(o, Returned)), len(eager))
    runs: list[State] = []
    for number, call in enumerate(calls[:survived]):
        found = _call_there(case, loaded, call, anew=not number, state=True)
        if isinstance(found[0], Crashed):
            return _crashed(
                case, saved, calls[: number + 1], found[0], KILLED.format("the example")
            )
        runs.append(found)
    return dataclasses.replace(case, saved=dataclasses.replace(saved, first_runs=tuple(runs)))


def run_others(case: Case) -> Case | None:
    """Make other calls in the clean process, and end it if no more are to be made there.

    Return a case that has their outcomes. Large weights are so in one process at a time.
    """
    saved = case.saved
    if saved is None or saved.session is None or case.runner.isolated:
        return None
    loaded = _loaded(case, saved.session)
    chosen = [*boundary_recipes(case.spec, case.plan.seed), *case.branches.recipes, *_sizes(case)]
    saved = dataclasses.replace(saved, waiting=tuple(chosen[:CALLS]))
    tried = case.log.trying
    with case.log.timed("round trip"):
        case, saved = _run_more(case, saved, loaded)
    case.log.trying = tried  # the next steps call the example again
    return dataclasses.replace(case, saved=saved)


def _run_more(
    case: Case, saved: SavedArtifact, loaded: LoadedArtifact
) -> tuple[Case, SavedArtifact]:
    """Make waiting calls in the clean process, until one crashes or they take ``KEPT`` bytes.

    Return the case, isolated if one crashed, and the artifact with these calls as its ``others``.
    """
    made: list[tuple[ReferenceCall, Outcome]] = []
    waiting = deque(saved.waiting)
    size = 0
    while waiting and size < KEPT:
        if case.deadline.elapsed > SHARE * case.plan.settings.time_limit:
            case.log.note(
                f"the round trip left out {len(waiting)} of its other calls for lack of time"
            )
            waiting.clear()
            continue
        case.log.trying = waiting.popleft()
        found = case.accepted.call(case.log.trying)
        if found is None:
            continue
        there, _ = _call_there(case, loaded, found.call)
        if isinstance(there, Crashed):
            case = _crashed(case, saved, [found.call], there, KILLED.format("another call"))
            return case, _forgotten(saved)
        made.append((found, there))
        size += found.nbytes
    if not waiting and not case.artifact.native_loops:
        saved.end()
    return case, dataclasses.replace(saved, others=tuple(made), waiting=tuple(waiting))


def _forgotten(saved: SavedArtifact) -> SavedArtifact:
    """Return the artifact without other calls, which need no memory any more."""
    return dataclasses.replace(saved, others=(), waiting=())


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
    """Compare the calls in the clean process with those in this one, while there is time.

    Return a case whose artifact is isolated if it crashed, or if it has native loops: in this
    process, a loop without end would go on in its thread.
    """
    saved = case.saved
    if saved is None or saved.session is None or case.runner.isolated:
        return None
    loaded = _loaded(case, saved.session)
    with case.log.timed("round trip"):
        _compare_example(case, saved)
        _compare_others(case, saved.others)
        while saved.waiting and not case.log.held:
            case, saved = _run_more(case, saved, loaded)
            _compare_others(case, saved.others)
    returned = all(isinstance(outcome, Returned) for outcome, _ in saved.first_runs)
    loops = case.artifact.native_loops and saved.first_runs and returned
    if loops and not case.log.held and not case.runner.isolated:
        case = _isolated(
            case, saved, "it has loops, and one that does not end is ended with its process"
        )
    return dataclasses.replace(case, saved=_forgotten(saved))


def _compare_example(case: Case, saved: SavedArtifact) -> None:
    calls = [case.spec.example] * len(saved.first_runs)
    here = case.judge.in_a_row(calls)
    for number, (ours, theirs) in enumerate(zip(here, saved.first_runs, strict=True), start=1):
        _compare(case, calls[:number], ours, theirs, f"run {number} after loading")


def _compare_others(case: Case, others: Sequence[tuple[ReferenceCall, Outcome]]) -> None:
    for found, there in others:
        if case.log.held:
            return
        case.log.trying = found.recipe
        here = case.judge.run(found.call)
        sizes = ", ".join(f"{name} = {size}" for name, size in found.recipe.sizes.items())
        what = f"a call at {sizes or 'the example'} after loading"
        _compare(case, [found.call], (here, {}), (there, {}), what)


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
        _hold(case, failure, calls)
        return
    if note:
        case.log.note(note)


def _loaded(case: Case, session: SandboxSession) -> LoadedArtifact:
    return LoadedArtifact(session=session, artifact=case.artifact)


def _call_there(
    case: Case, loaded: LoadedArtifact, call: Call, *, anew: bool = True, state: bool = False
) -> State:
    """Return the loaded artifact's outcome of a call, and its state. Raises ArtifactHung."""
    seed, limit = case.plan.seed, case.call_limit()
    with case.log.during(Activity.ARTIFACT):
        outcome, tensors = loaded.run(call, seed=seed, limit=limit, anew=anew, state=state)
    if isinstance(outcome, TimedOut):
        case.log.shrunk = attempt(case)
        raise ArtifactHung(f"the loaded artifact: {outcome}", output=loaded.session.printed())
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
    _hold(case, ArtifactCrashed(crash.reason, details=details, output=crash.output), calls)
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


def _hold(case: Case, failure: Failure, calls: Sequence[Call] | None = None) -> None:
    """Keep a failure for later, unless the item is only isolated and not checked for this."""
    if case.plan.checks("round_trip"):
        case.log.hold(failure, calls)


def raise_if_renamed(before: Mapping[str, str], after: Mapping[str, str], done: str) -> None:
    """Raise RoundTripDiffers if what a program contains was changed by what was ``done`` to it."""
    changed = [
        f"{key}: {_change(before.get(key, 'nothing'), after.get(key, 'nothing'))}"
        for key in (*before, *(key for key in after if key not in before))
        if before.get(key) != after.get(key)
    ]
    if changed:
        raise RoundTripDiffers(
            f"{done} changed what the program contains: {changed[0]}",
            details=tuple(changed[1:]),
        )


def _change(before: str, after: str) -> str:
    """Return ``float32[3] before, float64[3] after``: digests mean nothing to a reader."""
    one, other = (_DIGEST.sub("", text) for text in (before, after))
    return f"{one}, with other contents" if one == other else f"{one} before, {other} after"


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

"""Diagnose a failure: run the examinations, one after the other, within a budget of time.

An examination is a function ``examine`` of the scene and of what is known so far; it returns what
is known afterwards. A new one is a function and a row here. They run in a fork of the process,
which eager or the artifact may end: the other examinations and the user's run go on.
"""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType

from pytest_torchexport.diagnosis import (
    failing_sizes,
    fatal,
    first_difference,
    interventions,
    known_defect,
    rules,
    stages,
    steps,
)
from pytest_torchexport.diagnosis.scene import DIFFERS, UNEXPLAINED, Scene
from pytest_torchexport.inputs.recipes import example_recipe
from pytest_torchexport.judge.case import DEADLY, Case
from pytest_torchexport.judge.changed_file import ChangedFile
from pytest_torchexport.judge.log import DIAGNOSIS, Activity
from pytest_torchexport.outcomes import cuda
from pytest_torchexport.outcomes.errors import text_of
from pytest_torchexport.outcomes.fork import Death, can_fork, each_in_fork
from pytest_torchexport.outcomes.limits import TimeLimitExceeded, interrupted_after
from pytest_torchexport.outcomes.torch_state import without_warnings
from pytest_torchexport.results.diagnosis import NOTHING, Diagnosis
from pytest_torchexport.results.failures import (
    ArtifactCrashed,
    DimsNarrowed,
    Failure,
    LoadFailed,
    RoundTripDiffers,
    ends_the_test,
)
from pytest_torchexport.sandbox.libraries import ONNX_RUNTIME

# One examination takes at most this share of the time.
SHARE = 0.6
# A fork that does not end an examination in time is ended so many seconds later.
GRACE = 1.0


@dataclass(frozen=True)
class Examination:
    """A row: its name for a report, its file and function, the failures it is about.

    ``library``: what runs the files of the targets it is about; empty if it is about all.
    ``least``: the seconds that it may take even if no time is left, because the first thing that it
    looks at costs nothing. ``aside``: it makes the failing call in a process of its own, if at all.
    """

    name: str
    file: ModuleType
    failures: tuple[type[Failure], ...]
    function: str = "examine"
    library: str = ""
    least: float = 0.0
    aside: bool = False

    def is_about(self, case: Case, failure: Failure) -> bool:
        library = case.traits.library
        if not isinstance(failure, self.failures) or self.library not in ("", library):
            return False
        return self.aside or case.runner.isolated or not isinstance(failure, DEADLY)


EXAMINATIONS = (
    Examination("operator that ends the call", fatal, DEADLY, aside=True),
    Examination("interventions on eager", interventions, DIFFERS),
    Examination("stages to ONNX Runtime", stages, DIFFERS, "examine_onnx", ONNX_RUNTIME),
    Examination("ONNX nodes", stages, DIFFERS, "examine_nodes", ONNX_RUNTIME),
    Examination("operators", first_difference, UNEXPLAINED),
    Examination("causes", rules, (*DIFFERS, *DEADLY), least=1.0, aside=True),
    Examination("stages", stages, (*DIFFERS, LoadFailed, RoundTripDiffers)),
    # Many calls, of which a large model makes few in time.
    Examination("sizes", failing_sizes, (*DIFFERS, ArtifactCrashed, DimsNarrowed)),
    Examination("known defects", known_defect, UNEXPLAINED),
)


STEPS = Examination("steps", steps, DIFFERS)
# The only one of a file that functions changed; if it is not to blame, the export is diagnosed.
AFTER_EXPORT = Examination(
    "functions of after_export",
    stages,
    (*DIFFERS, *DEADLY, DimsNarrowed),
    "examine_changed",
    least=DIAGNOSIS,
    aside=True,
)


def diagnose(case: Case, failure: Failure) -> Diagnosis:
    """Return the diagnosis of a failure. It never raises because of an examination."""
    shrunk = case.log.shrunk
    recipe = shrunk.recipe if shrunk is not None else example_recipe(case.spec)
    scene = Scene(case=case, failure=failure, recipe=recipe)
    seconds = case.log.diagnosis_seconds(wanted=case.plan.diagnoses)
    if not seconds or cuda.lost():
        return failure.diagnosis or NOTHING
    every = (*([STEPS] if case.plan.options.steps else []), *EXAMINATIONS)
    if isinstance(case.artifact, ChangedFile):
        every = (AFTER_EXPORT,)
    rows = tuple(row for row in every if row.is_about(case, failure))
    end = time.monotonic() + seconds

    def left() -> float:
        """Return the seconds that an examination which begins now may take; 0 if none are left."""
        return max(min(SHARE * seconds, end - time.monotonic()), 0.0)

    activity = case.log.activity
    with case.log.timed("diagnosis"), case.deadline.paused(), without_warnings():
        known = _diagnosed(rows, scene, left)
    case.log.activity = activity
    if isinstance(case.artifact, ChangedFile) and known.stages and known.owner is None:
        changes = case.artifact.changes
        failure.details += (changes.innocent,)
        exported = dataclasses.replace(
            changes.exported, random_paths=case.random_paths, branches=case.branches
        )
        return failure.diagnosis or diagnose(exported, failure)
    return known


def _diagnosed(rows: tuple[Examination, ...], scene: Scene, left: Callable[[], float]) -> Diagnosis:
    """Run the rows in a fork, if possible, and those after a row that ended it in another one."""
    case, known = scene.case, scene.failure.diagnosis or NOTHING
    # An artifact in the clean process is not run here.
    forks = can_fork() and not (case.foreign or case.runner.isolated)
    try:
        while rows:
            todo = partial(_examined_each, rows, scene, known, left)
            case.plan.progress(f"diagnosis: {rows[0].name}")
            for found in each_in_fork(todo, left() + GRACE) if forks else todo():
                known = _without(rows[0], found, known) if isinstance(found, Death) else found
                rows = rows[1:]
                if rows:
                    case.plan.progress(f"diagnosis: {rows[0].name}")
    except OSError as error:
        for row in rows:
            known = _without(row, f"no process to examine it in: {error}", known)
    return known


def _examined_each(
    rows: Sequence[Examination], scene: Scene, known: Diagnosis, left: Callable[[], float]
) -> Iterator[Diagnosis]:
    for row in rows:
        seconds = max(left(), row.least)
        try:
            if not seconds:
                raise TimeLimitExceeded("no time left")
            with interrupted_after(seconds), scene.case.log.during(Activity.PLUGIN):
                known = getattr(row.file, row.function)(scene, known)
        except TimeLimitExceeded as error:
            known = _without(row, error, known)
        except Exception as error:
            if ends_the_test(error):
                raise
            last = traceback.extract_tb(error.__traceback__)[-1]
            at = f"{last.filename.rpartition('/')[2]}:{last.lineno}"
            raised = f"{type(error).__name__}: {text_of(error)} ({at}); please report it"
            known = _without(row, raised, known)
        yield known


def _without(row: Examination, why: object, known: Diagnosis) -> Diagnosis:
    return dataclasses.replace(known, not_examined=(*known.not_examined, f"{row.name}: {why}"))

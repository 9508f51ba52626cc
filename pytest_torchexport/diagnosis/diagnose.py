"""Diagnose a failure: run the examinations, one after the other, within a budget of time.

An examination is a function ``examine`` of the scene and of what is known so far; it returns what
is known afterwards. A new one is a file and a row here.
"""

from __future__ import annotations

import dataclasses
import importlib
import traceback
from dataclasses import dataclass
from typing import Protocol

from pytest_torchexport import targets
from pytest_torchexport.diagnosis.scene import Scene
from pytest_torchexport.inputs.recipes import example_recipe
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.log import Activity
from pytest_torchexport.outcomes import cuda
from pytest_torchexport.outcomes.limits import TimeLimitExceeded, interrupted_after
from pytest_torchexport.outcomes.messages import text_of
from pytest_torchexport.outcomes.torch_state import without_warnings
from pytest_torchexport.results.diagnosis import NOTHING, Diagnosis
from pytest_torchexport.results.failures import (
    ArtifactCrashed,
    ArtifactHung,
    ArtifactRaised,
    BranchFrozen,
    DimsNarrowed,
    Failure,
    LoadFailed,
    OutputsDiffer,
    RoundTripDiffers,
    StateDiffers,
    StructureDiffers,
    ends_the_test,
)

# A diagnosis takes at most so many seconds, or so many times what the export took.
SECONDS, TIMES_EXPORT = 10.0, 3.0

# A call that ends its process or does not return is made again only in a process of its own.
DEADLY = (ArtifactCrashed, ArtifactHung)
ONNX_RUNTIME = "onnxruntime"
UNEXPLAINED = (ArtifactRaised, OutputsDiffer, StateDiffers, StructureDiffers)
DIFFERS = (*UNEXPLAINED, BranchFrozen)


class Examine(Protocol):
    """One examination."""

    def __call__(self, scene: Scene, known: Diagnosis) -> Diagnosis:
        """Return what is known after it."""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """A row: its name for a report, the file below ``diagnosis``, the failures it is about.

    ``library``: what runs the files of the targets it is about; empty if it is about all.
    """

    name: str
    file: str
    failures: tuple[type[Failure], ...]
    library: str = ""

    def is_about(self, case: Case, failure: Failure) -> bool:
        """Return True if it may find out something about a failure."""
        library = targets.get(case.plan.target).traits.library
        return isinstance(failure, self.failures) and self.library in ("", library)


EXAMINATIONS = (
    Examination(
        name="sizes", file="failing_sizes", failures=(*DIFFERS, ArtifactCrashed, DimsNarrowed)
    ),
    Examination(name="tensors given twice", file="aliases", failures=DIFFERS),
    Examination(name="attention's fast path", file="attention", failures=DIFFERS),
    Examination(name="questions about the export", file="questions", failures=DIFFERS),
    Examination(name="masked rows", file="masks", failures=DIFFERS),
    Examination(
        name="stages to ONNX Runtime", file="onnx_stages", failures=DIFFERS, library=ONNX_RUNTIME
    ),
    Examination(
        name="ONNX optimizations", file="onnx_switches", failures=DIFFERS, library=ONNX_RUNTIME
    ),
    Examination(name="ONNX nodes", file="onnx_nodes", failures=DIFFERS, library=ONNX_RUNTIME),
    Examination(name="operators", file="streams", failures=UNEXPLAINED),
    Examination(name="causes", file="rules", failures=DIFFERS),
    Examination(name="stages", file="stages", failures=(*DIFFERS, LoadFailed, RoundTripDiffers)),
    Examination(name="known defects", file="known_defect", failures=UNEXPLAINED),
)


def diagnose(case: Case, failure: Failure) -> Diagnosis:
    """Return what can be found out about a failure. It never raises because of an examination."""
    shrunk = case.log.shrunk
    scene = Scene(
        case=case,
        failure=failure,
        recipe=shrunk.recipe if shrunk is not None else example_recipe(case.spec),
    )
    known = NOTHING
    if cuda.lost() or (isinstance(failure, DEADLY) and not case.runner.isolated):
        return known
    rows = [row for row in EXAMINATIONS if row.is_about(case, failure)]
    seconds = max(SECONDS, TIMES_EXPORT * case.log.seconds.get("export", 0.0))
    activity = case.log.activity
    with case.log.timed("diagnosis"), case.deadline.paused(), without_warnings():
        try:
            with interrupted_after(seconds):
                for number, row in enumerate(rows):  # noqa: B007  # read if time runs out
                    case.plan.progress(f"diagnosis: {row.name}")
                    known = _examined(row, scene, known)
        except TimeLimitExceeded:
            left = tuple(f"{row.name}: no time left" for row in rows[number:])
            known = dataclasses.replace(known, not_examined=(*known.not_examined, *left))
    case.log.activity = activity
    return known


def _examined(row: Examination, scene: Scene, known: Diagnosis) -> Diagnosis:
    examine: Examine = importlib.import_module(f"pytest_torchexport.diagnosis.{row.file}").examine
    try:
        with scene.case.log.during(Activity.PLUGIN):
            return examine(scene=scene, known=known)
    except TimeLimitExceeded:
        raise
    except Exception as error:
        if ends_the_test(error):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        at = f"{last.filename.rpartition('/')[2]}:{last.lineno}"
        left = f"{row.name}: {type(error).__name__}: {text_of(error)} ({at}); please report it"
        return dataclasses.replace(known, not_examined=(*known.not_examined, left))

"""Change the file after the export by the functions of ``after_export``, and judge the last one.

The functions belong to the test, and run in its process. What they leave is opened as a file from
elsewhere is: in the clean process only, and judged by the numbers that it computes in.
Raises ExportRefused if a function makes no file, and what opening a file raises, with its cause.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from pytest_torchexport import targets
from pytest_torchexport.judge.case import Case, Prepared
from pytest_torchexport.judge.changed_file import NOT_OPENED, Changes, Step
from pytest_torchexport.judge.log import Activity
from pytest_torchexport.judge.runner import artifact_directory, loader_of
from pytest_torchexport.judge.saving import written
from pytest_torchexport.outcomes import errors
from pytest_torchexport.outcomes.limits import TimeLimitExceeded
from pytest_torchexport.outcomes.messages import condense
from pytest_torchexport.results import manifest
from pytest_torchexport.results.diagnosis import Diagnosis
from pytest_torchexport.results.failures import ExportRefused, LoadFailed, ends_the_test
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.targets.formats import onnx_model

IN_MEMORY = (
    "after_export: not applied to the artifact that {what} gets, which is in memory: "
    "torchexport.same(..., file=True) gives the path of the last file"
)
EXPORT = "the export"
RETURNS = "return the path of the file that it made, or None if it changed the file in place"
ALONE = "run it alone, on the file that torchexport.export(...).save(directory) writes"
OTHERS = "have it return the path as it is if the file is not for it, or name targets in the marker"
NO_TARGET = (
    "leave it out of after_export, and call it on the file that --torchexport-ship has written"
)


def change(prepared: Prepared, case: Case) -> Case:
    """Change the file of an export as ``after_export`` asks for. Return the case of the last."""
    functions = prepared.plan.after_export()
    if not functions:
        return case
    if loader_of(prepared.plan.target) is None:
        case.not_applied("after_export: the target is registered only in this process")
        return case
    prepared.plan.progress("after_export")
    directory = artifact_directory(prepared.plan.target)
    prepared.resources.callback(shutil.rmtree, directory, ignore_errors=True)
    home = Path(tempfile.mkdtemp(dir=directory))
    try:
        steps = [Step(name=EXPORT, path=written(case, home))]
    except LoadFailed as failure:
        case.refused(f"made an artifact that {failure}")
        raise
    with case.log.timed("after_export"), case.log.during(Activity.AFTER_EXPORT):
        for function in functions:
            steps.append(changed(function, steps[-1].path, directory, case.plan.target))
    last = steps[-1].path
    own = last.name == steps[0].path.name and last.is_relative_to(directory)
    if own and manifest.files_in(home) == manifest.files_in(last.parent):
        case.log.note(f"{' and '.join(step.name for step in steps[1:])} left the file as it was")
        return case
    changes = Changes(prepared=prepared, exported=case, steps=steps)
    try:
        return changes.opened(steps[-1], prepared)
    except NOT_OPENED as failure:
        failure.diagnosis = changes.blamed()
        if failure.diagnosis.owner is None:
            failure.details += (changes.innocent,)
        raise


def changed(function: Callable[..., Any], path: Path, directory: Path, target: str) -> Step:
    """Run a function on a copy of a file, so that the file itself stays as it is."""
    plain: Any = function
    while isinstance(plain, functools.partial):
        plain = plain.func
    step = Step(name=getattr(plain, "__name__", type(plain).__name__), path=path, function=plain)
    home = Path(tempfile.mkdtemp(dir=directory))
    given, made = home / path.name, home / f"{path.stem}-{step.name.strip('<>')}{path.suffix}"
    for name in (path.name, *_sidecars(path, target)):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path.parent / name, home / name)
    left = _left(step, function, (given, made) if _takes_two(function) else (given,))
    legal = targets.get(target).traits.suffixes
    if legal and left.suffix.lower() not in legal:
        what = f"made {left.name}, which {target} does not load ({', '.join(legal)})"
        _refuse(step, what, NO_TARGET)
    return replace(step, path=left)


def _left(step: Step, function: Callable[..., Any], paths: Sequence[Path]) -> Path:
    """Return the path of the file that a function left of the first of these paths."""
    try:
        with contextlib.chdir(Path.cwd()):  # to come back from where it goes
            returned = function(*paths)
            if isinstance(returned, (str, os.PathLike)):
                returned = Path(returned).absolute()
    except (TimeLimitExceeded, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        if ends_the_test(error):
            raise
        errors.raise_fault(error)
        remedy = ALONE if step.path.suffix == ".onnx" else OTHERS
        reason, where = condense(error)
        _refuse(step, f"raised {reason} on {step.path.name}", remedy, where)
    left = paths[-1] if returned is None else returned
    if not isinstance(left, Path):
        _refuse(step, f"returned a {type(left).__name__}: {left!r:.80}", RETURNS)
    if not left.is_file():
        _refuse(step, f"left no file at {left.name}", RETURNS)
    return left


def _takes_two(function: Callable[..., Any]) -> bool:
    """Return True for a function of two paths, the file and where to write."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # of a function in C
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in positional and each.default is each.empty for each in parameters) > 1


def _sidecars(path: Path, target: str) -> list[str]:
    """Return the names of the files beside a file that it needs, as far as they are there."""
    names: Sequence[str] = ()
    with suppress(Exception):  # what is wrong with the file is told when it is opened
        of_target = targets.get(target).traits.sidecars
        names = onnx_model.external(path) if path.suffix == ".onnx" else of_target(path)
    return [name for name in names if (path.parent / name).is_file()]


def _refuse(step: Step, text: str, remedy: str, where: SourceLine | None = None) -> NoReturn:
    raise ExportRefused(
        f"`{step.name}` of after_export {text}",
        details=(f"remedy: {remedy}",),
        where=where or step.where,
        diagnosis=Diagnosis(owner="after_export"),
    )

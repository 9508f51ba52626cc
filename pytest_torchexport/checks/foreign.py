"""A file from elsewhere: copied with the files it needs, and opened in the sandbox only."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_torchexport.checks.foreign_file import FLAT, ForeignFile, foreign_callable, foreign_file
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.judge import loading
from pytest_torchexport.judge.case import Case, Prepared
from pytest_torchexport.judge.load_failures import raise_if_unsound, raise_not_loaded
from pytest_torchexport.judge.runners import InSandbox, Runner
from pytest_torchexport.outcomes.grad_mode import GradMode
from pytest_torchexport.outcomes.observe import NotTransferable, Raised, Returned, TimedOut
from pytest_torchexport.results.failures import ArtifactHung, LoadFailed, SpecError
from pytest_torchexport.results.verdict import Assumption
from pytest_torchexport.sandbox.session import SandboxSession, Source
from pytest_torchexport.targets.base import Artifact, NotApplicable
from pytest_torchexport.targets.formats.missing_dependencies import remedy_of

# Functions that read an ONNX file without loading it, called in the sandbox: both return texts.
SIDECARS = "pytest_torchexport.targets.formats.onnx_model:external"
PROBLEMS = "pytest_torchexport.targets.formats.onnx_model:problems"

UNCONFINED = (
    "this system does not keep native code of a file from reading, writing and starting what it "
    "wants (Linux has Landlock and seccomp for that): load files of strangers in a container"
)


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """An artifact from elsewhere, what calls it, and the directory of its files, if it has any."""

    artifact: Artifact
    runner: Runner
    directory: Path | None = None


def take(prepared: Prepared, made: Any) -> Case:
    """Take an artifact that somebody else made: a path, or a callable."""
    prepared.plan.progress("export")
    example = prepared.reference.on_cpu(prepared.spec.example)
    if not isinstance(example, Returned):
        raise SpecError(f"eager does not return from the example: {example}")
    try:
        adopted = adopt(made, prepared, example)
    except OSError as error:
        raise LoadFailed(f"check_artifact: {error}") from None
    except ValueError as error:
        raise SpecError(f"check_artifact: {error}") from None
    if isinstance(adopted, NotApplicable):
        return Case.of(prepared, adopted)
    return Case.of(prepared, adopted.artifact, adopted.runner, adopted.directory)


def adopt(thing: Any, prepared: Prepared, example: Returned) -> Adopted | NotApplicable:
    """Return the artifact for a path or a callable. ``example`` is eager's outcome of the example.

    Raises OSError or ValueError if it is neither; LoadFailed if the file does not load,
    ArtifactCrashed if it kills its process, ArtifactHung if it does not return.
    """
    if not isinstance(thing, (str, os.PathLike)):
        artifact = foreign_callable(thing)
        return Adopted(artifact=artifact, runner=prepared.runner_of(artifact))
    plan = prepared.plan
    # Not resolved: in a cache of models, only the link has the model's name.
    path, signature = Path(thing).absolute(), prepared.reference.pristine.signature()
    file = foreign_file(path, plan.target, example, prepared.spec, signature)
    if isinstance(file, NotApplicable):
        return file
    directory = loading.artifact_directory(plan.target)
    prepared.resources.callback(shutil.rmtree, directory, ignore_errors=True)
    source = loading.source_of(
        plan,
        directory / file.program.name,
        prepared.blocked,
        trusted=False,
        thorough=True,
        fresh=prepared.reference.fresh_each_call,
        gradients=prepared.reference.served is GradMode.GRAD,
    )
    _copy(file, source, plan)
    session = prepared.resources.enter_context(loading.opened(source, plan))
    if session.problem is not None:
        _raise_not_loaded(session, source, plan)
    raise_if_unsound(session.found.get("problems", ()))
    checked = _checked(
        dataclasses.replace(
            file, found=session.found, notes=() if session.confined else (UNCONFINED,)
        )
    )
    prepared.log.assumed += tuple(
        Assumption(kind="argument", text=f"{name} is {value!r}, forward's default", path=name)
        for name, value in checked.filled_in(prepared.spec.example).items()
    )
    runner = InSandbox(
        artifact=checked,
        open=lambda *, threads: loading.opened(dataclasses.replace(source, threads=threads), plan),
        left=prepared.call_limit,
        session=session,
    )
    prepared.resources.callback(runner.close)
    adopted = Adopted(artifact=checked, runner=runner, directory=directory)
    return _untransferable(runner, plan, example) or adopted


def _untransferable(runner: InSandbox, plan: Plan, example: Returned) -> NotApplicable | None:
    """Return why the example's call or its value cannot be sent to another process, if so.

    Raises ArtifactHung if the call does not return: each further call would take as long.
    """
    outcome = runner.run(example.inputs, plan.seed)
    if isinstance(outcome, TimedOut):
        raise ArtifactHung(str(outcome), details=("call: the example",), output=runner.printed())
    if not isinstance(outcome, NotTransferable):
        return None
    return NotApplicable(
        f"a file from elsewhere is called in a process of its own, and {outcome}; check the module "
        "itself, or have the file take and return plain tuples, lists and dicts of dense tensors"
    )


def _checked(file: ForeignFile) -> ForeignFile:
    """Return the file if its facts from the sandbox are well-formed. Raises LoadFailed if not.

    A file that runs code of its own may have sent them.
    """
    try:
        file.facts.branches()
        file.facts.signature()
        file.facts.outputs()
        file.facts.suspicions(file.spec, file.spec.example)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise LoadFailed(
            f"the facts about the loaded file are malformed ({error!r:.200})"
        ) from None
    return file


# -- what is wrong with it -------------------------------------------------------------------------


def _raise_not_loaded(session: SandboxSession, source: Source, plan: Plan) -> None:
    """Raise what is wrong with the file as such, if that is known, else what loading it raised."""
    problem = session.problem
    assert problem is not None
    if isinstance(problem, Raised) and plan.target in FLAT:
        faults = _texts(PROBLEMS, source, plan)
        if faults:
            remedy = remedy_of(problem.type, problem.message)
            details = (*faults[1:], *remedy.lines, str(problem))
            raise LoadFailed(
                faults[0], details=details, output=session.printed(), imports=remedy.imports
            )
    # A process without torch imports nothing of the user's anyway.
    blocked = source.blocked if source.library == "torch" else ()
    raise_not_loaded(problem, session.printed(), blocked)


def _texts(function: str, source: Source, plan: Plan) -> Sequence[str]:
    """Return the texts that a function finds in the file; none if it raises."""
    plain = dataclasses.replace(source, device="cpu", blocked=(), imports=())
    with loading.function_called(function, plain, plan) as called:
        if called.problem is not None and not isinstance(called.problem, Raised):
            raise_not_loaded(called.problem, called.printed(), ())
        texts = called.value if isinstance(called.value, list) else []
        return [text for text in texts if isinstance(text, str)]


# -- the files beside it ---------------------------------------------------------------------------


def _copy(file: ForeignFile, source: Source, plan: Plan) -> None:
    """Copy it with its sidecars, as whoever serves it moves them too."""
    shutil.copyfile(file.program, source.path)
    if file.target in FLAT:
        for name in _texts(SIDECARS, source, plan):
            _copy_sidecar(file.program, name, source.home)


def _copy_sidecar(path: Path, name: str, directory: Path) -> None:
    sidecar = _beside(path, name)
    copy = directory / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(sidecar, copy)


def _beside(path: Path, name: str) -> Path:
    """Return the sidecar of that name. Raises LoadFailed if it is no file beside the model.

    If the model is a link, beside the file that it leads to is as good.
    """
    try:
        sidecar = (path.parent / name).resolve()
        outside = Path(name).is_absolute() or not any(
            sidecar.is_relative_to(directory)
            for directory in (path.parent.resolve(), path.resolve().parent)
        )
        there = sidecar.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, links in a ring
        raise LoadFailed(
            f"{path.name} wants data from {name!r:.100}, which is no legal name ({error!s:.100})"
        ) from None
    if outside:
        raise LoadFailed(
            f"{path.name} wants data from {name}, outside its directory: it loads on this machine "
            "at best. Save it again with its data beside it"
        )
    if not there:
        raise LoadFailed(
            f"{path.name} wants data from {name}, which is not beside it: move both files "
            "together, or save with external_data=False"
        )
    return sidecar

"""A file that somebody else made: copied with what belongs to it, and opened in a clean process only."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_torchexport.checks.foreign_file import FLAT, ForeignFile, foreign_callable, foreign_file
from pytest_torchexport.checks.round_trip import raising
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.inputs.spec import InputSpec
from pytest_torchexport.judge import loading
from pytest_torchexport.judge.runners import Isolated, elsewhere
from pytest_torchexport.outcomes.observe import NotTransferable, Raised, Returned, TimedOut
from pytest_torchexport.results.failures import ArtifactHung, LoadFailed
from pytest_torchexport.sandbox.session import Session, Source
from pytest_torchexport.targets.base import Artifact, NotApplicable
from pytest_torchexport.targets.formats.missing_dependencies import remedies

# What tells of an ONNX file without running it.
SIDECARS = "pytest_torchexport.targets.formats.onnx_runtime:SIDECARS"
FAULTS = "pytest_torchexport.targets.formats.onnx_runtime:FAULTS"


UNCONFINED = (
    "this system does not keep native code of a file from writing where it wants (Linux has Landlock for that): "
    "load files of strangers in a container"
)


@dataclass(kw_only=True)
class Opened(Isolated):
    """A file in the clean process. ``room`` has its copy, and goes when it is closed."""

    room: Path

    def close(self) -> None:
        """End its process and remove the copy."""
        super().close()
        shutil.rmtree(self.room, ignore_errors=True)


def artifact(
    thing: Any,
    plan: Plan,
    example: Returned,
    blocked: Sequence[str],
    left: Callable[[], float],
    spec: InputSpec,
    *,
    fresh: bool,
) -> Artifact | Isolated | NotApplicable:
    """The artifact for a path or a callable; ``fresh`` where calls change more than tensors. Raises OSError or
    ValueError for a wrong one, LoadFailed for a file that does not load, ArtifactCrashed for one that kills the
    process, ArtifactHung.
    """
    if not isinstance(thing, (str, os.PathLike)):
        return foreign_callable(thing)
    # Not resolved: in a cache of models, a link alone has the model's name.
    file = foreign_file(Path(thing).absolute(), plan.target, example, spec)
    if isinstance(file, NotApplicable):
        return file
    with ExitStack() as stack:
        room = loading.room(plan.target)
        stack.callback(shutil.rmtree, room, ignore_errors=True)
        source = loading.source_of(
            plan, room / file.program.name, blocked, trusted=False, thorough=True, fresh=fresh
        )
        _copy(file, source, plan)
        session = stack.enter_context(loading.opened(source, plan))
        if session.problem is not None:
            _not_loaded(session, source, plan)
        raising.sound(session.found.get("problems", ()))
        opened = Opened(
            inner=_understood(
                dataclasses.replace(
                    file,
                    found=session.found,
                    notes=() if session.confined else (UNCONFINED,),
                )
            ),
            open=lambda: loading.opened(source, plan),
            device=plan.device,
            seed=plan.seed,
            left=left,
            session=session,
            room=room,
        )
        uncarried = _try_the_example(opened, example)
        if uncarried is not None:
            return uncarried
        stack.pop_all()
        return opened


def _try_the_example(opened: Opened, example: Returned) -> NotApplicable | None:
    """Raise ArtifactHung where it does not even return from that: each further call would take as long. What it
    returns may have no way back to here: then nothing can be said of it.
    """
    assert opened.session is not None
    outcome, _ = elsewhere(
        opened.session,
        opened.inner,
        example.inputs,
        device=opened.device,
        seed=opened.seed,
        limit=opened.left(),
    )
    if isinstance(outcome, TimedOut):
        raise ArtifactHung(
            str(outcome), details=("call: the example",), output=opened.session.printed()
        )
    if not isinstance(outcome, NotTransferable):
        return None
    return NotApplicable(
        f"a file of others is called in a process of its own, and {outcome}; check the module itself, or have the "
        "file take and return plain tuples, lists and dicts of dense tensors"
    )


def _understood(file: ForeignFile) -> ForeignFile:
    """The file, if what the process that loaded it says of it has the form that was agreed. Raises LoadFailed: a
    file that runs code of its own may have spoken in its place.
    """
    try:
        file.facts.branches()
        file.facts.suspicions(file.spec, file.spec.example)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise LoadFailed(
            f"what was loaded says of itself what the plugin does not understand ({error!r:.200})"
        ) from None
    return file


# -- what is wrong with it -------------------------------------------------------------------------


def _not_loaded(session: Session, source: Source, plan: Plan) -> None:
    """Raise what it amounts to, and first what is wrong with the file as such, where that is known."""
    problem = session.problem
    assert problem is not None
    if isinstance(problem, Raised) and not source.torch and (faults := _told(FAULTS, source, plan)):
        details = (*faults[1:], *remedies(problem.type, problem.message), str(problem))
        raise LoadFailed(faults[0], details=details, output=session.printed())
    # Without torch nothing of the user's is imported anyway.
    raising.not_loaded(problem, session.printed(), source.blocked if source.torch else ())


def _told(loader: str, source: Source, plan: Plan) -> Sequence[str]:
    """What is found in an ONNX file that need not load; nothing where it cannot be read at all."""
    asked = dataclasses.replace(source, loader=loader, device="cpu", blocked=(), imports=())
    with loading.opened(asked, plan) as session:
        if session.problem is not None and not isinstance(session.problem, Raised):
            raising.not_loaded(session.problem, session.printed(), ())
        told = session.found.get("told", ())
        return [text for text in told if isinstance(text, str)]


# -- what belongs to it ----------------------------------------------------------------------------


def _copy(file: ForeignFile, source: Source, plan: Plan) -> None:
    """Copy it with the sidecars that it names: whoever serves it moves it too."""
    shutil.copyfile(file.program, source.path)
    if file.target in FLAT:
        for name in _told(SIDECARS, source, plan):
            _copy_sidecar(file.program, name, source.home)


def _copy_sidecar(path: Path, name: str, room: Path) -> None:
    sidecar = _beside(path, name)
    copy = room / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(sidecar, copy)


def _beside(path: Path, name: str) -> Path:
    """The sidecar of that name. Raises LoadFailed where it is no file beside the model, or beside what a link to the
    model leads to.
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
            f"{path.name} wants data from {name}, outside its directory: it loads on this machine at best. "
            "Save it again with its data beside it"
        )
    if not there:
        raise LoadFailed(
            f"{path.name} wants data from {name}, which is not beside it: move both files together, or save with "
            "external_data=False"
        )
    return sidecar

"""A file that somebody else made: copied with what belongs to it, and opened in a clean process only."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pytest_torchexport.checks import round_trip
from pytest_torchexport.failures import LoadFailed
from pytest_torchexport.observe import Returned
from pytest_torchexport.plan import Plan
from pytest_torchexport.runners import Isolated
from pytest_torchexport.sandbox import session as sandbox
from pytest_torchexport.sandbox.session import Session, Source
from pytest_torchexport.stages.round_trip import loader_of
from pytest_torchexport.targets.base import Artifact, NotApplicable
from pytest_torchexport.targets.foreign import FLAT, ForeignFile, foreign_callable, foreign_file

SIDECARS = "pytest_torchexport.targets.ort:SIDECARS"


def artifact(
    thing: Any,
    plan: Plan,
    example: Returned,
    blocked: Sequence[str],
    left: Callable[[], float],
) -> Artifact | Isolated | NotApplicable:
    """The artifact for a path or a callable. Raises OSError or ValueError for a wrong one, LoadFailed for a
    file that does not load, ArtifactCrashed for one that kills the process.
    """
    if not isinstance(thing, (str, Path)):
        return foreign_callable(thing)
    file = foreign_file(Path(thing).resolve(), plan.target, example)
    if isinstance(file, NotApplicable):
        return file
    loader = loader_of(plan.target)
    copied = _copied(file.program, plan, torch=loader.torch)
    source = Source(
        loader=loader.path,
        torch=loader.torch,
        path=copied,
        home=copied.parent,
        device=plan.device,
        memory=plan.memory,
        blocked=blocked,
        imports=plan.runtime_imports,
        trusted=False,
        thorough=True,
    )
    session = _opened(source, plan, blocked)
    round_trip.sound(session.found.get("problems", ()))
    known: ForeignFile = dataclasses.replace(file, found=session.found)
    return Isolated(
        inner=known,
        open=lambda: Session(source, plan.call_limit),
        device=plan.device,
        seed=plan.seed,
        left=left,
        session=session,
    )


def _opened(source: Source, plan: Plan, blocked: Sequence[str]) -> Session:
    session = Session(source, plan.call_limit)
    if session.problem is not None:
        round_trip.not_loaded(session.problem, session.printed(), blocked)
    return session


def _copied(path: Path, plan: Plan, *, torch: bool) -> Path:
    """The file in a directory of its own, with the sidecars that it names: whoever serves it moves it too."""
    room = sandbox.room(torch=torch)
    copy = room / path.name
    shutil.copyfile(path, copy)
    if plan.target not in FLAT:
        return copy
    source = Source(
        loader=SIDECARS,
        torch=False,
        path=copy,
        home=room,
        device="cpu",
        memory=plan.memory,
        trusted=False,
    )
    with _opened(source, plan, ()) as session:
        names = [name for name in session.found["external"] if isinstance(name, str)]
    for name in names:
        _copy_sidecar(path, name, room)
    return copy


def _copy_sidecar(path: Path, name: str, room: Path) -> None:
    directory = path.parent.resolve()
    sidecar = (directory / name).resolve()
    if not sidecar.is_relative_to(directory) or Path(name).is_absolute():
        raise LoadFailed(
            f"{path.name} wants data from {name}, outside its directory: it loads on this machine at best. "
            "Save it again with its data beside it"
        )
    if not sidecar.is_file():
        raise LoadFailed(
            f"{path.name} wants data from {name}, which is not beside it: move both files together, or save with "
            "external_data=False"
        )
    copy = room / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(sidecar, copy)

"""Loads a file in the sandbox: with which loader, and which failure it is if that fails.

The one way to open a session, for files that this run saved and for files from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pytest_torchexport import targets
from pytest_torchexport.config import names
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.outcomes import machine
from pytest_torchexport.outcomes.limits import share_of_memory
from pytest_torchexport.outcomes.observe import killed_from_outside
from pytest_torchexport.results.failures import Ineffective
from pytest_torchexport.sandbox import session as sandbox
from pytest_torchexport.sandbox.process import ServerUnavailable
from pytest_torchexport.sandbox.session import SandboxFunctionCall, SandboxSession, Source

_NO_PROCESS = "the clean process could not be started"
_Process = TypeVar("_Process", bound=sandbox.SandboxProcess)


@dataclass(frozen=True)
class Loader:
    """The loader of a target's files in the sandbox: two functions by name, and the library."""

    load: str
    read: str
    library: str


def loader_of(target: str) -> Loader | None:
    """Return the loader of a target's files; None if another process cannot import any.

    That is so for a target that a conftest registers and that names no loader.
    """
    traits = targets.get(target).traits
    if traits.loader:
        return Loader(f"{traits.loader}.load", f"{traits.loader}.read", traits.library)
    path = names.entry_point(target)
    if path is None:
        return None
    return Loader(f"{path}.load", f"{path}.traits.read", traits.library)


def warm_up(target: str) -> None:
    """Have the sandbox ready by the time there is a file to load. Does not wait."""
    loader = loader_of(target)
    if loader is not None:
        preload = (*_own_modules(loader), *targets.get(target).traits.preload)
        sandbox.warm_up(loader.library, preload)


def _own_modules(loader: Loader) -> tuple[str, ...]:
    """Return the modules of this package that hold the loader's functions.

    A module of another package is imported by each child: it may change its whole process.
    """
    own = f"{__package__.partition('.')[0]}."
    modules = {path.partition(":")[0] for path in (loader.load, loader.read)}
    return tuple(sorted(name for name in modules if name.startswith(own)))


def source_of(plan: Plan, path: Path, blocked: Sequence[str], **fields: Any) -> Source:
    """Return the source of a file in a directory of its own, loaded as the item's target loads it.

    ``fields`` are further ones of Source, or replace those of the plan.
    """
    loader = _known_loader_of(plan.target)
    given = {
        "load": loader.load,
        "read": loader.read,
        "library": loader.library,
        "device": plan.device,
        "blocked": blocked,
        "imports": plan.settings.runtime_imports,
        **fields,
    }
    memory = plan.settings.memory_limit or share_of_memory()
    return Source(path=path, home=path.parent, memory=memory, **given)


def opened(source: Source, plan: Plan) -> SandboxSession:
    """Load a file; the session's ``problem`` is why it was not loaded.

    Raises Ineffective if there was no process for it: that is not the artifact's fault.
    """
    return _started(lambda: SandboxSession(source, plan.call_limit))


def function_called(function: str, source: Source, plan: Plan) -> SandboxFunctionCall:
    """Call a function of this package (``package.module:name``) in the sandbox, with a file's path.

    Raises Ineffective if there was no process for it.
    """
    return _started(lambda: SandboxFunctionCall(function, source, plan.call_limit))


def artifact_directory(target: str) -> Path:
    """Return a new directory for one file. Raises Ineffective if there is none to be had."""
    try:
        return sandbox.artifact_directory(_known_loader_of(target).library)
    except ServerUnavailable as error:
        raise Ineffective(f"{_NO_PROCESS}: {error}") from None
    except OSError as error:
        ran_out = machine.fault(error)
        raise ran_out or Ineffective(f"{_NO_PROCESS}: {error}", details=(machine.PLACE,)) from None


def _known_loader_of(target: str) -> Loader:
    loader = loader_of(target)
    assert loader is not None, f"no process loads files of {target}"
    return loader


def _started(start: Callable[[], _Process]) -> _Process:
    """Return the process; one that something else may have killed is started once more."""
    process = start()
    if killed_from_outside(process.problem):
        process = start()
    if not process.started:
        text = str(process.problem)
        raise machine.fault_in(text) or Ineffective(text)
    return process

"""Loading a file in a clean process: which loader it wants, and what a failure to load it amounts to.

The one way to open a session, for what this run saved and for what somebody else made.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_torchexport import targets
from pytest_torchexport.config import names
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.outcomes.limits import share_of_memory
from pytest_torchexport.results.failures import LoadFailed
from pytest_torchexport.sandbox import session as sandbox
from pytest_torchexport.sandbox.process import ServerUnavailable
from pytest_torchexport.sandbox.session import Session, Source

# What systems say where there is no place for files.
NO_PLACE = (errno.EACCES, errno.EDQUOT, errno.ENOENT, errno.ENOSPC, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class Loader:
    """What loads a target's files (``package.module:attribute``), and whether with torch."""

    path: str
    torch: bool


def loader_of(target: str) -> Loader:
    """The loader of a target's files."""
    torch_free_loader = targets.get(target).traits.torch_free_loader
    if torch_free_loader:
        return Loader(torch_free_loader, torch=False)
    return Loader(str(names.entry_point(target)), torch=True)


def source_of(plan: Plan, path: Path, blocked: Sequence[str], **fields: Any) -> Source:
    """A file in a directory of its own, as the item's target loads it; ``fields`` are further ones of Source."""
    loader = loader_of(plan.target)
    given = {
        "loader": loader.path,
        "torch": loader.torch,
        "device": plan.device,
        "blocked": blocked,
        "imports": plan.settings.runtime_imports,
        **fields,
    }
    memory = plan.settings.memory_limit or share_of_memory()
    return Source(path=path, home=path.parent, memory=memory, **given)


def opened(source: Source, plan: Plan) -> Session:
    """A session, of which ``problem`` tells whether the file was loaded. Raises LoadFailed where there was no process
    for it, which is not the artifact's fault.
    """
    session = Session(source, plan.settings.call_limit)
    if not session.started:
        raise LoadFailed(str(session.problem))
    return session


def room(target: str) -> Path:
    """A new directory for one file. Raises LoadFailed where there is none to be had."""
    try:
        return sandbox.room(torch=loader_of(target).torch)
    except ServerUnavailable as error:
        raise LoadFailed(f"the clean process could not be started: {error}") from None
    except OSError as error:
        step = "next step: TMPDIR must name a directory that has space and can be written to"
        raise LoadFailed(
            f"the clean process could not be started: {error}",
            details=(step,) if error.errno in NO_PLACE else (),
        ) from None

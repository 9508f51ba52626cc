"""Known failures as plain data: what identifies a failure, and how bad it was when it became known.

A failure is identified by names alone: class, outputs, module, operator, dims, the user's code.
Numbers, positions and versions change without anybody's doing, and files with them conflict.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from pytest_torchexport.results.diagnosis import Owner

MatchStatus = Literal[
    "known",
    "worse",  # known, and now at more sizes, at an earlier stage or with a larger error
    "moved",  # known of a test that is no longer there
    "created",  # became known in this run
    "fixed",  # known, and the subject passes
    "new",  # nothing is known of this subject, or only something that does not hold here
    "different",  # another failure of this subject is known
    "ambiguous",  # known of a test that is no longer there, but not of this one alone
]
# An item whose failures all have one of these is an xfail.
EXPECTED: frozenset[MatchStatus] = frozenset({"known", "worse", "moved", "created"})


@dataclass(frozen=True, kw_only=True)
class FailurePlace:
    """The names that say where and as what a failure shows. Edits elsewhere do not change them.

    ``outputs``: the paths that differ; ``kinds``: in what (values, dtype, shape). ``module`` and
    ``operator``: those that introduce the difference. ``causes``: the kinds of its causes.
    ``dims``: those that the artifact narrows. ``exception``: the class of what the artifact or the
    exporter raised. ``code``: the user's line to blame, as Python writes it. ``message``: the
    failure's text without numbers and paths, if nothing else is known.
    """

    outputs: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    module: str = ""
    operator: str = ""
    causes: tuple[str, ...] = ()
    dims: tuple[str, ...] = ()
    exception: str = ""
    code: str = ""
    message: str = ""

    def __str__(self) -> str:
        """Return ``output, aten.view, frozen size``."""
        parts = [
            ", ".join(value) if isinstance(value, tuple) else value for value in vars(self).values()
        ]
        return ", ".join(filter(None, parts)) or "no place"


@dataclass(frozen=True, kw_only=True)
class Severity:
    """The measures of a failure when it became known. They do not identify it.

    ``sizes``: dim to the sizes at which it fails, as ``fails from 5``. ``error``: in units of
    eager's own, None if not measured. ``stage``: the owner that the diagnosis names.
    """

    sizes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    error: float | None = None
    stage: Owner | None = None


@dataclass(frozen=True, kw_only=True)
class KnownFailure:
    """A failure that a team has accepted, of one subject of one test on one target and device.

    ``test`` is the node id without target and device. ``since`` and ``until`` are dates (ISO);
    after ``until`` the failure is no longer accepted. ``when``: requirements
    (``torch < 2.15``) without which it is not expected. ``partial``: its diagnosis ran out of time,
    so that names may be missing.
    """

    test: str
    target: str
    device: str
    subject: str
    failure: str
    reason: str
    place: FailurePlace = FailurePlace()
    owner: str = ""
    since: str = ""
    until: str = ""
    when: tuple[str, ...] = ()
    partial: bool = False
    severity: Severity = Severity()

    @property
    def identity(self) -> tuple[object, ...]:
        """The fields that tell it apart from other known failures."""
        where = (self.test, self.target, self.device, self.subject)
        return (*where, self.failure, *vars(self.place).values())

    def __str__(self) -> str:
        """Return ``OutputsDiffer of Net on onnx-cpu (output, aten.view)``."""
        return f"{self.failure} of {self.subject} on {self.target}-{self.device} ({self.place})"


@dataclass(frozen=True)
class Stored:
    """A known failure, and the place of its entry: the file as one types it, and the line."""

    entry: KnownFailure
    file: str
    line: int

    @property
    def at(self) -> str:
        """Return ``torchexport-known/test_net/test_it.toml:5``."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, kw_only=True)
class KnownMatch:
    """The comparison of a failure, or of a known failure that is fixed, with what is known.

    ``known`` is the entry that it was compared with, None if there is none; ``file`` the file that
    holds it. ``now``: the entry to write for it. ``changes``: what is worse or different.
    """

    status: MatchStatus
    now: KnownFailure
    known: KnownFailure | None = None
    file: str = ""
    changes: tuple[str, ...] = ()


def holds(requirement: str, environment: Mapping[str, str]) -> bool:
    """Return True if a requirement such as ``torch < 2.15`` is true of the installed versions.

    A package that is not installed makes it false. Raises ValueError if it is none.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        asked = Requirement(requirement)
    except InvalidRequirement:
        raise ValueError(f"'when': {requirement!r} is no requirement like 'torch < 2.15'") from None
    version = environment.get(asked.name) or _installed(asked.name)
    applies = asked.marker is None or asked.marker.evaluate()
    return applies and bool(version) and asked.specifier.contains(version, prereleases=True)


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""

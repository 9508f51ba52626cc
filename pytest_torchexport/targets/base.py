"""The boundary every target stands behind: two protocols, and what both sides of it share.

Protocols rather than base classes: a target in somebody else's package needs nothing of ours to inherit.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.targets.formats.branches import Branches
from pytest_torchexport.targets.formats.contents import given_extras
from pytest_torchexport.targets.formats.devices import Baked
from pytest_torchexport.targets.formats.sizes import Suspicion


@dataclass(frozen=True)
class NotApplicable:
    """The target has no meaning for this kind of subject (a ScriptModule to ``export``)."""

    reason: str


class Artifact(Protocol):
    """What a target produced. Called with eager's signature; returns eager's pytree as far as the format
    can. ``lower`` and ``lift`` translate a call and a returned value between eager's terms and the saved file's
    own. An artifact may have besides: ``described()``, what it says of itself, to be the same after loading;
    ``devices()``, what ties it to its device; and ``notes``.
    """

    @property
    def program(self) -> Any:
        """The format's own object."""

    @property
    def module(self) -> Any:
        """What holds state that calls may change, or None."""

    @property
    def baked(self) -> tuple[str, ...]:
        """The arguments that became constants."""

    @property
    def native_loops(self) -> bool:
        """Whether a call may run for ever in code that Python cannot interrupt."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""

    def save(self, directory: Path) -> Path:
        """Write it into the directory, with all that belongs to it; the path to load."""

    def lower(self, call: Call) -> Call:
        """The call as the loaded file wants it."""

    def lift(self, value: Any) -> Any:
        """Eager's pytree for what the loaded file returned."""

    def audit(self, spec: InputSpec, example: Call) -> tuple[Suspicion, ...]:
        """Where its metadata says that it does not take the dims as declared. Runs nothing, never raises."""

    def branches(self) -> Branches | None:
        """The branches and loops that its program still has; None where it cannot tell."""


class Target(Protocol):
    """One way out of eager.

    ``specializes`` says that the exporter freezes dims whose example is 0 or 1, so that it is given an
    example at 2 instead. A target may have besides: ``inspect(path, loaded)``, plain data about a loaded file
    (``described``, ``problems``, ``branches``); ``preload``, modules that loading needs; ``torch_free_loader``, a
    ``package.module:attribute`` that loads without torch; ``moves``, how a file is moved to another device; and
    ``crashes_on_caught_errors``, why the exporter does not survive what a forward catches.
    """

    specializes_0_1: bool

    def unavailable(self, device: str) -> str | None:
        """Why the target cannot run here, with the next step; None where it can."""

    def export(
        self, module: Callable[..., Any], example: Call, spec: InputSpec, **options: Any
    ) -> Artifact | NotApplicable:
        """Export a copy of the subject (a module, a function or a bound method of a module)."""

    def load(self, path: Path, device: str) -> Callable[..., Any]:
        """Load what an artifact saved. Also called where the model's source does not exist."""


@dataclass(frozen=True, kw_only=True)
class DirectArtifact:
    """An artifact that takes and returns what eager does, saved by one function. ``extra_files`` are the user's own
    that go into the archive, by name.
    """

    program: Any
    module: Any
    run: Callable[..., Any]
    write: Callable[..., None]
    filename: str
    extra_files: Mapping[str, str | bytes] = field(default_factory=dict)
    baked: tuple[str, ...] = ()
    native_loops: bool = False
    notes: tuple[str, ...] = ()
    auditor: Callable[[InputSpec], tuple[Suspicion, ...]] | None = None
    reader: Callable[[Any], Branches] | None = None
    locator: Callable[[Any], tuple[Baked, ...]] | None = None
    describer: Callable[[Any], dict[str, str]] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        return self.run(*args, **kwargs)

    def save(self, directory: Path) -> Path:
        """Write the one file; nothing half-written stays behind."""
        with whole_file(directory / self.filename) as path:
            self.write(self.program, path, self.extra_files)
        return path

    def lower(self, call: Call) -> Call:
        """The call itself."""
        return call

    def lift(self, value: Any) -> Any:
        """The value itself."""
        return value

    def audit(self, spec: InputSpec, example: Call) -> tuple[Suspicion, ...]:
        """What the target's own auditor says; most formats say nothing of sizes."""
        return self.auditor(spec) if self.auditor is not None else ()

    def devices(self) -> tuple[Baked, ...]:
        """What the target's own locator finds to be tied to a device."""
        return self.locator(self.program) if self.locator is not None else ()

    def described(self) -> dict[str, str]:
        """What the target's own describer says of the program; a format may say nothing of itself."""
        own = self.describer(self.program) if self.describer is not None else {}
        return own | given_extras(self.extra_files)

    def branches(self) -> Branches | None:
        """What the target's own reader finds in the program."""
        return self.reader(self.program) if self.reader is not None else None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Whoever fails to write ``path`` leaves nothing there.

    torch.export.save leaves a truncated archive behind when it refuses a type.
    """
    try:
        yield path
    except BaseException:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        raise

"""The boundary between the plugin and every way out of eager: the protocols Target and Artifact.

Protocols rather than base classes: a target in another package inherits nothing. What is optional
has a default, in ``TargetTraits`` and in ``ProgramFacts``. Free of torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pytest_torchexport.targets.formats.facts import ProgramFacts

if TYPE_CHECKING:
    from pytest_torchexport.inputs.spec import Call, InputSpec
    from pytest_torchexport.results.diagnosis import Owner


# What code that asks is told while torch captures it: torch.jit.trace runs forward in Python.
TRACING = {"torch.jit.is_tracing": True, "torch._C._get_tracing_state": True}
EXPORTING = {"torch.compiler.is_compiling": True, "torch.compiler.is_exporting": True}
# A minimal case: try: x.view(7) except RuntimeError: ... (seen with torch 2.13: SIGSEGV).
CRASHES_ON_CAUGHT_ERRORS = (
    "forward catches what an operation raises on the example, and torch.jit.trace does not survive "
    "that: tried in a process of its own, it was killed. Ask beforehand whether it would raise, or "
    "give an example on which nothing does"
)


@dataclass(frozen=True)
class NotApplicable:
    """The target has no meaning for this kind of subject (a ScriptModule to ``export``)."""

    reason: str


class NotAsAsked(Exception):
    """The exporter raised nothing, and its file is not what ``export_options`` ask for."""


@dataclass(frozen=True, kw_only=True)
class TargetTraits:
    """The traits of a target. The defaults are those of a target that has nothing special.

    ``specializes_0_1``: the exporter makes a dim static if the example's size is 0 or 1. It is then
    given an example of size 2.

    ``fixes_layouts``: the file takes each tensor for one in the memory layout of the example's
    (``channels_last``, transposed). All calls then keep it; others are made apart, and what they
    break is a note that names the layout.

    ``crashes_on_caught_errors``: a sentence if the exporter kills its process when ``forward``
    catches what an operation raises. Such an export is first tried in a copy of the process, and
    the sentence is the reason of the refusal if that copy dies.

    ``preload``: modules that ``load`` imports and that are slow to import. The clean process
    imports them once, ahead of time.

    ``loader``: ``package.module:attribute`` of an object with ``load(path, device)`` and
    ``read(path, loaded)``, which the clean process imports instead of the target. Needed if the
    files are served without torch, or if another process cannot import the target.

    ``suffixes``: the endings of its files, for a file that somebody else made. ``takes`` looks into
    such a file, and returns why it is not this target's, or nothing. It runs in this process: it
    must load and unpickle nothing.

    ``sidecars``: returns the names of the files that such a file needs beside it.

    ``flat``: such a file takes the leaves of a call in their order, and returns a list of those of
    the value.

    ``library``: the module that the files are run with in the clean process, which imports it ahead
    of time: ``torch``, ``onnxruntime``, or any other. With another one the process need not have
    torch, and what the loader's ``load`` returns takes and returns numpy arrays.

    ``moved_by``: the function that moves a loaded program to another device, if a plain ``.to()``
    does not.

    ``leaves_out_casts``: the kinds of device, ``cpu`` or ``cuda``, on which what runs the files may
    leave out a cast to a shorter float type and back. What that changes is no failure.

    ``rtol``: the relative error of the runtime's own functions, if it is larger than what
    ``torch.testing`` allows of float32, 1.3e-6.

    ``answers``: what the functions by which code asks whether it is exported return to ``forward``
    during the export (``{"torch.jit.is_tracing": True}``), or in the program if it keeps the
    question. Those that return what they return to eager are left out.

    ``script``: Python source that loads the file at ``path`` as ``artifact``, without this package,
    for a script that shows a failure again. Names in it are ``device``, and ``asked``, a dict of
    the ``export_options`` that ``load`` takes.

    ``for_cpp``: gets the artifact's program, a call and a path, and writes the call's arguments as
    ``sandbox/serve.cpp`` reads them. None if that cannot load the target's files.

    ``read``: returns the facts of a loaded file; it gets the path and what ``load`` returned.
    Called in the clean process, whose answer is compared with the artifact's own facts.
    """

    specializes_0_1: bool = False
    fixes_layouts: bool = False
    crashes_on_caught_errors: str = ""
    preload: tuple[str, ...] = ()
    loader: str = ""
    suffixes: tuple[str, ...] = ()
    takes: Callable[[Path], str] = lambda _path: ""
    sidecars: Callable[[Path], Sequence[str]] = lambda _path: ()
    flat: bool = False
    library: str = "torch"
    moved_by: str = ""
    leaves_out_casts: tuple[str, ...] = ()
    rtol: float = 0.0
    script: str = ""
    answers: Mapping[str, Any] = field(default_factory=dict)
    for_cpp: Callable[[Any, Call, Path], object] | None = None
    read: Callable[[Path, Any], ProgramFacts] = lambda _path, _loaded: ProgramFacts()


class Artifact(Protocol):
    """The product of a target, called with eager's arguments.

    It returns eager's pytree as far as the format can. ``pack_inputs`` and ``unpack_outputs``
    translate a call and a returned value between eager's form and the form of the saved file. An
    artifact whose file returns a list may have ``pack_outputs``, which returns by path what the
    file would return for a value of eager's, in its order: for scripts that show a failure again.
    """

    @property
    def program(self) -> Any:
        """The format's own object, for asserts of the user's own."""

    @property
    def module(self) -> Any:
        """The ``nn.Module`` that holds state which calls may change, or None."""

    @property
    def baked(self) -> tuple[str, ...]:
        """The arguments that became constants, each as ``name=value``."""

    @property
    def native_loops(self) -> bool:
        """True if a call may never return and runs in code that Python cannot interrupt."""

    @property
    def facts(self) -> ProgramFacts:
        """The facts that the program states. ``ProgramFacts()`` states none."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""

    def save(self, directory: Path) -> Path:
        """Write all its files into the directory, and return the path of the one to load."""

    def pack_inputs(self, call: Call) -> Call:
        """Return the call in the form that the loaded file takes."""

    def unpack_outputs(self, value: Any) -> Any:
        """Return eager's pytree for a value that the loaded file returned."""


@runtime_checkable
class StartsAnew(Protocol):
    """An artifact whose state is not that of a ``module``: of a runtime, or of a file.

    What ``load`` returns may have the method too. Without it, a call starts where the last ended.
    """

    def fresh(self) -> Any:
        """Return it as it was exported, or loaded."""


@dataclass(frozen=True)
class MadeOf:
    """A step on the way to an artifact: what it is called, what it returned, and whose work it is.

    ``run`` is called with eager's arguments. ``owner`` is to blame if this is the first step that
    differs from eager: ``capture``, ``translation``, ``exporter's optimizer``, ``runtime``, ...
    """

    name: str
    run: Callable[..., Any]
    owner: Owner


@runtime_checkable
class HasSteps(Protocol):
    """An artifact that knows what it was made of."""

    def made_of(self) -> Sequence[MadeOf]:
        """Return the steps in their order; the last one is the artifact itself."""


@runtime_checkable
class ShowsValues(Protocol):
    """An artifact that is not run by torch's operators, and that can show the values inside it.

    What is not shown is no loss but of some ties, which then pass although they are bugs.
    """

    def show(self, call: Call, see: Callable[[str, Any], None]) -> Any:
        """Run it like ``__call__``, and hand the operands of its decisions to ``see``, by name.

        Decisions are comparisons, ``floor``, ``argmax`` and the like.
        """


def served(artifact: Callable[..., Any], call: Call) -> Callable[[], Any]:
    """Return a function that calls an artifact as a server does.

    An artifact whose call converts values that a server would have in the file's own form has
    ``served(call)``: the inputs are converted beforehand, the outputs not.
    """
    if hasattr(artifact, "served"):
        own: Callable[[], Any] = artifact.served(call)
        return own
    return lambda: artifact(*call.args, **call.kwargs)


class Target(Protocol):
    """One way out of eager."""

    @property
    def traits(self) -> TargetTraits:
        """Its traits. ``TargetTraits()`` if it has nothing special."""

    def unavailable(self, device: str) -> str | None:
        """Return why it cannot run here, with the next step; None if it can."""

    def export(
        self, module: Callable[..., Any], example: Call, spec: InputSpec, **options: Any
    ) -> Artifact | NotApplicable:
        """Export the subject: a copy of a module, a function, or a bound method of a module.

        ``spec`` says which dims vary; ``options`` are the user's ``export_options``. Any exception
        counts as a refusal.
        """

    def load(self, path: Path, device: str) -> Callable[..., Any]:
        """Load a file that an artifact saved. Called where the model's source does not exist.

        It may have further parameters: those of the ``export_options`` that are named like them.
        """


def _refuse(path: Path) -> None:
    raise NotImplementedError("it has no file")


@dataclass(frozen=True, kw_only=True)
class DirectArtifact:
    """An artifact that takes and returns what eager does, and is one file.

    ``write`` saves it to the path that it is given. ``dynamic_shapes`` are those of its export.
    """

    program: Any
    module: Any
    run: Callable[..., Any]
    write: Callable[[Path], object] = _refuse
    filename: str = ""
    baked: tuple[str, ...] = ()
    native_loops: bool = False
    facts: ProgramFacts = field(default_factory=ProgramFacts)
    dynamic_shapes: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)

    def save(self, directory: Path) -> Path:
        """Write the one file; if that fails, nothing half-written stays behind."""
        with whole_file(directory / self.filename) as path:
            self.write(path)
        return path

    def pack_inputs(self, call: Call) -> Call:
        return call

    def unpack_outputs(self, value: Any) -> Any:
        return value


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Remove ``path`` if the block raises.

    ``torch.export.save`` leaves a truncated archive behind when it refuses a type.
    """
    try:
        yield path
    except BaseException:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        raise


def device_of(call: Call) -> str:
    """Return the device of a call's tensors, the CPU if it has none."""
    return next((str(tensor.device) for tensor in call.tensors()), "cpu")

"""Run an artifact: open its files in the clean process, or call it in this one."""

from __future__ import annotations

import copy
import itertools
import re
import shutil
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from pytest_torchexport import targets
from pytest_torchexport.config import names
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.eager.accepted import ReferenceCall
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.inputs.pytrees import tree_map
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.decisions import See, seen
from pytest_torchexport.outcomes import cuda, errors
from pytest_torchexport.outcomes.limits import in_thread, share_of_memory
from pytest_torchexport.outcomes.observe import (
    Crashed,
    Outcome,
    Outcomes,
    Raised,
    Returned,
    Run,
    State,
    Tensors,
    TimedOut,
    killed_from_outside,
    observe,
    raised,
    tensors_of,
)
from pytest_torchexport.outcomes.torch_state import GradMode
from pytest_torchexport.results.failures import (
    ArtifactCrashed,
    ArtifactHung,
    ExportRefused,
    Ineffective,
    LoadFailed,
)
from pytest_torchexport.sandbox import session as sandbox
from pytest_torchexport.sandbox.process import ServerUnavailable
from pytest_torchexport.sandbox.program import ProgramSession
from pytest_torchexport.sandbox.session import SandboxSession, Source
from pytest_torchexport.targets.base import Artifact, ShowsValues, StartsAnew
from pytest_torchexport.targets.formats.load_errors import remedy_of

# The types of export_options that can be sent to the process that loads the file.
_PLAIN = (bool, int, float, str, type(None))
_NO_PROCESS = "the clean process could not be started"


@dataclass(frozen=True)
class Loader:
    """The loader of a target's files in the sandbox: two functions by name, and the library."""

    load: str
    read: str
    library: str


BY_REFERENCE = Loader(
    "pytest_torchexport.targets.formats.onnx_runtime:BY_REFERENCE.load",
    "pytest_torchexport.targets.formats.onnx_runtime:BY_REFERENCE.read",
    "onnx",
)


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
        modules = {path.partition(":")[0] for path in (loader.load, loader.read)}
        # A module of another package is imported by each child: it may change its whole process.
        own = sorted(name for name in modules if name.startswith("pytest_torchexport."))
        sandbox.warm_up(loader.library, (*own, *targets.get(target).traits.preload))


def source_of(
    plan: Plan, path: Path, blocked: Sequence[str], reference: Reference, **fields: Any
) -> Source:
    """Return the source of a file in a directory of its own, loaded as the item's target loads it.

    ``blocked`` are the packages that the process does not have, ``fields`` further ones of Source.
    """
    loader = loader_of(plan.target)
    assert loader is not None, f"no process loads files of {plan.target}"
    return Source(
        **vars(loader),
        path=path,
        home=path.parent,
        device=plan.device,
        memory=plan.settings.memory_limit or share_of_memory(),
        blocked=blocked,
        imports=plan.settings.runtime_imports,
        gradients=reference.served is GradMode.GRAD,
        options=plain_options(plan),
        **fields,
    )


def plain_options(plan: Plan) -> dict[str, Any]:
    """Return the ``export_options`` of the target that can be sent to another process."""
    given = (plan.options.export_options or {}).get(plan.target, {})
    return {name: value for name, value in given.items() if isinstance(value, _PLAIN)}


def opened(source: Source, plan: Plan, function: str = "") -> SandboxSession:
    """Load a file, or call a function (``package.module:name``) with its path in the sandbox.

    The session's ``problem`` is why it was not loaded. Raises Ineffective if there was no process
    for it: that is not the artifact's fault.
    """
    session = SandboxSession(source, plan.call_limit, function)
    if killed_from_outside(session.problem):  # perhaps by something else: once more
        session = SandboxSession(source, plan.call_limit, function)
    if not session.started:
        text = str(session.problem)
        raise errors.fault_in(text) or Ineffective(text)
    return session


def artifact_directory(target: str) -> Path:
    """Return a new directory for one file. Raises Ineffective if there is none to be had.

    ExportRefused if the target names a library that cannot be imported.
    """
    loader = loader_of(target)
    assert loader is not None, f"no process loads files of {target}"
    try:
        return sandbox.artifact_directory(loader.library)
    except ServerUnavailable as error:
        raise Ineffective(f"{_NO_PROCESS}: {error}") from None
    except ValueError as error:
        text = f"target {target!r} breaks the contract of targets: {error}"
        raise ExportRefused(text) from None
    except OSError as error:
        ran_out = errors.fault(error)
        raise ran_out or Ineffective(f"{_NO_PROCESS}: {error}", details=(errors.PLACE,)) from None


def raise_not_loaded(problem: Outcome, printed: str, blocked: Sequence[str]) -> None:
    """Raise the failure for a file that was not loaded.

    ``blocked`` are the packages that the process does not have.
    """
    if isinstance(problem, Crashed):
        raise ArtifactCrashed(f"while it was loaded: {problem.reason}", output=printed)
    if isinstance(problem, TimedOut):
        raise ArtifactHung(f"while it was loaded: {problem}", output=printed)
    if not isinstance(problem, Raised):
        raise LoadFailed(str(problem), output=printed)
    # As a package, a part of it or its operators; not as a path or a file.
    begins, ends = r"(?:(?<![\w./\\-])|(?<=ops\.))", r"(?![\w/\\-]|\.(?:pt2?|pth|onnx)\b)"
    wanted = [
        name for name in blocked if re.search(begins + re.escape(name) + ends, problem.message)
    ]
    gone = (f"not importable there: {', '.join(wanted)}",) if wanted else ()
    remedy = remedy_of(problem.type, problem.message)
    raise LoadFailed(
        str(problem),
        details=(*remedy.lines, *gone),
        where=problem.where,
        output=printed,
        imports=remedy.imports,
    )


def raise_if_unsound(problems: Sequence[str]) -> None:
    if problems:
        raise LoadFailed(problems[0], details=tuple(problems[1:]))


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedArtifact:
    """A file in a directory of its own, and the session that has it loaded (None: it did not load).

    ``first_runs`` are the calls of the example that were made there, ``others`` further ones.
    """

    source: Source
    plan: Plan
    session: SandboxSession | None = None
    first_runs: tuple[tuple[Outcome, Tensors], ...] = ()
    others: tuple[tuple[ReferenceCall, Outcome], ...] = ()

    @property
    def path(self) -> Path:
        return self.source.path

    def open(self, device: str | None = None, threads: int = 1) -> SandboxSession:
        """Load it in a new process, on the item's device or another, with so many threads.

        The session's ``problem`` is why it was not loaded. Raises Ineffective if there was no
        process for it: that is not the artifact's fault.
        """
        cuda.release()
        source = replace(self.source, device=device or self.source.device, threads=threads)
        return opened(source, self.plan)

    def printed(self) -> str:
        return self.session.printed() if self.session is not None else ""

    def files(self) -> list[Path]:
        """Return its files, after its process has ended.

        The end of what it printed is in the verdict; the rest may be as long as the limit allows.
        """
        self.end()
        return [file for file in self.path.parent.iterdir() if file.suffix != ".output"]

    def end(self) -> None:
        if self.session is not None:
            self.session.close()

    def close(self) -> None:
        """End its process, and remove the files that were not kept."""
        self.end()
        shutil.rmtree(self.path.parent, ignore_errors=True)


class Runnable(Protocol):
    """An artifact that can be called in this process; its members are those of an Artifact."""

    @property
    def module(self) -> Any: ...

    @property
    def native_loops(self) -> bool: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class Runner:
    """One way to call an artifact. ``isolated``: calls are made in the sandbox."""

    isolated = False

    def __post_init__(self) -> None:
        self._outcomes = Outcomes()
        # The last calls in a row, by what decides them.
        self._row: dict[Hashable, list[tuple[Outcome, Tensors]]] = {}

    def run(self, call: Call, seed: int, *, again: bool = False) -> Outcome:
        """Return the outcome of the call, made from the state as exported.

        If it was made before, that of then; ``again``: make it all the same.
        """

        def make() -> Outcome:
            return self._in_a_row([call], seed, state=False)[0][0]

        return make() if again else self._outcomes.once(call, seed, make)

    def in_a_row(self, calls: Sequence[Call], seed: int) -> list[tuple[Outcome, Tensors]]:
        """Return each call's outcome, and the state after it; a call starts from that."""
        key = seed, *(call.digest() for call in calls)
        if None in key or key not in self._row:
            self._row = {key: self._in_a_row(calls, seed, state=True)}
        found = self._row[key]
        self._outcomes.once(calls[0], seed, lambda: found[0][0])
        return found

    def _in_a_row(
        self, calls: Sequence[Call], seed: int, *, state: bool
    ) -> list[tuple[Outcome, Tensors]]:
        with self.row(seed, state=state) as run:
            return [run(call) for call in calls]

    def row(self, seed: int, *, state: bool) -> AbstractContextManager[Run]:
        """Yield a function that makes a call, from the state that its call before has left.

        With the outcome, it returns the state after the call, or nothing unless ``state``.
        """
        raise NotImplementedError

    def show(self, call: Call, seed: int, see: See) -> Outcome | None:
        """Run the call, and show the values in the artifact; None if they cannot be seen."""
        return None

    def tensors(self) -> Tensors:
        """Return the parameters and buffers that the artifact starts with, by name."""
        raise NotImplementedError

    def printed(self) -> str:
        """Return the end of what the artifact printed in the sandbox."""
        return ""


@dataclass(eq=False)
class InProcess(Runner):
    pristine: Runnable
    _: KW_ONLY
    device: str
    stateful: bool
    fresh_each_call: bool
    left: Callable[[], float]
    grad_mode: GradMode = GradMode.NO_GRAD

    def __post_init__(self) -> None:
        super().__post_init__()
        self._state = State(self.pristine.module, thorough=self.stateful)

    @contextmanager
    def row(self, seed: int, *, state: bool) -> Iterator[Run]:
        artifact = self._artifact()

        def run(call: Call) -> tuple[Outcome, Tensors]:
            outcome = self._observe(artifact, call, seed)
            return outcome, tensors_of(artifact.module) if state else {}

        yield run
        self._state.restore()

    def show(self, call: Call, seed: int, see: See) -> Outcome | None:
        artifact = self._artifact()
        if artifact.native_loops:
            return None  # it runs in another thread

        def shown(*args: Any, **kwargs: Any) -> Any:
            if isinstance(artifact, ShowsValues):
                return artifact.show(Call(args, kwargs), see)
            with seen(see):
                return artifact(*args, **kwargs)

        outcome = observe(shown, call, seed=seed, grad_mode=self.grad_mode)
        self._state.restore()
        return outcome

    def tensors(self) -> Tensors:
        return tensors_of(self.pristine.module)

    def _artifact(self) -> Runnable:
        if isinstance(self.pristine, StartsAnew):
            anew: Runnable = self.pristine.fresh()
            return anew
        # A ScriptModule has attributes of any type, which only a copy of it keeps as they were.
        scripted = isinstance(self.pristine.module, torch.jit.ScriptModule)
        return copy.deepcopy(self.pristine) if self.fresh_each_call and scripted else self.pristine

    def _observe(self, artifact: Runnable, call: Call, seed: int) -> Outcome:
        def aside(go: Callable[[], Any]) -> Any:
            return in_thread(go, self.left())

        run = aside if artifact.native_loops else None
        call = call.to(self.device)
        return observe(artifact, call, seed=seed, grad_mode=self.grad_mode, run=run)


def call_loaded(
    session: SandboxSession | ProgramSession,
    artifact: Artifact,
    call: Call,
    *,
    seed: int,
    limit: float,
    anew: bool = True,
    state: bool = False,
) -> tuple[Outcome, Tensors]:
    """Call an artifact that a session has loaded. Return the outcome as eager would give it.

    And the state after it if ``state``. The returned value is unpacked; its inputs are those of
    ``call``. ``limit`` is in seconds; ``anew``: the call starts from the state as loaded.
    """
    own = call.to("cpu")
    try:
        packed = artifact.pack_inputs(own)
    except Exception as error:
        return raised(error), {}
    outcome, tensors = session.run(packed, seed=seed, limit=limit, anew=anew, state=state)
    if not isinstance(outcome, Returned):
        return outcome, tensors
    try:
        value = artifact.unpack_outputs(outcome.value)
    except Exception as error:
        return raised(error), tensors
    # ``packed`` holds the call's own tensors, and the outcome the same inputs in the same order.
    pairs = zip(packed.tensors(), outcome.inputs.tensors(), strict=True)
    left = {id(before): after for before, after in pairs}
    args, kwargs = tree_map(lambda leaf: left.get(id(leaf), leaf), (own.args, dict(own.kwargs)))
    return Returned(value, Call(args, kwargs)), tensors


@dataclass(eq=False)
class InSandbox(Runner):
    """Call an artifact in the clean process: loaded once, and loaded again after each crash.

    ``open`` starts a session that has it loaded and may use ``threads``; ``left`` returns the
    seconds that a call may take.
    """

    artifact: Artifact
    open: Callable[..., SandboxSession]
    left: Callable[[], float]
    threads: int = 1
    session: SandboxSession | None = field(default=None, repr=False)
    isolated: bool = True

    def _in_a_row(
        self, calls: Sequence[Call], seed: int, *, state: bool
    ) -> list[tuple[Outcome, Tensors]]:
        """Make the calls; once more if something else may have killed the process."""
        found: list[tuple[Outcome, Tensors]] = []
        for _ in range(2):
            found = []
            for call in calls:
                if found and isinstance(found[-1][0], (Crashed, TimedOut)):
                    found.append(found[-1])  # the process is gone, and the state with it
                    continue
                found.append(self._made(call, seed, anew=not found, state=state))
            if not any(killed_from_outside(outcome) for outcome, _ in found):
                break
        return found

    @contextmanager
    def row(self, seed: int, *, state: bool) -> Iterator[Run]:
        turns = itertools.count()
        yield lambda call: self._made(call, seed, anew=not next(turns), state=state)

    def _made(self, call: Call, seed: int, *, anew: bool, state: bool) -> tuple[Outcome, Tensors]:
        session, limit = self._opened(), self.left()
        return call_loaded(
            session, self.artifact, call, seed=seed, limit=limit, anew=anew, state=state
        )

    def tensors(self) -> Tensors:
        return self._opened().tensors(self.left())

    def close(self) -> None:
        if self.session is not None:
            self.session.close()

    def printed(self) -> str:
        return self.session.printed() if self.session is not None else ""

    def _opened(self) -> SandboxSession:
        if self.session is None or self.session.over:
            self.session = self.open(threads=self.threads)
        return self.session

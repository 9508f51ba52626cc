"""A file from elsewhere: copied with the files it needs, and opened in the sandbox only."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from pytest_torchexport import targets
from pytest_torchexport.config import names
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.config.validate import nearest
from pytest_torchexport.eager.reference import put_into
from pytest_torchexport.inputs.pytrees import flatten
from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.judge.case import Case, Prepared
from pytest_torchexport.judge.runner import (
    InSandbox,
    SavedArtifact,
    artifact_directory,
    opened,
    raise_if_unsound,
    raise_not_loaded,
    source_of,
)
from pytest_torchexport.outcomes.observe import NotTransferable, Raised, Returned, TimedOut
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.failures import ArtifactHung, LoadFailed, SpecError
from pytest_torchexport.results.verdict import Assumption
from pytest_torchexport.sandbox.session import SandboxSession, Source
from pytest_torchexport.targets.base import DirectArtifact, NotApplicable
from pytest_torchexport.targets.formats.facts import Branches, ProgramFacts
from pytest_torchexport.targets.formats.load_errors import remedy_of
from pytest_torchexport.targets.formats.sizes import SizeFacts, Suspicion, suspicions
from pytest_torchexport.targets.formats.torchscript import has_loops
from pytest_torchexport.targets.onnx_artifact import OnnxOutputs, packed

# Functions that read an ONNX file without loading it, called in the sandbox: both return texts.
SIDECARS = "pytest_torchexport.targets.formats.onnx_model:external"
PROBLEMS = "pytest_torchexport.targets.formats.onnx_model:problems"

UNCONFINED = (
    "this system does not keep native code of a file from reading, writing and starting what it "
    "wants (Linux has Landlock and seccomp for that): load files of strangers in a container"
)


def take(prepared: Prepared, made: Any) -> Case:
    """Take an artifact that somebody else made: a path, or a callable.

    Raises SpecError if it is neither; LoadFailed if the file does not load, ArtifactCrashed if it
    kills its process, ArtifactHung if it does not return.
    """
    prepared.plan.progress("export")
    example = prepared.reference.on_cpu(prepared.spec.example)
    if not isinstance(example, Returned):
        raise SpecError(f"eager does not return from the example: {example}")
    try:
        if not isinstance(made, (str, os.PathLike)):
            artifact = foreign_callable(made)
            return Case.of(prepared, artifact, prepared.runner_of(artifact))
        # Not resolved: in a cache of models, only the link has the model's name.
        path, signature = Path(made).absolute(), prepared.reference.pristine.signature()
        file = foreign_file(path, prepared.plan.target, example, prepared.spec, signature)
        if isinstance(file, NotApplicable):
            return Case.of(prepared, file)
        return opened_case(prepared, file, example)
    except OSError as error:
        raise LoadFailed(f"check_artifact: {error}") from None
    except ValueError as error:
        raise SpecError(f"check_artifact: {error}") from None


def take_subject(prepared: Prepared, thing: Callable[..., Any]) -> Case:
    """Take a copy of a subject as the artifact of another one, the reference, in the same mode.

    Raises SpecError if one of both lacks a step that the user named, or if it cannot be copied.
    """
    subject = Subject.of(thing).copy()
    if subject.module is not None:
        put_into(subject.module, prepared.plan.mode)
    both = prepared.reference.pristine, subject
    for name, each in itertools.product(prepared.plan.options.steps or (), both):
        if not callable(each.part(name)):
            legal = sorted({*both[0].parts()} & {*both[1].parts()})
            raise SpecError(
                f"steps: {each.name} has no method {name!r}; both have: "
                f"{', '.join(legal) or 'none'}.{nearest(name, legal)}"
            )
    artifact = replace(foreign_callable(subject.function), module=subject.module)
    return Case.of(prepared, artifact, prepared.runner_of(artifact))


def opened_case(prepared: Prepared, file: ForeignFile, example: Returned) -> Case:
    """Copy a file and load it in the clean process. ``example`` is eager's outcome of it.

    Raises LoadFailed, ArtifactCrashed and ArtifactHung.
    """
    plan = prepared.plan
    directory = artifact_directory(plan.target)
    prepared.resources.callback(shutil.rmtree, directory, ignore_errors=True)
    source = source_of(
        plan,
        directory / file.program.name,
        prepared.blocked,
        prepared.reference,
        trusted=False,
        thorough=True,
        fresh=prepared.reference.fresh_each_call,
    )
    saved = SavedArtifact(source=source, plan=plan)
    shutil.copyfile(file.program, source.path)
    # With its sidecars, as whoever serves it moves them too.
    named = targets.get(file.target).traits.sidecars(file.program)
    for name in _texts(SIDECARS, source, plan) if file.target in ONNX else named:
        sidecar, copy = _beside(file.program, name), source.home / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sidecar, copy)
    session = prepared.resources.enter_context(saved.open())
    if session.problem is not None:
        _raise_not_loaded(session, source, plan)
    raise_if_unsound(session.found.get("problems", ()))
    notes = () if session.confined else (UNCONFINED,)
    checked = _checked(replace(file, found=session.found, notes=notes))
    prepared.log.assumed += tuple(
        Assumption(kind="argument", text=f"{name} is {value!r}, forward's default", path=name)
        for name, value in checked.filled_in(prepared.spec.example).items()
    )
    runner = InSandbox(
        artifact=checked,
        open=saved.open,
        left=prepared.call_limit,
        session=session,
    )
    prepared.resources.callback(runner.close)
    return Case.of(prepared, _untransferable(runner, plan, example) or checked, runner, saved)


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
        file.facts.suspicions(file.spec, file.spec.example)
        file.facts.ranges(file.spec.example)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise LoadFailed(
            f"the facts about the loaded file are malformed ({error!r:.200})"
        ) from None
    return file


# -- what is wrong with it -------------------------------------------------------------------------


def _raise_not_loaded(session: SandboxSession, source: Source, plan: Plan) -> None:
    """Raise what is wrong with the file as such, if that is known, else what loading it raised."""
    problem = session.problem
    assert problem is not None
    if isinstance(problem, Raised) and plan.target in ONNX:
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
    plain = replace(source, device="cpu", blocked=(), imports=())
    with opened(plain, plan, function) as called:
        if called.problem is not None and not isinstance(called.problem, Raised):
            raise_not_loaded(called.problem, called.printed(), ())
        texts = called.value if isinstance(called.value, list) else []
        return [text for text in texts if isinstance(text, str)]


# -- the files beside it ---------------------------------------------------------------------------


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
            f"{path.name} wants data from {name}, which is not beside it: move both files together"
        )
    return sidecar


ONNX = ("onnx", "onnx_legacy")
# A default of these types is an input of a file of the legacy exporter; None is left out.
NUMBERS = (bool, int, float)
Number: TypeAlias = bool | int | float


class NeverHere(RuntimeError):
    """Such a file was called in this process."""


@dataclass(frozen=True, kw_only=True)
class ForeignFile:
    """A file as an artifact.

    ``returned`` is eager's value of the example. ``defaults`` are the numbers that forward's
    parameters have as defaults. ``found`` are the facts of the file from the clean process, as
    plain data.
    """

    program: Path
    target: str
    returned: Any
    spec: InputSpec
    defaults: Mapping[str, Number] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)
    module: Any = None
    baked: tuple[str, ...] = ()
    native_loops: bool = False
    notes: tuple[str, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NeverHere("a file that this run did not make is called in a clean process only")

    def save(self, directory: Path) -> Path:
        """Return the file's own path; nothing is written."""
        return self.program

    def pack_inputs(self, call: Call) -> Call:
        """Return the tensors by input name if it has any, all leaves if it is flat, or the call."""
        if not self.named:
            return Call(tuple(call.leaves())) if self.flat else call
        values = self.values(call)
        paths = self.paths(values)
        if paths is None:
            names = self.found["names"]
            absent = [name for name in names if name in self.spec.parameters and name not in values]
            raise TypeError(
                f"the file takes {_listed('input', names)}, the call has "
                f"{_listed('tensor', _of_types(values, torch.Tensor))}: "
                + (
                    f"pass {', '.join(absent)} in the call too"
                    if absent
                    else "give its inputs the names of forward's parameters (input_names=...), or "
                    "export it with all of them"
                )
            )
        return packed(paths, [values[path] for path in paths.values()])

    def unpack_outputs(self, value: Any) -> Any:
        """Return eager's pytree of a flat list, if it has as many outputs."""
        if not self.named:
            if not self.flat:
                return value
            leaves, structure = flatten(self.returned)
            # ExecuTorch returns the new values of inputs that it changes before the others.
            more = len(value) - len(leaves)
            return structure.unflatten(value[more:]) if more >= 0 else value
        return OnnxOutputs.of(self.returned, len(value)).unpack(value)

    @property
    def named(self) -> bool:
        """Return True if the file names its inputs, with the shape of each."""
        return "names" in self.found

    @property
    def flat(self) -> bool:
        return targets.get(self.target).traits.flat

    @property
    def facts(self) -> ForeignFacts:
        # Another file runs code of its own, and may say anything.
        precision = str(self.found.get("precision", "")) if self.named else ""
        return ForeignFacts(file=self, notes=self.notes, precision=precision)

    def values(self, call: Call) -> dict[str, Any]:
        """Return the values of a call by path, and after them the defaults that it leaves out.

        ``torch.onnx.export(dynamo=False)`` makes inputs of those too.
        """
        given = {*self.spec.parameters[: len(call.args)], *call.kwargs}
        left_out = {name: value for name, value in self.defaults.items() if name not in given}
        return {**dict(self.spec.flatten(call)), **left_out}

    def paths(self, values: Mapping[str, Any]) -> dict[str, str] | None:
        """Return the path of the value that each input takes, by the input's name.

        An input takes the value of its own name, the others take the remaining tensors in order, or
        the remaining tensors and numbers, if inputs without axes take these. None if neither are as
        many as the inputs.
        """
        shapes = dict(zip(self.found["names"], self.found["shapes"], strict=True))
        agreed = {name: name for name in shapes if name in values}
        others = [name for name in shapes if name not in agreed]
        if not others:
            return agreed
        for types in (torch.Tensor, (torch.Tensor, *NUMBERS)):
            left = [path for path in _of_types(values, types) if path not in agreed]
            taken = dict(zip(others, left, strict=False))
            if len(others) == len(left) and not any(
                shapes[name] and isinstance(values[path], NUMBERS) for name, path in taken.items()
            ):
                return agreed | taken
        return None

    def filled_in(self, call: Call) -> dict[str, Number]:
        """Return the defaults, by parameter, that an ONNX file takes and a call leaves out."""
        if not self.named:
            return {}
        values = self.values(call)
        given = dict(self.spec.flatten(call))
        taken = (self.paths(values) or {}).values()
        return {path: values[path] for path in taken if path not in given}


@dataclass(frozen=True, kw_only=True)
class ForeignFacts(ProgramFacts):
    file: ForeignFile

    def inputs(self) -> tuple[str, ...]:
        return tuple(self.file.found.get("names", ()))

    def suspicions(self, spec: InputSpec, example: Call) -> tuple[Suspicion, ...]:
        found = self.file.found
        if self.file.named:
            shapes = dict(zip(found["names"], found["shapes"], strict=True))
            paths = self.file.paths(self.file.values(example))
            by_path = {path: tuple(shapes[name]) for name, path in (paths or {}).items()}
            own = [by_path.get(leaf.path) for leaf in spec.leaves]
            return suspicions(spec, SizeFacts.of_inputs(own), dropped=True)
        sizes = found.get("sizes")
        return suspicions(spec, SizeFacts.from_plain(sizes)) if sizes is not None else ()

    def ranges(self, example: Call) -> Mapping[str, tuple[float, float]]:
        found = self.file.found.get("ranges") if self.file.named else None
        if not found:
            return {}
        paths = self.file.paths(self.file.values(example)) or {}
        return {
            paths[name]: (float(low), float(high))
            for name, (low, high) in found.items()
            if name in paths and math.isfinite(low) and math.isfinite(high)
        }

    def branches(self) -> Branches | None:
        plain = self.file.found.get("branches")
        return Branches.from_plain(plain) if plain is not None else None


def _of_types(values: Mapping[str, Any], types: type | tuple[type, ...]) -> list[str]:
    return [path for path, value in values.items() if isinstance(value, types)]


def _listed(what: str, names: Sequence[str]) -> str:
    return (
        f"{len(names)} {what}{'s' * (len(names) != 1)} ({', '.join(names)})"
        if names
        else f"no {what}"
    )


def foreign_file(
    path: Path,
    target: str,
    example: Returned,
    spec: InputSpec,
    signature: inspect.Signature | None = None,
) -> ForeignFile | NotApplicable:
    """Return the artifact for a path, without its facts. Raises OSError or ValueError if wrong."""
    suffix, traits = path.suffix.lower(), targets.get(target).traits
    others = None if suffix in traits.suffixes else _judged_by_others(path)
    _look_at(path)
    if others is not None:
        return others
    try:
        reason = traits.takes(path)
    except Exception as error:
        text = f"target {target!r} cannot look into {path.name!r}: {error!r}"
        raise ValueError(text) from error
    if reason:
        return NotApplicable(f"{path.name}: {reason}")
    parameters = signature.parameters.values() if signature is not None else ()
    return ForeignFile(
        program=path,
        target=target,
        returned=example.value,
        spec=spec,
        defaults={p.name: p.default for p in parameters if isinstance(p.default, NUMBERS)},
    )


def _judged_by_others(path: Path) -> NotApplicable:
    """Return which targets judge such a file. Raises ValueError if none does."""
    owners = dict[str, tuple[str, ...]]()
    for name in names.targets():
        with contextlib.suppress(ImportError):  # another package's, which is broken
            owners[name] = targets.get(name).traits.suffixes
    judges = [name for name, suffixes in owners.items() if path.suffix.lower() in suffixes]
    if not judges:
        legal = dict.fromkeys(itertools.chain.from_iterable(owners.values()))
        raise ValueError(f"{path.name!r} is no artifact; legal: {', '.join(legal)}")
    return NotApplicable(f"a {path.suffix} file is judged by {' and '.join(judges)}")


def _look_at(path: Path) -> None:
    """Raise OSError if it is no file. Nothing is opened: opening a pipe may never return."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: give the file in it")
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(f"{path} is a link that leads to no file")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if not path.is_file():
        raise OSError(f"{path} is no regular file, but a pipe, a socket or a device")


def foreign_callable(thing: Callable[..., Any]) -> DirectArtifact:
    """Return the artifact for a callable. Raises ValueError if it is not callable."""
    if not callable(thing):
        raise ValueError(f"{thing!r:.80} is neither a path nor callable")
    state = thing if isinstance(thing, torch.nn.Module) else None
    return DirectArtifact(program=thing, module=state, run=thing, native_loops=has_loops(thing))

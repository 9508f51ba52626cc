"""Artifacts from elsewhere: a file of the team's own export script, or any callable.

A file is never loaded in this process, because loading can run code that it holds
(``torch.export.load`` of a tampered ``.pt2`` does): its facts come from the clean process.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch

from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.outcomes.observe import Returned
from pytest_torchexport.targets.base import DirectArtifact, NotApplicable
from pytest_torchexport.targets.formats.branches import Branches
from pytest_torchexport.targets.formats.facts import ProgramFacts
from pytest_torchexport.targets.formats.onnx_values import EagerValue, packed
from pytest_torchexport.targets.formats.size_facts import SizeFacts
from pytest_torchexport.targets.formats.sizes import Suspicion, suspicions
from pytest_torchexport.targets.formats.torchscript import has_loops

# The targets that judge a file, by its suffix: a .pt may be a trace or a script.
SUFFIXES: dict[str, tuple[str, ...]] = {
    ".pt": ("trace", "script"),
    ".pth": ("trace", "script"),
    ".pt2": ("export",),
    ".onnx": ("onnx", "onnx_legacy"),
}
FLAT = ("onnx", "onnx_legacy")
KINDS = {
    kind.name: kind
    for kind in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.KEYWORD_ONLY,
        inspect.Parameter.VAR_KEYWORD,
    )
}
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
    returned: EagerValue
    spec: InputSpec
    defaults: Mapping[str, Number] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)
    module: Any = None
    baked: tuple[str, ...] = ()
    native_loops: bool = False
    notes: tuple[str, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raise NeverHere."""
        raise NeverHere("a file that this run did not make is called in a clean process only")

    def save(self, directory: Path) -> Path:
        """Return the file's own path; nothing is written."""
        return self.program

    def pack_inputs(self, call: Call) -> Call:
        """Return the tensors by input name for ONNX, else the call itself."""
        if self.target not in FLAT:
            return call
        values = self.values(call)
        paths = self.paths(values)
        if paths is None:
            raise TypeError(self._uneven(values))
        return packed(paths, [values[path] for path in paths.values()])

    def _uneven(self, values: Mapping[str, Any]) -> str:
        """Return that there is not a value for each input, and the next step."""
        names = self.found["names"]
        absent = [name for name in names if name in self.spec.parameters and name not in values]
        return (
            f"the file takes {_listed('input', names)}, the call has "
            f"{_listed('tensor', _of_types(values, torch.Tensor))}: "
        ) + (
            f"pass {', '.join(absent)} in the call too"
            if absent
            else "give its inputs the names of forward's parameters (input_names=...), or export "
            "it with all of them"
        )

    def unpack_outputs(self, value: Any) -> Any:
        """Return eager's pytree of an ONNX file's flat list, if it has as many outputs."""
        if self.target not in FLAT:
            return value
        return self.returned.outputs(len(value)).unpack(value)

    @property
    def facts(self) -> ForeignFacts:
        """The facts that the clean process found in it."""
        return ForeignFacts(file=self, notes=self.notes)

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
        if self.target not in FLAT:
            return {}
        values = self.values(call)
        given = dict(self.spec.flatten(call))
        taken = (self.paths(values) or {}).values()
        return {path: values[path] for path in taken if path not in given}


@dataclass(frozen=True, kw_only=True)
class ForeignFacts(ProgramFacts):
    """The facts that the clean process found in a file."""

    file: ForeignFile

    def signature(self) -> inspect.Signature | None:
        """Return the arguments of a program of torch's."""
        plain = self.file.found.get("arguments")
        if plain is None:
            return None
        parameters = [
            inspect.Parameter(
                name,
                KINDS[kind],
                default=None if optional else inspect.Parameter.empty,
            )
            for name, kind, optional in plain
        ]
        return inspect.Signature(parameters)

    def inputs(self) -> tuple[str, ...]:
        """Return the names of an ONNX file's inputs."""
        return tuple(self.file.found.get("names", ()))

    def suspicions(self, spec: InputSpec, example: Call) -> tuple[Suspicion, ...]:
        """Return what the file's own sizes make doubtful."""
        found = self.file.found
        if self.file.target in FLAT:
            shapes = dict(zip(found["names"], found["shapes"], strict=True))
            paths = self.file.paths(self.file.values(example))
            by_path = {path: tuple(shapes[name]) for name, path in (paths or {}).items()}
            own = [by_path.get(leaf.path) for leaf in spec.leaves]
            return suspicions(spec, SizeFacts.of_inputs(own), dropped=True)
        sizes = found.get("sizes")
        return suspicions(spec, SizeFacts.from_plain(sizes)) if sizes is not None else ()

    def outputs(self) -> tuple[tuple[int | None, ...], ...]:
        """Return the sizes that an ONNX file declares for its outputs."""
        return tuple(map(tuple, self.file.found.get("outputs", ())))

    def branches(self) -> Branches | None:
        """Return the branches and loops that the file still has."""
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
    owners = SUFFIXES.get(path.suffix.lower())
    if owners is None:
        raise ValueError(f"{path.name!r} is no artifact; legal: {', '.join(SUFFIXES)}")
    _look_at(path)
    if target not in owners:
        return NotApplicable(f"a {path.suffix} file is judged by {' and '.join(owners)}")
    parameters = signature.parameters.values() if signature is not None else ()
    return ForeignFile(
        program=path,
        target=target,
        returned=EagerValue.of(example.value),
        spec=spec,
        defaults={p.name: p.default for p in parameters if isinstance(p.default, NUMBERS)},
    )


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

    def refuse(path: Path) -> None:
        raise NotImplementedError("a callable has no file")

    state = thing if isinstance(thing, torch.nn.Module) else None
    return DirectArtifact(
        program=thing,
        module=state,
        run=thing,
        write=refuse,
        filename="",
        native_loops=has_loops(thing),
    )

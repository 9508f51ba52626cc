"""``torch.jit.trace``: the operations of one call; what Python decided in it is constant."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.outcomes.subject import as_module, signature_of
from pytest_torchexport.targets.base import DirectArtifact, NotApplicable, TargetTraits
from pytest_torchexport.targets.formats import torchscript
from pytest_torchexport.targets.torchscript_shared import (
    CRASHES_ON_CAUGHT_ERRORS,
    TRACING,
    FlatModule,
    artifact_fields,
    constant_arguments,
)


@dataclass(frozen=True, kw_only=True)
class FlatArtifact(DirectArtifact):
    """A trace of a FlatModule: takes the tensors in order."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it on the call's tensors."""
        return self.run(*self.pack_inputs(Call(args, kwargs)).args)

    def pack_inputs(self, call: Call) -> Call:
        """Return the call's tensors, in order."""
        return Call(call.tensors())


@dataclass(frozen=True, kw_only=True)
class PositionalArtifact(DirectArtifact):
    """A trace of a subject called by position. ``names`` are those of its keyword arguments."""

    names: tuple[str, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it with the keyword arguments in their positions."""
        return self.run(*self.pack_inputs(Call(args, kwargs)).args)

    def pack_inputs(self, call: Call) -> Call:
        """Return the call with its keyword arguments in their positions."""
        return Call((*call.args, *(call.kwargs[name] for name in self.names)))


class Trace:
    """The target ``trace``."""

    traits = TargetTraits(
        crashes_on_caught_errors=CRASHES_ON_CAUGHT_ERRORS,
        read=torchscript.read,
        script=torchscript.SCRIPT,
        answers=TRACING,
    )

    def unavailable(self, device: str) -> str | None:
        """Return why there is no ``torch.jit.trace``, None if there is."""
        return None if hasattr(torch.jit, "trace") else "this torch has no torch.jit.trace"

    def export(
        self, module: Callable[..., Any], example: Call, spec: InputSpec, **options: Any
    ) -> DirectArtifact | NotApplicable:
        """Trace the subject on the example, without torch's own check of the trace."""
        extra = options.pop("_extra_files", {})
        arguments = {"check_trace": False, "strict": False, **options}
        names = _positions(signature_of(module), example)
        if names is not None and all(map(_traceable, [*example.args, *example.kwargs.values()])):
            inputs = (*example.args, *(example.kwargs[name] for name in names))
            program = _trace(_traceable_subject(module), inputs, arguments)
            return PositionalArtifact(names=names, **artifact_fields(program, extra))
        program = _trace(FlatModule.of(module, example), example.tensors(), arguments)
        baked = constant_arguments(spec, example)
        return FlatArtifact(baked=baked, **artifact_fields(program, extra))

    def load(self, path: Path, device: str) -> Callable[..., Any]:
        """Load the file onto the device."""
        return torchscript.load(path, device)


def _traceable_subject(module: Callable[..., Any]) -> Callable[..., Any]:
    """Return the subject as a function or a module whose ``forward`` it is."""
    method = isinstance(getattr(module, "__self__", None), torch.nn.Module)
    return as_module(module) if method else module


def _trace(module: Callable[..., Any], inputs: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
    return torch.jit.trace(module, inputs, **arguments)  # type: ignore[no-untyped-call]


def _traceable(value: Any) -> bool:
    """Return True if trace takes the argument: tensors in tuples and lists, or in a dict by str."""
    if isinstance(value, torch.Tensor):
        return True
    if type(value) in (tuple, list):
        return bool(value) and all(map(_traceable, value))
    if type(value) is dict:
        tensors = all(isinstance(item, torch.Tensor) for item in value.values())
        return bool(value) and tensors and all(isinstance(key, str) for key in value)
    return False


def _positions(signature: inspect.Signature | None, call: Call) -> tuple[str, ...] | None:
    """Return the keywords in the order in which they continue the positional arguments.

    None if they do not, or if the call has no argument.
    """
    if not call.args and not call.kwargs:
        return None
    if not call.kwargs:
        return ()
    if signature is None:
        return None
    ordered = [
        name
        for name, item in signature.parameters.items()
        if item.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    rest = ordered[len(call.args) : len(call.args) + len(call.kwargs)]
    return tuple(rest) if set(rest) == set(call.kwargs) else None


TARGET = Trace()

"""``torch.jit.trace``: the operations of one call, whatever Python decided on the way."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import Structure, describe
from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.outcomes.subject import as_module, signature_of
from pytest_torchexport.targets.base import DirectArtifact, NotApplicable, TargetTraits
from pytest_torchexport.targets.formats import torchscript
from pytest_torchexport.targets.script import script_fields

# A minimal case: try: x.view(7) except RuntimeError: ... (seen with torch 2.13: SIGSEGV).
CAUGHT = (
    "forward catches what an operation raises on the example, and torch.jit.trace does not survive that: tried in "
    "a process of its own, it was killed. Ask beforehand whether it would raise, or give an example on which nothing does"
)


class FlatModule(torch.nn.Module):
    """A subject as a function of its tensors alone: what ``trace`` refuses (numbers, None, unknown
    containers) is closed over.
    """

    def __init__(
        self, inner: torch.nn.Module, structure: Structure, leaves: tuple[Any, ...]
    ) -> None:
        super().__init__()
        self.owner = inner
        self.training = inner.training
        self._structure = structure
        self._leaves = leaves

    def forward(self, *tensors: torch.Tensor) -> Any:
        """Put the tensors back among the constants and call the subject."""
        waiting = iter(tensors)
        leaves = [
            next(waiting) if isinstance(leaf, torch.Tensor) else leaf for leaf in self._leaves
        ]
        args, kwargs = self._structure.unflatten(leaves)
        return self.owner(*args, **kwargs)


@dataclass(frozen=True, kw_only=True)
class FlatArtifact(DirectArtifact):
    """A trace of a FlatModule: takes the tensors in order."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it on the call's tensors."""
        flat = self.pack_inputs(Call(args, kwargs))
        return self.run(*flat.args)

    def pack_inputs(self, call: Call) -> Call:
        """The call's tensors, in order."""
        return Call(call.tensors())


@dataclass(frozen=True, kw_only=True)
class PositionalArtifact(DirectArtifact):
    """A trace of a subject whose arguments are all handed over in order."""

    names: tuple[str, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it with the keyword arguments in their places."""
        flat = self.pack_inputs(Call(args, kwargs))
        return self.run(*flat.args)

    def pack_inputs(self, call: Call) -> Call:
        """The call with its keyword arguments in their places."""
        return Call((*call.args, *(call.kwargs[name] for name in self.names)))


class Trace:
    """The target."""

    traits = TargetTraits(crashes_on_caught_errors=CAUGHT, read=torchscript.read)

    def unavailable(self, device: str) -> str | None:
        """Gone with torch versions that no longer have TorchScript."""
        return None if hasattr(torch.jit, "trace") else "this torch has no torch.jit.trace"

    def export(
        self, module: Callable[..., Any], example: Call, spec: InputSpec, **options: Any
    ) -> DirectArtifact | NotApplicable:
        """Trace on the example, unchecked: checking is our business."""
        extra = options.pop("_extra_files", {})
        arguments = {"check_trace": False, "strict": False, **options}
        leaves = spec.flatten(example)
        names = _positions(signature_of(module), example)
        if names is not None and all(map(_traceable, [*example.args, *example.kwargs.values()])):
            inputs = (*example.args, *(example.kwargs[name] for name in names))
            program = _trace(_traceable_subject(module), inputs, arguments)
            return PositionalArtifact(names=names, **script_fields(program, extra))
        baked = tuple(
            f"{path}={describe(leaf)}"
            for path, leaf in leaves
            if not isinstance(leaf, torch.Tensor)
        )
        ordered, structure = example.flatten()
        values = tuple(leaf for _, leaf in ordered)
        flat = FlatModule(as_module(module), structure, _without_tensors(values))
        tensors = tuple(leaf for leaf in values if isinstance(leaf, torch.Tensor))
        program = _trace(flat, tensors, arguments)
        return FlatArtifact(baked=baked, **script_fields(program, extra))

    def load(self, path: Path, device: str) -> Callable[..., Any]:
        """``torch.jit.load`` on the device."""
        return torchscript.load(path, device)


def _traceable_subject(module: Callable[..., Any]) -> Callable[..., Any]:
    """``trace`` takes functions and modules; of a module's other methods it knows only ``forward``."""
    method = isinstance(getattr(module, "__self__", None), torch.nn.Module)
    return as_module(module) if method else module


def _trace(module: Callable[..., Any], inputs: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
    return torch.jit.trace(module, inputs, **arguments)  # type: ignore[no-untyped-call]


def _traceable(value: Any) -> bool:
    """Whether trace takes the argument as it is: tensors in plain tuples and lists, or in a dict by str."""
    if isinstance(value, torch.Tensor):
        return True
    if type(value) in (tuple, list):
        return bool(value) and all(map(_traceable, value))
    if type(value) is dict:
        tensors = all(isinstance(item, torch.Tensor) for item in value.values())
        return bool(value) and tensors and all(isinstance(key, str) for key in value)
    return False


def _positions(signature: inspect.Signature | None, call: Call) -> tuple[str, ...] | None:
    """The keyword arguments in the order in which they continue the positional ones; None with a gap."""
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


def _without_tensors(leaves: tuple[Any, ...]) -> tuple[Any, ...]:
    # A placeholder keeps each tensor's place without holding the example's memory.
    return tuple(torch.empty(0) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves)


TARGET = Trace()

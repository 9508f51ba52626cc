"""``torch.jit.trace``: the operations of one call; what Python decided in it is constant."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.outcomes.subject import as_module, signature_of
from pytest_torchexport.targets.base import (
    CRASHES_ON_CAUGHT_ERRORS,
    TRACING,
    DirectArtifact,
    NotApplicable,
    TargetTraits,
)
from pytest_torchexport.targets.capturing import FlatModule, constant_arguments
from pytest_torchexport.targets.formats import torchscript


@dataclass(frozen=True, kw_only=True)
class Traced(DirectArtifact):
    """A trace, which takes what ``given`` returns of a call, by position."""

    given: Callable[[Call], tuple[Any, ...]]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*self.given(Call(args, kwargs)))

    def pack_inputs(self, call: Call) -> Call:
        return Call(self.given(call))


class Trace:
    traits = TargetTraits(
        crashes_on_caught_errors=CRASHES_ON_CAUGHT_ERRORS,
        read=torchscript.read,
        suffixes=torchscript.SUFFIXES,
        leaves_out_casts=torchscript.FUSES_ON,
        script=torchscript.SCRIPT,
        for_cpp=torchscript.write_arguments,
        answers=TRACING,
    )

    load = staticmethod(torchscript.load)

    def unavailable(self, device: str) -> str | None:
        return None if hasattr(torch.jit, "trace") else "this torch has no torch.jit.trace"

    def export(
        self, module: Callable[..., Any], example: Call, spec: InputSpec, **options: Any
    ) -> DirectArtifact | NotApplicable:
        """Trace the subject on the example, without torch's own check of the trace."""
        extra = options.pop("_extra_files", {})
        arguments = {"check_trace": False, "strict": False, **options}
        names = _positions(signature_of(module), example)
        whole = [*example.args, *example.kwargs.values()]
        flat = names is None or not all(map(_is_traceable, whole))
        baked: tuple[str, ...] = ()
        if flat:
            module, baked = FlatModule(module, example), constant_arguments(spec, example)
        elif isinstance(getattr(module, "__self__", None), torch.nn.Module):
            module = as_module(module)

        def given(call: Call) -> tuple[Any, ...]:
            return call.tensors() if flat else (*call.args, *(call.kwargs[n] for n in names or ()))

        program = torch.jit.trace(module, given(example), **arguments)  # type: ignore[no-untyped-call]
        return Traced(given=given, baked=baked, **torchscript.artifact_fields(program, extra))


def _is_traceable(value: Any) -> bool:
    """Return True if trace takes the argument: tensors in tuples and lists, or in a dict by str."""
    if isinstance(value, torch.Tensor):
        return True
    if type(value) in (tuple, list):
        return bool(value) and all(map(_is_traceable, value))
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

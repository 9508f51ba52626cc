"""Capture of a subject, as several exporters do it: by a trace, or by ``torch.export``."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchexport.inputs.dynamic_shapes import dynamic_shapes, spelled
from pytest_torchexport.inputs.pytrees import describe, leaves_of
from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.outcomes.messages import is_about_dims, line_of
from pytest_torchexport.outcomes.operator_table import of_kind
from pytest_torchexport.outcomes.subject import as_module, signature_of, spelled_out
from pytest_torchexport.torch_private.between_exports import forget_decompositions
from pytest_torchexport.torch_private.circumstances import dynamo_is_loaded
from pytest_torchexport.torch_private.symbolic_sizes import callers_kept

# -- a trace ---------------------------------------------------------------------------------------


class FlatModule(torch.nn.Module):
    """A subject as a function of its tensors alone, in the order of the call's leaves.

    Arguments that ``trace`` refuses (numbers, None, unknown containers) become constants.
    """

    def __init__(self, subject: Callable[..., Any], example: Call) -> None:
        super().__init__()
        self.owner = as_module(subject)
        self.training = self.owner.training
        leaves, self._structure = example.flatten()
        # A placeholder keeps each tensor's place without holding the example's memory.
        self._leaves = tuple(
            torch.empty(0) if isinstance(leaf, torch.Tensor) else leaf for _, leaf in leaves
        )

    def forward(self, *tensors: torch.Tensor) -> Any:
        waiting = iter(tensors)
        leaves = [
            next(waiting) if isinstance(leaf, torch.Tensor) else leaf for leaf in self._leaves
        ]
        args, kwargs = self._structure.unflatten(leaves)
        return self.owner(*args, **kwargs)


class TensorsOnly(FlatModule):
    """It returns the tensors of what the subject returns, in a tuple."""

    def forward(self, *tensors: torch.Tensor) -> Any:
        leaves = leaves_of(super().forward(*tensors))
        return tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))


def value_of(subject: Callable[..., Any], example: Call) -> Any:
    """Return what the subject returns for the example; a module and its inputs stay as they are."""
    own = example.clone()
    twin = copy.deepcopy(subject) if isinstance(subject, torch.nn.Module) else subject
    return twin(*own.args, **own.kwargs)


def constant_arguments(spec: InputSpec, example: Call) -> tuple[str, ...]:
    """Return the arguments that a FlatModule makes constants, each as ``path=value``."""
    return tuple(
        f"{path}={describe(leaf)}"
        for path, leaf in spec.flatten(example)
        if not isinstance(leaf, torch.Tensor)
    )


# -- torch.export ----------------------------------------------------------------------------------

FROZEN = (
    "the exporter silently made a dim static that varies ({dims}): forward makes a Python number "
    "of a size (int(x.shape[0]), a loop, a fixed view); the target export names the line"
)


@dataclass(frozen=True)
class Capturable:
    """A subject in the form that ``torch.export`` takes, with notes on how it differs from it."""

    module: torch.nn.Module
    signature: inspect.Signature | None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, subject: Callable[..., Any], example: Call, spec: InputSpec) -> Capturable:
        varies = spec.dims and spec.dynamic_shapes is None
        if varies and spec.holders:
            classes = ", ".join(holder.__name__ for holder in spec.holders)
            note = (
                f"exported at the example's sizes: torch.export has no dynamic shapes for a call "
                f"with {classes}"
            )
            return cls(as_module(subject), signature_of(subject), (note,))
        named = spelled_out(subject, example.kwargs) if varies else None
        if named is None:
            return cls(as_module(subject), signature_of(subject))
        note = (
            "exported through a wrapper that names all keywords of the call: torch.export has no "
            "dynamic shapes for **kwargs"
        )
        return cls(named, signature_of(named), (note,))


@dataclass(frozen=True)
class Exported:
    """A program, the dims as they were given to its exporter, and what its facts say of that.

    ``doubts``: another spelling of the dims gave a program with a static one, without a word.
    """

    program: Any
    dynamic_shapes: Any
    notes: tuple[str, ...]
    cautions: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def exported(
    export: Callable[[Any], Any],
    subject: Capturable,
    example: Call,
    spec: InputSpec,
    frozen: Callable[[Any], Sequence[str]] = lambda _: (),
) -> Exported:
    """Export with each spelling of the dims until one keeps them; else the first program made.

    ``export`` is given the dims; ``frozen`` returns those that a program has made static. Raises
    the exporter's first exception if no spelling gives a program.
    """
    first: Exception | None = None
    narrowed: Exported | None = None
    earlier: list[str] = []
    for shapes in dynamic_shapes(spec, example, subject.signature):
        forget_earlier_exports()
        try:
            with callers_kept(line_of):
                program = export(shapes)
        except Exception as error:
            first = first or error
            if not is_about_dims(error):
                break
            earlier.append(f"the exporter refuses dynamic_shapes={spelled(shapes)}")
            continue
        finally:
            forget_earlier_exports()
        static = frozen(program) if shapes is not None else ()
        if not static:
            use = f"exported with dynamic_shapes={spelled(shapes)}: write them so in your export"
            told = (f"{'; '.join(earlier)}; {use} script too",) if earlier else ()
            if narrowed is not None:
                return Exported(program, shapes, subject.notes, doubts=told)
            return Exported(program, shapes, subject.notes, told)
        note = FROZEN.format(dims=", ".join(static))
        narrowed = narrowed or Exported(program, shapes, (*subject.notes, note))
        earlier.append(
            f"with dynamic_shapes={spelled(shapes)} the exporter silently makes "
            f"{', '.join(static)} static"
        )
    if narrowed is None:
        assert first is not None
        raise first
    return narrowed


def forget_earlier_exports() -> None:
    """Forget what earlier exports in this process left behind and would change the next one.

    torch.onnx.export swaps the decomposition of ``aten.lstm`` and ``aten.gru`` without clearing the
    operator's dispatch cache, and dynamo remembers which sizes of a loop's body were static: either
    makes a declared dynamic time axis static in the next export.
    """
    for name in of_kind("recurrent"):
        overload = getattr(getattr(torch.ops.aten, name, None), "input", None)
        forget_decompositions(overload)
    if dynamo_is_loaded():
        torch.compiler.reset()

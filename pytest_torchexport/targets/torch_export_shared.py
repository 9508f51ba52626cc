"""Code that the exporters on top of ``torch.export`` share: ``export`` and ``onnx``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchexport.inputs.dynamic_shapes import spelled
from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.outcomes.operator_table import of_kind
from pytest_torchexport.outcomes.subject import as_module, signature_of, spelled_out
from pytest_torchexport.torch_private.between_exports import forget_decompositions
from pytest_torchexport.torch_private.circumstances import dynamo_is_loaded

EXPORTING = {"torch.compiler.is_compiling": True, "torch.compiler.is_exporting": True}
REFUSES = "the exporter refuses dynamic_shapes={shapes}"
FREEZES = "with dynamic_shapes={shapes} the exporter silently makes a dim static that varies"


def respelled(earlier: Sequence[str], shapes: Any) -> tuple[str, ...]:
    """Return what to know if the dims had to be written in another way than the usual one.

    ``earlier`` says what became of the ways tried before ``shapes``.
    """
    if not earlier:
        return ()
    use = f"exported with dynamic_shapes={spelled(shapes)}: write them so in your export script too"
    return (f"{'; '.join(earlier)}; {use}",)


@dataclass(frozen=True)
class Capturable:
    """A subject in the form that ``torch.export`` takes, with notes on how it differs from it."""

    module: torch.nn.Module
    signature: inspect.Signature | None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, subject: Callable[..., Any], example: Call, spec: InputSpec) -> Capturable:
        """Return the form of a subject, wrapped if ``**kwargs`` are to have dynamic shapes."""
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

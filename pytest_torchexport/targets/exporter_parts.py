"""Code that exporters share: on TorchScript, on top of ``torch.export``, and to ONNX."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.dynamic_shapes import dynamic_shapes, spelled
from pytest_torchexport.inputs.pytrees import Structure, describe, flatten
from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.outcomes.messages import is_about_dims
from pytest_torchexport.outcomes.operator_table import of_kind
from pytest_torchexport.outcomes.subject import as_module, signature_of, spelled_out
from pytest_torchexport.targets.formats import torchscript
from pytest_torchexport.targets.formats.onnx_model import FILENAME, OnnxModelFacts
from pytest_torchexport.targets.formats.onnx_runtime import OpenFile, TensorFile, named
from pytest_torchexport.torch_private.between_exports import forget_decompositions
from pytest_torchexport.torch_private.circumstances import dynamo_is_loaded

# -- TorchScript: trace, script and onnx_legacy ----------------------------------------------------

# torch.jit.trace runs forward in Python.
TRACING = {"torch.jit.is_tracing": True, "torch._C._get_tracing_state": True}
# A minimal case: try: x.view(7) except RuntimeError: ... (seen with torch 2.13: SIGSEGV).
CRASHES_ON_CAUGHT_ERRORS = (
    "forward catches what an operation raises on the example, and torch.jit.trace does not survive "
    "that: tried in a process of its own, it was killed. Ask beforehand whether it would raise, or "
    "give an example on which nothing does"
)


class FlatModule(torch.nn.Module):
    """A subject as a function of its tensors alone, in the order of the call's leaves.

    Arguments that ``trace`` refuses (numbers, None, unknown containers) become constants.
    """

    def __init__(
        self, inner: torch.nn.Module, structure: Structure, leaves: tuple[Any, ...]
    ) -> None:
        super().__init__()
        self.owner = inner
        self.training = inner.training
        self._structure = structure
        # A placeholder keeps each tensor's place without holding the example's memory.
        self._leaves = tuple(
            torch.empty(0) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves
        )

    @classmethod
    def of(cls, subject: Callable[..., Any], example: Call) -> FlatModule:
        leaves, structure = example.flatten()
        return cls(as_module(subject), structure, tuple(leaf for _, leaf in leaves))

    def forward(self, *tensors: torch.Tensor) -> Any:
        waiting = iter(tensors)
        leaves = [
            next(waiting) if isinstance(leaf, torch.Tensor) else leaf for leaf in self._leaves
        ]
        args, kwargs = self._structure.unflatten(leaves)
        return self.owner(*args, **kwargs)


def constant_arguments(spec: InputSpec, example: Call) -> tuple[str, ...]:
    """Return the arguments that a FlatModule makes constants, each as ``path=value``."""
    return tuple(
        f"{path}={describe(leaf)}"
        for path, leaf in spec.flatten(example)
        if not isinstance(leaf, torch.Tensor)
    )


def artifact_fields(program: Any, extra_files: Mapping[str, str | bytes]) -> dict[str, Any]:
    return {
        "program": program,
        "module": program if isinstance(program, torch.nn.Module) else None,
        "run": program,
        "write": lambda path: torchscript.save(program, path, extra_files),
        "filename": torchscript.FILENAME,
        "native_loops": torchscript.has_loops(program),
        "facts": torchscript.TorchScriptFacts(program=program),
    }


# -- on top of torch.export ------------------------------------------------------------------------

EXPORTING = {"torch.compiler.is_compiling": True, "torch.compiler.is_exporting": True}
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
    """A program, the dims as they were given to its exporter, notes and cautions."""

    program: Any
    dynamic_shapes: Any
    notes: tuple[str, ...]
    cautions: tuple[str, ...] = ()


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
            return Exported(program, shapes, subject.notes, told)
        note = FROZEN.format(dims=", ".join(static))
        narrowed = narrowed or Exported(program, shapes, (*subject.notes, note))
        earlier.append(
            f"with dynamic_shapes={spelled(shapes)} the exporter silently makes a dim static that "
            "varies"
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


# -- ONNX ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OnnxArtifact:
    """An ONNX model with its session.

    ``names`` are those of the graph's inputs, ``inputs`` returns their values of a call. ``write``
    saves the model in a directory. ``opened`` is the session that the export opened; None if its
    weights are large, so that they are in memory only once the artifact is called here.
    ``unoptimized`` are the options with which the exporter leaves its optimizer out.
    """

    program: Any
    names: tuple[str, ...]
    inputs: Callable[[Call], Iterable[Any]]
    outputs: OnnxOutputs
    write: Callable[[Path], None]
    opened: TensorFile | None
    device: str
    native_loops: bool
    facts: OnnxModelFacts
    unoptimized: Mapping[str, Any]
    baked: tuple[str, ...] = ()
    module: Any = None
    dynamic_shapes: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.unpack_outputs(self.session(**self.pack_inputs(Call(args, kwargs)).kwargs))

    def show(self, call: Call, see: Callable[[str, Any], None]) -> Any:
        """Run it, and show the values that it decides on."""
        return self.unpack_outputs(self._open.show(self.pack_inputs(call).kwargs, see))

    @cached_property
    def session(self) -> TensorFile:
        if self.opened is not None:
            return self.opened
        with tempfile.TemporaryDirectory(prefix="torchexport-") as directory:
            return TensorFile(self.save(Path(directory)), self.device)

    @cached_property
    def _open(self) -> OpenFile:
        return OpenFile(self.save, self.device)

    def with_session(self, session: Any) -> OnnxArtifact:
        """Return the artifact with its calls made by another session of its inputs and outputs."""
        return replace(self, opened=session)

    def served(self, call: Call) -> Callable[[], Any]:
        return self.session.prepared(self.pack_inputs(call).kwargs)

    def save(self, directory: Path) -> Path:
        """Write ``model.onnx`` and, if its weights are apart, the files that hold them."""
        self.write(directory)
        return directory / FILENAME

    def pack_inputs(self, call: Call) -> Call:
        """Return the values by input name. Other arguments are constants, and vanish."""
        return packed(self.names, self.inputs(call))

    def unpack_outputs(self, value: Any) -> Any:
        """Return eager's pytree of what the graph returned and of the constants it leaves out."""
        return self.outputs.unpack([tensor.to(self.device) for tensor in value])

    def pack_outputs(self, value: Any) -> dict[str, torch.Tensor] | None:
        """Return by path what the graph would return for a value of eager's; None if it cannot."""
        return self.outputs.pack(value)


def packed(names: Iterable[str], values: Iterable[Any]) -> Call:
    """Return the call of an ONNX file: a value for each input name, complex ones as pairs."""
    return Call((), named(dict(zip(names, values, strict=True))))


@dataclass(frozen=True, kw_only=True)
class Output:
    """A leaf of eager's value that the graph returns.

    ``is_number`` if eager has a Python number, which is a tensor in the graph; ``is_complex`` if
    eager has a complex tensor, which is pairs of reals in the graph.
    """

    is_number: bool = False
    is_complex: bool = False


@dataclass(frozen=True, kw_only=True)
class OnnxOutputs:
    """The way from a graph's flat list to eager's pytree.

    Each of ``leaves`` is an Output, or a constant that the graph leaves out; ``rebuild`` returns
    the pytree with given leaves.
    """

    leaves: tuple[Any, ...]
    rebuild: Callable[[Sequence[Any]], Any]

    def unpack(self, tensors: Sequence[torch.Tensor]) -> Any:
        waiting = iter(tensors)
        leaves: list[Any] = []
        for leaf in self.leaves:
            value = next(waiting) if isinstance(leaf, Output) else leaf
            if isinstance(leaf, Output) and leaf.is_number:
                value = value.item()
            elif isinstance(leaf, Output) and leaf.is_complex and _holds_pairs(value):
                value = torch.view_as_complex(value.contiguous())
            leaves.append(value)
        return self.rebuild(leaves)

    def pack(self, value: Any) -> dict[str, torch.Tensor] | None:
        """Return by path what the graph would return for a value of eager's, in the graph's order.

        None if the value has another structure.
        """
        leaves = flatten(value, "output")[0]
        if len(leaves) != len(self.leaves):
            return None
        return named(
            {
                path: torch.as_tensor(leaf)
                for (path, leaf), output in zip(leaves, self.leaves, strict=True)
                if isinstance(output, Output)
            }
        )


def _holds_pairs(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.shape[-1:] == (2,)


@dataclass(frozen=True, kw_only=True)
class EagerValue:
    """The value that eager returned on the example: the leaves in the order of ``structure``.

    The tensors in it are empty.
    """

    leaves: tuple[Any, ...]
    structure: Structure

    @classmethod
    def of(cls, value: Any) -> EagerValue:
        leaves, structure = flatten(value)
        emptied = (
            torch.empty(0, dtype=leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf
            for _, leaf in leaves
        )
        return cls(leaves=tuple(emptied), structure=structure)

    def outputs(self, count: int) -> OnnxOutputs:
        """Return which leaves a graph with ``count`` outputs returns; the others are constants.

        The graph returns the tensors, or the tensors and the integers, because a size among the
        outputs is a tensor in the graph. If neither are ``count``, the graph has another structure
        than eager, and its outputs are returned as they are.
        """
        for types in ((torch.Tensor,), (torch.Tensor, int)):
            if sum(isinstance(leaf, types) for leaf in self.leaves) == count:
                leaves = (
                    Output(is_complex=leaf.is_complex())
                    if isinstance(leaf, torch.Tensor)
                    else Output(is_number=True)
                    if isinstance(leaf, types)
                    else leaf
                    for leaf in self.leaves
                )
                return OnnxOutputs(leaves=tuple(leaves), rebuild=self.structure.unflatten)
        return OnnxOutputs(
            leaves=(Output(),) * count,
            rebuild=lambda leaves: leaves[0] if len(leaves) == 1 else tuple(leaves),
        )

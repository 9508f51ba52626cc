"""``torch.onnx.export(dynamo=False)``: a trace (or a ScriptModule) as ONNX.

Off by default. Many pipelines still ship it, and no other exporter takes a ScriptModule.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.spec import Call, InputSpec, TensorLeaf
from pytest_torchexport.outcomes.torch_state import plain_attention
from pytest_torchexport.sandbox.libraries import ONNX_RUNTIME
from pytest_torchexport.targets.base import NotApplicable, TargetTraits, device_of, whole_file
from pytest_torchexport.targets.formats.onnx_model import (
    FILENAME,
    OnnxModelFacts,
    has_loops,
    input_shapes,
)
from pytest_torchexport.targets.formats.onnx_runtime import (
    LOADER_PATH,
    SCRIPT,
    OpenFile,
    TensorFile,
    unavailable,
)
from pytest_torchexport.targets.formats.onnx_values import EagerValue, OnnxOutputs, packed
from pytest_torchexport.targets.formats.sizes import SizeFacts, Suspicion, suspicions
from pytest_torchexport.targets.torchscript_shared import (
    CRASHES_ON_CAUGHT_ERRORS,
    TRACING,
    FlatModule,
    constant_arguments,
)

NEEDS = ("onnx", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class LegacyArtifact:
    """An ONNX model kept as bytes, with its session.

    ``files`` are the model and the external data that the exporter writes for models over 2 GB, by
    name. ``names`` are those that we gave the inputs.
    """

    program: Any
    files: Mapping[str, bytes]
    session: TensorFile
    names: tuple[str, ...]
    outputs: OnnxOutputs
    native_loops: bool
    facts: LegacyFacts
    baked: tuple[str, ...] = ()
    module: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        return self.unpack_outputs(self.session(**self.pack_inputs(Call(args, kwargs)).kwargs))

    def show(self, call: Call, see: Callable[[str, Any], None]) -> Any:
        """Run it, and show the values that it decides on."""
        return self.unpack_outputs(self._open.show(self.pack_inputs(call).kwargs, see))

    def with_session(self, session: Any) -> LegacyArtifact:
        """Return the artifact with its calls made by another session of its inputs and outputs."""
        return replace(self, session=session)

    @cached_property
    def _open(self) -> OpenFile:
        return OpenFile(self.save, self.session.device)

    def served(self, call: Call) -> Callable[[], Any]:
        """Return what runs the file on these inputs."""
        return self.session.prepared(self.pack_inputs(call).kwargs)

    def save(self, directory: Path) -> Path:
        """Write the model, and its external data."""
        for name, data in self.files.items():
            with whole_file(directory / name) as path:
                path.write_bytes(data)
        return directory / FILENAME

    def pack_inputs(self, call: Call) -> Call:
        """Return the tensors by input name; for a ScriptModule the numbers too."""
        return packed(self.names, _inputs(call, self._scripted))

    def unpack_outputs(self, value: Any) -> Any:
        """Return eager's pytree: tensors of the graph, everything else as it was on the example."""
        return self.outputs.unpack(value)

    def pack_outputs(self, value: Any) -> dict[str, torch.Tensor] | None:
        """Return by path what the graph would return for a value of eager's; None if it cannot."""
        return self.outputs.pack(value)

    @property
    def _scripted(self) -> bool:
        return isinstance(self.program, torch.jit.ScriptModule)


@dataclass(frozen=True, kw_only=True)
class LegacyFacts(OnnxModelFacts):
    """The facts of an ONNX file that has no guards.

    ``shapes`` are those of its inputs, None for an open size; a leaf of the call is an input if it
    has one of the types in ``kinds``.
    """

    shapes: tuple[tuple[int | None, ...], ...]
    kinds: tuple[type, ...]

    def suspicions(self, spec: InputSpec, example: Call) -> tuple[Suspicion, ...]:
        """Return what the sizes of the graph's inputs make doubtful."""
        waiting = iter(self.shapes)
        shapes = [
            next(waiting, None) if isinstance(leaf.example, self.kinds) else None
            for leaf in spec.leaves
        ]
        return suspicions(spec, SizeFacts.of_inputs(shapes))


class OnnxLegacy:
    """The target ``onnx_legacy``."""

    traits = TargetTraits(
        crashes_on_caught_errors=CRASHES_ON_CAUGHT_ERRORS,
        loader=LOADER_PATH,
        library=ONNX_RUNTIME,
        script=SCRIPT,
        answers={**TRACING, "torch.onnx.is_in_onnx_export": True},
    )

    def unavailable(self, device: str) -> str | None:
        """Return what is missing of the extra ``onnx`` (or ``onnx-gpu``), None if nothing is."""
        return unavailable(device, NEEDS)

    def export(
        self, module: Callable[..., Any], example: Call, spec: InputSpec, **options: Any
    ) -> LegacyArtifact | NotApplicable:
        """Export a trace of the module, or a ScriptModule as it is."""
        if isinstance(module, torch.jit.ScriptFunction):
            return NotApplicable("torch.onnx.export takes ScriptModules, not ScriptFunctions")
        scripted = isinstance(module, torch.jit.ScriptModule)
        names = tuple(f"input_{i}" for i in range(len(_inputs(example, scripted))))
        value = _value(module, example)
        exported, args, baked = _flat(module, example, spec, scripted=scripted)
        with tempfile.TemporaryDirectory(prefix="torchexport-") as directory, plain_attention():
            path = Path(directory, FILENAME)
            torch.onnx.export(
                exported,
                args,
                str(path),
                dynamo=False,
                input_names=list(names),
                dynamic_axes=_dynamic_axes(spec, names, scripted),
                **options,
            )
            files = {file.name: file.read_bytes() for file in path.parent.iterdir()}
            session = TensorFile(path, device_of(example))
        proto = _model(files)
        return LegacyArtifact(
            program=module if scripted else files[FILENAME],
            files=files,
            session=session,
            names=names,
            outputs=value.outputs(len(proto.graph.output)),
            native_loops=has_loops(proto),
            facts=LegacyFacts(
                model=lambda: _model(files),
                shapes=input_shapes(proto, names),
                kinds=_kinds(scripted),
            ),
            baked=baked,
        )

    def load(self, path: Path, device: str) -> Callable[..., Any]:
        """Return a session on the device; it takes tensors by input name."""
        return TensorFile(path, device)


def _model(files: Mapping[str, bytes]) -> Any:
    """Return the ``onnx.ModelProto``, without its external data."""
    import onnx

    return onnx.load_model_from_string(files[FILENAME])


def _inputs(call: Call, scripted: bool) -> list[Any]:
    return [leaf for leaf in call.leaves() if isinstance(leaf, _kinds(scripted))]


def _kinds(scripted: bool) -> tuple[type, ...]:
    """Return the types of the leaves that are inputs of the graph."""
    return (torch.Tensor, bool, int, float) if scripted else (torch.Tensor,)


def _value(module: Callable[..., Any], example: Call) -> EagerValue:
    """Return what a copy of the module returns on a copy of the example."""
    own = example.clone()
    owner = module if isinstance(module, torch.nn.Module) else getattr(module, "__self__", None)
    twin = copy.deepcopy(module) if owner is module else module
    return EagerValue.of(twin(*own.args, **own.kwargs))


def _flat(
    module: Callable[..., Any], example: Call, spec: InputSpec, *, scripted: bool
) -> tuple[Any, tuple[Any, ...], tuple[str, ...]]:
    """Return what to export, with which arguments, and which arguments become constants."""
    if scripted:
        return module, (*example.args, *example.kwargs.values()), ()
    plain = not example.kwargs and all(isinstance(arg, torch.Tensor) for arg in example.args)
    # torch.onnx takes anything that has a ``graph`` for a ScriptModule.
    graph = isinstance(module, torch.fx.GraphModule)
    if plain and not graph and isinstance(module, torch.nn.Module):
        return module, example.args, ()
    return FlatModule.of(module, example), example.tensors(), constant_arguments(spec, example)


def _dynamic_axes(
    spec: InputSpec, names: Sequence[str], scripted: bool
) -> dict[str, dict[int, str]]:
    numbers = (bool, int, float) if scripted else ()
    kept = [leaf for leaf in spec.leaves if isinstance(leaf.example, (torch.Tensor, *numbers))]
    axes = {}
    for name, leaf in zip(names, kept, strict=True):
        shape = leaf.shape if isinstance(leaf, TensorLeaf) else ()
        varying = {
            axis: item.text if item.text in item.names else f"{name}_{axis}"
            for axis, item in enumerate(shape)
            if item.names
        }
        if varying:
            axes[name] = varying
    return axes


TARGET = OnnxLegacy()

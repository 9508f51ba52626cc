"""``torch.onnx.export(dynamo=False)``: a trace (or a ScriptModule) as ONNX.

Off by default. Many pipelines still ship it, and no other exporter takes a ScriptModule.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.spec import Call, InputSpec, TensorLeaf
from pytest_torchexport.outcomes.torch_state import plain_attention
from pytest_torchexport.sandbox.libraries import ONNX_RUNTIME
from pytest_torchexport.targets.base import (
    CRASHES_ON_CAUGHT_ERRORS,
    TRACING,
    NotApplicable,
    TargetTraits,
    device_of,
    whole_file,
)
from pytest_torchexport.targets.capturing import FlatModule, constant_arguments, value_of
from pytest_torchexport.targets.formats.onnx_model import FILENAME
from pytest_torchexport.targets.formats.onnx_runtime import (
    LOADER_PATH,
    SCRIPT,
    TensorFile,
    unavailable,
)
from pytest_torchexport.targets.onnx_artifact import (
    OnnxArtifact,
    OnnxArtifactFacts,
    OnnxOutputs,
    require_asked,
)

NEEDS = ("onnx", "onnxruntime")


class OnnxLegacy:
    traits = TargetTraits(
        crashes_on_caught_errors=CRASHES_ON_CAUGHT_ERRORS,
        loader=LOADER_PATH,
        suffixes=(".onnx",),
        library=ONNX_RUNTIME,
        leaves_out_casts=("cpu", "cuda"),
        script=SCRIPT,
        answers={**TRACING, "torch.onnx.is_in_onnx_export": True},
    )

    load = staticmethod(TensorFile)

    def unavailable(self, device: str) -> str | None:
        return unavailable(device, NEEDS)

    def export(
        self, module: Callable[..., Any], example: Call, spec: InputSpec, **options: Any
    ) -> OnnxArtifact | NotApplicable:
        """Export a trace of the module, or a ScriptModule as it is."""
        if isinstance(module, torch.jit.ScriptFunction):
            return NotApplicable("torch.onnx.export takes ScriptModules, not ScriptFunctions")
        import onnx

        scripted = isinstance(module, torch.jit.ScriptModule)
        # The types of the leaves that are inputs of the graph.
        kinds = (torch.Tensor, bool, int, float) if scripted else (torch.Tensor,)
        inside = tuple(isinstance(leaf, kinds) for leaf in example.leaves())
        names = tuple(f"input_{i}" for i in range(sum(inside)))
        axes = {}
        for name, leaf in zip(names, compress(spec.leaves, inside), strict=True):
            shape = leaf.shape if isinstance(leaf, TensorLeaf) else ()
            varying = {
                axis: item.text if item.text in item.names else f"{name}_{axis}"
                for axis, item in enumerate(shape)
                if item.names
            }
            if varying:
                axes[name] = varying
        value = value_of(module, example)
        exported, args, baked = _flat(module, example, spec, scripted=scripted)
        with tempfile.TemporaryDirectory(prefix="torchexport-") as directory, plain_attention():
            path = Path(directory, FILENAME)
            torch.onnx.export(
                exported,
                args,
                str(path),
                dynamo=False,
                input_names=list(names),
                dynamic_axes=axes,
                **options,
            )
            # The model and the external data that the exporter writes for models over 2 GB.
            files = {file.name: file.read_bytes() for file in path.parent.iterdir()}
            session = TensorFile(path, device_of(example))
        # Read again when asked: a model holds its weights.
        read = partial(onnx.load_model_from_string, files[FILENAME])
        require_asked(read, options)
        return OnnxArtifact(
            program=module if scripted else files[FILENAME],
            outputs=OnnxOutputs.of(value, len(session.session.get_outputs())),
            write=partial(_write, files),
            opened=session,
            device=session.device,
            facts=OnnxArtifactFacts(model=read, inside=inside, names=names),
            # The exporter itself folds constants.
            unoptimized={"do_constant_folding": False},
            baked=baked,
        )


def _write(files: Mapping[str, bytes], directory: Path) -> None:
    for name, data in files.items():
        with whole_file(directory / name) as path:
            path.write_bytes(data)


def _flat(
    module: Callable[..., Any], example: Call, spec: InputSpec, *, scripted: bool
) -> tuple[Any, tuple[Any, ...], tuple[str, ...]]:
    """Return the module to export, its arguments, and the names of those that become constants."""
    if scripted:
        return module, (*example.args, *example.kwargs.values()), ()
    plain = not example.kwargs and all(isinstance(arg, torch.Tensor) for arg in example.args)
    # torch.onnx takes anything that has a ``graph`` for a ScriptModule.
    graph = isinstance(module, torch.fx.GraphModule)
    if plain and not graph and isinstance(module, torch.nn.Module):
        return module, example.args, ()
    return FlatModule(module, example), example.tensors(), constant_arguments(spec, example)


TARGET = OnnxLegacy()

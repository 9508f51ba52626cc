"""``torch.onnx.export``, the exporter on top of ``torch.export``, run by ONNX Runtime."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

import torch
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, SymIntArgument

from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.outcomes.errors import text_of
from pytest_torchexport.outcomes.subject import LARGE_MODULE
from pytest_torchexport.sandbox.libraries import ONNX_RUNTIME
from pytest_torchexport.targets.base import (
    EXPORTING,
    NotApplicable,
    TargetTraits,
    device_of,
    whole_file,
)
from pytest_torchexport.targets.capturing import Capturable, Exported, exported
from pytest_torchexport.targets.formats.onnx_model import FILENAME, read
from pytest_torchexport.targets.formats.onnx_runtime import (
    LOADER_PATH,
    SCRIPT,
    TensorFile,
    unavailable,
)
from pytest_torchexport.targets.formats.sizes import SizeFacts, captures
from pytest_torchexport.targets.onnx_artifact import (
    OnnxArtifact,
    OnnxArtifactFacts,
    OnnxOutputs,
    Output,
    require_asked,
)
from pytest_torchexport.torch_private.between_exports import (
    forget_onnx_matches,
    onnx_translations_kept,
)
from pytest_torchexport.torch_private.memory import kept_shared
from pytest_torchexport.torch_private.structures import unflatten

NEEDS = ("onnx", "onnxscript", "onnxruntime")


class Onnx:
    traits = TargetTraits(
        specializes_0_1=True,
        loader=LOADER_PATH,
        suffixes=(".onnx",),
        library=ONNX_RUNTIME,
        leaves_out_casts=("cpu", "cuda"),
        script=SCRIPT,
        answers={**EXPORTING, "torch.onnx.is_in_onnx_export": True},
    )

    load = staticmethod(TensorFile)

    def unavailable(self, device: str) -> str | None:
        return unavailable(device, NEEDS)

    def export(
        self, module: Callable[..., Any], example: Call, spec: InputSpec, **options: Any
    ) -> OnnxArtifact | NotApplicable:
        """Export with the spec's dims; if torch refuses their relation, with ``Dim.DYNAMIC``."""
        if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
            return NotApplicable(
                "torch.onnx.export(dynamo=True) does not take TorchScript; "
                "the target onnx_legacy does"
            )
        asked = dict(options)
        external = bool(options.pop("external_data", True))
        subject = Capturable.of(module, example, spec)

        args, kwargs = example.args, dict(example.kwargs)
        if not kwargs and args and isinstance(args[-1], dict):
            # torch.onnx.export takes a trailing dict for keyword arguments unless one follows it.
            args = (*args, {})

        def export(shapes: Any) -> tuple[Any, list[SizeFacts]]:
            try:
                with captures() as captured, onnx_translations_kept():
                    program = torch.onnx.export(
                        subject.module,
                        args,
                        kwargs=kwargs,
                        dynamic_shapes=shapes,
                        dynamo=True,
                        **{"verbose": False, **options},
                    )
                    return program, captured
            finally:
                forget_onnx_matches()

        def frozen(made: tuple[Any, list[SizeFacts]]) -> Sequence[str]:
            """Return the dims of the axes that vary and are no symbol in the graph.

            On a constraint error the exporter applies torch.export's "suggested fixes", which make
            dims static, and goes on without a warning; with another spelling of them it may not.
            """
            program = made[0]
            shapes = [getattr(leaf, "shape", ()) for leaf in spec.leaves]
            kept = compress(shapes, _inside(program))
            found = (
                name
                for value, shape in zip(program.model.graph.inputs, kept, strict=True)
                for axis, expr in enumerate(shape)
                for name in expr.names
                if isinstance(value.shape[axis], int)
            )
            return tuple(dict.fromkeys(found))

        made = exported(export, subject, example, spec, frozen)
        artifact = _artifact(made, device_of(example), external_data=external)
        require_asked(artifact.facts.model, asked)
        return artifact


def _user_inputs(program: Any) -> list[Any]:
    signature = program.exported_program.graph_signature
    return [item.arg for item in signature.input_specs if item.kind == InputKind.USER_INPUT]


def _inside(program: Any) -> tuple[bool, ...]:
    return tuple(not isinstance(arg, ConstantArgument) for arg in _user_inputs(program))


def _artifact(made: Exported, device: str, *, external_data: bool) -> OnnxArtifact:
    program, captured = made.program
    write = partial(_write, program, external_data=external_data)
    with tempfile.TemporaryDirectory(prefix="torchexport-") as directory:
        write(Path(directory))
        path = Path(directory, FILENAME)
        try:
            session = TensorFile(path, device)
        except Exception as error:
            error.add_note(_node_named_in(text_of(error), program))
            raise
        # Without the weights in files beside it: ``program.model_proto`` would copy them all.
        model = read(path)
        size = sum(file.stat().st_size for file in path.parent.iterdir())
    return OnnxArtifact(
        program=program,
        outputs=_outputs(program.exported_program),
        write=write,
        opened=session if size <= LARGE_MODULE else None,
        device=device,
        baked=tuple(
            f"{arg.name}={arg.value!r}"
            for arg in _user_inputs(program)
            if isinstance(arg, ConstantArgument) and arg.value is not None
        ),
        dynamic_shapes=made.dynamic_shapes,
        unoptimized={"optimize": False},
        facts=OnnxArtifactFacts(
            model=lambda: model,
            inside=_inside(program),
            names=tuple(value.name for value in program.model.graph.inputs),
            captured=(*captured, SizeFacts.captured(program.exported_program)),
            notes=made.notes,
            cautions=made.cautions,
            doubts=made.doubts,
        ),
    )


def _write(program: Any, directory: Path, *, external_data: bool) -> None:
    """Write ``model.onnx`` and, as torch does by default, ``model.onnx.data`` beside it."""
    held = [value.const_value for value in program.model.graph.initializers.values()]
    tensors = [getattr(each, "raw", None) for each in held]
    with (
        whole_file(directory / FILENAME) as path,
        kept_shared(each for each in tensors if isinstance(each, torch.Tensor)),
    ):
        program.save(path, external_data=external_data)


# ONNX Runtime names the node that it refuses in one of these ways.
_NODE = re.compile(r"node with name '([^']*)'|in node \(([^)]*)\)")


def _node_named_in(text: str, program: Any) -> str:
    """Return the types that the refused node takes, and its lines; empty if it is not known."""
    found = _NODE.search(text)
    named = [node for node in program.model.graph if found and node.name in found.groups()]
    if not named:
        return ""
    types = " and ".join(dict.fromkeys(str(item.dtype).lower() for item in named[0].inputs if item))
    stack = named[0].metadata_props.get("pkg.torch.onnx.stack_trace", "")
    return f"the node takes {types}\n{stack}"


def _outputs(program: torch.export.ExportedProgram) -> OnnxOutputs:
    complexes = {
        node.name
        for node in program.graph.nodes
        if isinstance(node.meta.get("val"), torch.Tensor) and node.meta["val"].is_complex()
    }
    args = [
        item.arg
        for item in program.graph_signature.output_specs
        if item.kind == OutputKind.USER_OUTPUT
    ]
    return OnnxOutputs(
        leaves=tuple(
            arg.value
            if isinstance(arg, ConstantArgument)
            else Output(is_number=isinstance(arg, SymIntArgument), is_complex=arg.name in complexes)
            for arg in args
        ),
        rebuild=partial(unflatten, structure=program.call_spec.out_spec),
    )


TARGET = Onnx()

"""OpenVINO on the CPU: the ONNX file of the target ``onnx``, converted, with the dims as bounds.

What runs a file needs no torch: the clean process imports this module too.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_torchexport.sandbox.libraries import THREADS
from pytest_torchexport.targets.base import (
    MadeOf,
    NotApplicable,
    NotAsAsked,
    TargetTraits,
    whole_file,
)
from pytest_torchexport.targets.formats.facts import ProgramFacts

if TYPE_CHECKING:
    from pytest_torchexport.inputs.spec import Call, InputSpec
    from pytest_torchexport.targets.onnx_artifact import OnnxArtifact, OnnxArtifactFacts

FILENAME = "model.xml"
NEEDS = ("openvino", "onnx", "onnxscript", "onnxruntime")
# OpenVINO's names of the precisions that it may compute in, and torch's, of those that are not the
# model's own. By itself it takes bf16 on a CPU that has it: https://docs.openvino.ai/2026/openvino-workflow/running-inference/optimize-inference/precision-control.html
PRECISIONS = {"f32": "", "bf16": "bfloat16", "f16": "float16"}
DEFAULT = "default"
SCRIPT = """\
import openvino

hint = {"INFERENCE_PRECISION_HINT": asked.get("precision", "f32")}
hint = {} if "default" in hint.values() else hint
compiled = openvino.Core().compile_model(str(path), "CPU", hint)


def artifact(**inputs):
    \"\"\"Run the model on tensors by input name; return its outputs in order.\"\"\"
    found = compiled({name: torch.as_tensor(inputs[name]).numpy() for name in inputs})
    return [torch.from_numpy(found[i].copy()) for i in range(len(compiled.outputs))]
"""


class File:
    """A model that OpenVINO has compiled. Takes numpy arrays by input name, returns a list."""

    def __init__(self, model: Any, precision: str = "f32") -> None:
        """Compile a model or the file at a path; ``default`` is OpenVINO's own choice."""
        import openvino

        hint = {} if precision == DEFAULT else {"INFERENCE_PRECISION_HINT": precision}
        usual = {"INFERENCE_NUM_THREADS": THREADS.allowed, "PERFORMANCE_HINT": "LATENCY"}
        self.compiled = openvino.Core().compile_model(model, "CPU", {**usual, **hint})

    @property
    def precision(self) -> str:
        """The precision that it computes in, by OpenVINO's name."""
        hint = self.compiled.get_property("INFERENCE_PRECISION_HINT")
        return str(hint.to_string())

    def __call__(self, *args: Any, **feeds: Any) -> list[Any]:
        import numpy as np

        inputs = [each.names for each in self.compiled.inputs]
        feeds |= {min(names): arg for names, arg in zip(inputs, args, strict=bool(args))}
        # By the number of the input: a tensor may have several names.
        arrays = {
            number: np.asarray(next(feeds[name] for name in feeds if name in names))
            for number, names in enumerate(inputs)
        }
        found = self.compiled(arrays)
        return [found[number].copy() for number in range(len(self.compiled.outputs))]


def of_tensors(file: File) -> Callable[..., list[Any]]:
    """Return a function that runs the file on tensors by input name, and returns tensors."""
    import torch

    def run(**feeds: Any) -> list[torch.Tensor]:
        arrays = {name: torch.as_tensor(value).detach().numpy() for name, value in feeds.items()}
        return [torch.from_numpy(each) for each in file(**arrays)]

    return run


class Loader:
    """The loader of the clean process."""

    def load(self, path: Path, _device: str, precision: str = "f32") -> File:
        return File(str(path), precision)

    def read(self, _path: Path, _loaded: File) -> ProgramFacts:
        return ProgramFacts()


FILES = Loader()


@dataclass(frozen=True, kw_only=True)
class OpenVinoArtifact:
    """An OpenVINO model, the ONNX artifact that it was converted from, and its compiled form.

    ``compressed``: its weights are saved in float16.
    """

    program: Any
    onnx: OnnxArtifact
    file: File
    facts: OnnxArtifactFacts
    compressed: bool = False
    module: Any = None

    @property
    def native_loops(self) -> bool:
        return self.onnx.native_loops

    @property
    def baked(self) -> tuple[str, ...]:
        return self.onnx.baked

    @property
    def dynamic_shapes(self) -> Any:
        return self.onnx.dynamic_shapes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from pytest_torchexport.inputs.pytrees import Call

        packed = self.pack_inputs(Call(args, kwargs))
        return self.unpack_outputs(of_tensors(self.file)(**packed.kwargs))

    def save(self, directory: Path) -> Path:
        """Write ``model.xml``, and ``model.bin`` with the weights beside it."""
        return saved(self.program, directory, compressed=self.compressed)

    def pack_inputs(self, call: Call) -> Call:
        return self.onnx.pack_inputs(call)

    def unpack_outputs(self, value: Any) -> Any:
        return self.onnx.unpack_outputs(value)

    def pack_outputs(self, value: Any) -> Any:
        return self.onnx.pack_outputs(value)

    def made_of(self) -> Sequence[MadeOf]:
        program = self.onnx.program.exported_program.module()
        return (
            MadeOf("ExportedProgram", program, "capture"),
            MadeOf("ONNX by ONNX Runtime", self.onnx, "translation"),
            MadeOf("OpenVINO", self, "runtime"),
        )


def saved(model: Any, directory: Path, *, compressed: bool) -> Path:
    """Write a model; ``compressed``: with its weights in float16."""
    import openvino

    with whole_file(directory / FILENAME) as path:
        openvino.save_model(model, str(path), compress_to_fp16=compressed)
    return path


class OpenVino:
    """The target ``openvino``."""

    traits = TargetTraits(
        specializes_0_1=True,
        suffixes=(".xml",),
        sidecars=lambda path: (path.with_suffix(".bin").name,),
        flat=True,
        loader="pytest_torchexport.targets.openvino:FILES",
        library="openvino",
        leaves_out_casts=("cpu",),
        script=SCRIPT,
    )

    def unavailable(self, device: str) -> str | None:
        missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
        if missing:
            listed = ", ".join(missing)
            return f"{listed} not installed: pip install 'pytest-torchexport[openvino]'"
        return None if device == "cpu" else "OpenVINO is run on the CPU"

    def export(
        self,
        module: Callable[..., Any],
        example: Call,
        spec: InputSpec,
        *,
        precision: str = "f32",
        compress_to_fp16: bool = False,
        **options: Any,
    ) -> OpenVinoArtifact | NotApplicable:
        """Export to ONNX, with the options of that target, and convert that file.

        The ranges of declared dims become bounds of the model: other sizes are refused.
        """
        import openvino
        import torch

        from pytest_torchexport import targets

        legal = (*PRECISIONS, DEFAULT)
        if precision not in legal:
            raise ValueError(f"precision={precision!r} is none of {', '.join(legal)}")
        if not isinstance(compress_to_fp16, bool):
            raise ValueError(f"compress_to_fp16={compress_to_fp16!r} is neither True nor False")
        if any(tensor.dtype == torch.bfloat16 for tensor in example.tensors()):
            return NotApplicable("it is called with numpy arrays, which have no bfloat16")
        made: Any = targets.get("onnx").export(module, example, spec, **options)
        if isinstance(made, NotApplicable):
            return made
        core = openvino.Core()
        core.set_property({"ENABLE_MMAP": False})  # the file goes
        with tempfile.TemporaryDirectory(prefix="torchexport-") as directory:
            model = core.read_model(str(made.save(Path(directory))))
            model.reshape(
                {
                    name: openvino.PartialShape(
                        [
                            openvino.Dimension(low, -1 if high is None else high)
                            for low, high in axes
                        ]
                    )
                    for name, axes in made.facts.bounds_of(spec).items()
                }
            )
            if compress_to_fp16:  # as it is shipped
                model = core.read_model(str(saved(model, Path(directory), compressed=True)))
        file = File(model, precision)
        if precision not in (DEFAULT, file.precision):
            took = f"OpenVINO computes in {file.precision} on this CPU"
            raise NotAsAsked(f"precision={precision!r} was asked for; {took}")
        computed = "f16" if compress_to_fp16 and file.precision == "f32" else file.precision
        return OpenVinoArtifact(
            program=model,
            onnx=made,
            file=file,
            compressed=compress_to_fp16,
            facts=dataclasses.replace(
                made.facts,
                notes=(*made.facts.notes, f"OpenVINO computes in {file.precision}"),
                precision=PRECISIONS[computed],
            ),
        )

    def load(self, path: Path, device: str, precision: str = "f32") -> Callable[..., list[Any]]:
        return of_tensors(FILES.load(path, device, precision))


TARGET = OpenVino()

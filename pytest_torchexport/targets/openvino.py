"""OpenVINO on the CPU: the ONNX file of the target ``onnx``, converted, with the dims as bounds.

What runs a file needs no torch: the clean process imports this module too.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_torchexport.targets.base import MadeOf, NotApplicable, TargetTraits, whole_file
from pytest_torchexport.targets.formats.facts import ProgramFacts

if TYPE_CHECKING:
    from pytest_torchexport.config.named_dims import Dim, Expr
    from pytest_torchexport.inputs.spec import Call, InputSpec
    from pytest_torchexport.targets.onnx_artifact import OnnxArtifact

FILENAME = "model.xml"
NEEDS = ("openvino", "onnx", "onnxscript", "onnxruntime")
# OpenVINO's names of the precisions that it may compute in, and torch's. By itself it takes bf16 on
# a CPU that has it: https://docs.openvino.ai/2026/openvino-workflow/running-inference/optimize-inference/precision-control.html
PRECISIONS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
SCRIPT = """\
import openvino

core = openvino.Core()
compiled = core.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def artifact(**inputs):
    \"\"\"Run the model on tensors by input name; return its outputs in order.\"\"\"
    found = compiled({name: torch.as_tensor(inputs[name]).numpy() for name in inputs})
    return [torch.from_numpy(found[i].copy()) for i in range(len(compiled.outputs))]
"""


class File:
    """A model that OpenVINO has compiled. Takes numpy arrays by input name, returns a list."""

    native_loops = False

    def __init__(self, model: Any, precision: str = "f32") -> None:
        """Compile a model or the file at a path; ``default`` is OpenVINO's own choice."""
        import openvino

        hint = {} if precision == "default" else {"INFERENCE_PRECISION_HINT": precision}
        usual = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
        self.compiled = openvino.Core().compile_model(model, "CPU", {**usual, **hint})
        self.names = [each.get_any_name() for each in self.compiled.inputs]

    @property
    def precision(self) -> str:
        """The precision that it computes in, by OpenVINO's name."""
        hint = self.compiled.get_property("INFERENCE_PRECISION_HINT")
        return str(hint.to_string())

    def __call__(self, *args: Any, **feeds: Any) -> list[Any]:
        import numpy as np

        feeds |= dict(zip(self.names, args, strict=bool(args)))
        found = self.compiled({n: np.asarray(feeds[n]) for n in self.names if n in feeds})
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
    facts: ProgramFacts
    compressed: bool = False
    module: Any = None
    native_loops: bool = False

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
        import openvino

        with whole_file(directory / FILENAME) as path:
            openvino.save_model(self.program, str(path), compress_to_fp16=self.compressed)
        return path

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


class OpenVino:
    """The target ``openvino``."""

    traits = TargetTraits(
        specializes_0_1=True,
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

        from pytest_torchexport import targets

        made: Any = targets.get("onnx").export(module, example, spec, **options)
        if isinstance(made, NotApplicable):
            return made
        core = openvino.Core()
        core.set_property({"ENABLE_MMAP": False})  # the file goes
        with tempfile.TemporaryDirectory(prefix="torchexport-") as directory:
            model = core.read_model(str(made.save(Path(directory))))
        shapes = dict(zip(made.facts.names, compress(spec.leaves, made.facts.inside), strict=True))
        bounds = {
            name: openvino.PartialShape([_bound(expr, spec.dims, size) for expr, size in axes])
            for name, leaf in shapes.items()
            if (axes := _axes(leaf)) is not None
        }
        model.reshape(bounds)
        file = File(model, precision)
        computed = "f16" if compress_to_fp16 and file.precision == "f32" else file.precision
        lower = "" if computed == "f32" else PRECISIONS.get(computed, "")
        notes = (*made.facts.notes, f"OpenVINO computes in {file.precision}")
        return OpenVinoArtifact(
            program=model,
            onnx=made,
            file=file,
            compressed=compress_to_fp16,
            facts=_Facts(onnx=made, notes=notes, cautions=made.facts.cautions, precision=lower),
        )

    def load(self, path: Path, device: str, precision: str = "f32") -> Callable[..., list[Any]]:
        return of_tensors(FILES.load(path, device, precision))


@dataclass(frozen=True, kw_only=True)
class _Facts(ProgramFacts):
    """The facts of the ONNX model."""

    onnx: OnnxArtifact

    def suspicions(self, spec: InputSpec, example: Call) -> Any:
        return self.onnx.facts.suspicions(spec, example)

    def branches(self) -> Any:
        return self.onnx.facts.branches()

    def bounds(self) -> tuple[float, ...]:
        return self.onnx.facts.bounds()

    def text(self) -> str:
        return self.onnx.facts.text()


def _axes(leaf: Any) -> list[tuple[Expr, int]] | None:
    shape = getattr(leaf, "shape", None)
    return None if shape is None else [*zip(shape, leaf.example.shape, strict=True)]


def _bound(expr: Expr, dims: Mapping[str, Dim], size: int) -> Any:
    """Return the sizes that an axis may have: of a dim that is only assumed, any."""
    import openvino

    if not expr.names:
        return openvino.Dimension(size)
    linear = expr.linear()
    if linear is None or not dims[linear[0]].declared:
        return openvino.Dimension(-1)
    name, factor, offset = linear
    ends = sorted(factor * end + offset for end in (dims[name].low, dims[name].high))
    return openvino.Dimension(*ends)


TARGET = OpenVino()

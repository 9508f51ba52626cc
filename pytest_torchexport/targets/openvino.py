"""OpenVINO on the CPU: an ONNX file or a module, converted, with the dims as bounds.

What runs a file needs no torch: the clean process imports this module too.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_torchexport.sandbox.libraries import THREADS
from pytest_torchexport.targets.base import (
    CRASHES_ON_CAUGHT_ERRORS,
    EXPORTING,
    TRACING,
    MadeOf,
    NotApplicable,
    NotAsAsked,
    TargetTraits,
    whole_file,
)
from pytest_torchexport.targets.formats.facts import ProgramFacts

if TYPE_CHECKING:
    from pytest_torchexport.inputs.spec import Call, InputSpec
    from pytest_torchexport.targets.onnx_artifact import OnnxOutputs

FILENAME = "model.xml"
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

        # A model that was converted from a module may have inputs without a name.
        inputs = [each.names or {str(i)} for i, each in enumerate(self.compiled.inputs)]
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


@dataclass(frozen=True, kw_only=True)
class FileFacts(ProgramFacts):
    path: Path

    def as_plain(self, *, foreign: bool) -> dict[str, Any]:
        if not foreign:
            return {}
        import openvino

        model = openvino.Core().read_model(str(self.path))
        inputs, operations = model.inputs, model.get_ops()
        sizes = [each.get_partial_shape() for each in inputs]
        numbers: Counter[str] = Counter()
        for each in operations:
            kind = each.get_element_type().to_string()
            if each.get_type_name() == "Constant" and kind in PRECISIONS:
                numbers[kind] += math.prod(each.get_output_shape(0))
        ((most, _),) = numbers.most_common(1) or [("f32", 0)]
        quantized = any(each.get_type_name() == "FakeQuantize" for each in operations)
        return {
            "names": [min(each.names, default=str(i)) for i, each in enumerate(inputs)],
            "shapes": [[s.get_length() if s.is_static else None for s in each] for each in sizes],
            "precision": "int8" if quantized else PRECISIONS[most],
        }


class Loader:
    def load(self, path: Path, _device: str, precision: str = "f32") -> File:
        return File(str(path), precision)

    def read(self, path: Path, _loaded: File) -> ProgramFacts:
        return FileFacts(path=path)


FILES = Loader()


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A model, and the way between eager's form of a call and its value and that of the file.

    ``names`` are those of its inputs, ``inside`` says of each leaf of a call whether it is one, and
    ``steps`` returns what the model was made of.
    """

    program: Any
    facts: ProgramFacts
    steps: Callable[[], tuple[MadeOf, ...]]
    names: Sequence[str]
    inside: Sequence[bool]
    outputs: OnnxOutputs
    baked: tuple[str, ...]
    native_loops: bool = False
    dynamic_shapes: Any = None
    module: Any = None

    def pack_inputs(self, call: Call) -> Call:
        from pytest_torchexport.targets.onnx_artifact import packed

        return packed(self.names, compress(call.leaves(), self.inside))

    def unpack_outputs(self, value: Any) -> Any:
        return self.outputs.unpack(value)

    def pack_outputs(self, value: Any) -> Any:
        return self.outputs.pack(value)


@dataclass(frozen=True, kw_only=True)
class OpenVinoArtifact(Converted):
    """An OpenVINO model in its compiled form. ``compressed``: its weights are saved in float16."""

    file: File
    compressed: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from pytest_torchexport.inputs.pytrees import Call

        given = self.pack_inputs(Call(args, kwargs)).kwargs
        return self.unpack_outputs(of_tensors(self.file)(**given))

    def save(self, directory: Path) -> Path:
        """Write ``model.xml``, and ``model.bin`` with the weights beside it."""
        return saved(self.program, directory, compressed=self.compressed)

    def made_of(self) -> Sequence[MadeOf]:
        return (*self.steps(), MadeOf("OpenVINO", self, "runtime"))


def weights(path: Path) -> tuple[str, ...]:
    """Return the name of the file beside a model that has its constants; none if there are none."""
    return (path.with_suffix(".bin").name,) if b'"Const"' in path.read_bytes() else ()


def reread(save: Callable[[Path], Path]) -> Any:
    """Return the model of a file that ``save`` writes in a directory, and that goes."""
    import openvino

    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})
    with tempfile.TemporaryDirectory(prefix="torchexport-") as directory:
        return core.read_model(str(save(Path(directory))))


def saved(model: Any, directory: Path, *, compressed: bool) -> Path:
    """Write a model; ``compressed``: with its weights in float16."""
    import openvino

    with whole_file(directory / FILENAME) as path:
        openvino.save_model(model, str(path), compress_to_fp16=compressed)
    return path


class OpenVino:
    """The target ``openvino``: the ONNX file of the target ``onnx``, converted."""

    traits = TargetTraits(
        specializes_0_1=True,
        suffixes=(".xml",),
        sidecars=weights,
        loader="pytest_torchexport.targets.openvino:FILES",
        library="openvino",
        leaves_out_casts=("cpu",),
        script=SCRIPT,
        answers={**EXPORTING, "torch.onnx.is_in_onnx_export": True},
    )
    needs: tuple[str, ...] = ("openvino", "onnx", "onnxscript", "onnxruntime")

    def unavailable(self, device: str) -> str | None:
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
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
        """Convert the module, and compile the model.

        The ranges of declared dims become bounds of the model: other sizes are refused.
        """
        import torch

        legal = (*PRECISIONS, DEFAULT)
        if precision not in legal:
            raise ValueError(f"precision={precision!r} is none of {', '.join(legal)}")
        if not isinstance(compress_to_fp16, bool):
            raise ValueError(f"compress_to_fp16={compress_to_fp16!r} is neither True nor False")
        if any(tensor.dtype == torch.bfloat16 for tensor in example.tensors()):
            return NotApplicable("it is called with numpy arrays, which have no bfloat16")
        made = self.convert(module, example, spec, **options)
        if isinstance(made, NotApplicable):
            return made
        model = made.program
        if compress_to_fp16:  # as it is shipped
            model = reread(functools.partial(saved, model, compressed=True))
        file = File(model, precision)
        if precision not in (DEFAULT, file.precision):
            took = f"OpenVINO computes in {file.precision} on this CPU"
            raise NotAsAsked(f"precision={precision!r} was asked for; {took}")
        computed = "f16" if compress_to_fp16 and file.precision == "f32" else file.precision
        facts = dataclasses.replace(
            made.facts,
            notes=(*made.facts.notes, f"OpenVINO computes in {file.precision}"),
            precision=PRECISIONS[computed],
        )
        fields = {**vars(made), "program": model, "facts": facts}
        return OpenVinoArtifact(**fields, file=file, compressed=compress_to_fp16)

    def convert(
        self, module: Callable[..., Any], example: Call, spec: InputSpec, **options: Any
    ) -> Converted | NotApplicable:
        """Export to ONNX, with the options of that target, and convert that file."""
        from pytest_torchexport import targets

        made: Any = targets.get("onnx").export(module, example, spec, **options)
        if isinstance(made, NotApplicable):
            return made
        model, axes = reread(made.save), made.facts.axes_of(spec).items()
        bounds = {name: [(low, high) for low, _, high in each] for name, each in axes}
        model.reshape({name: _bounded(each) for name, each in bounds.items()})
        return Converted(
            program=model,
            facts=made.facts,
            steps=lambda: (
                MadeOf("ExportedProgram", made.program.exported_program.module(), "capture"),
                MadeOf("ONNX by ONNX Runtime", made, "translation"),
            ),
            names=made.facts.names,
            inside=made.facts.inside,
            outputs=made.outputs,
            baked=made.baked,
            native_loops=made.native_loops,
            dynamic_shapes=made.dynamic_shapes,
        )

    def load(self, path: Path, device: str, precision: str = "f32") -> Callable[..., list[Any]]:
        return of_tensors(FILES.load(path, device, precision))


class OpenVinoTrace(OpenVino):
    """The target ``openvino_trace``: the module itself, which OpenVINO traces."""

    traits = dataclasses.replace(
        OpenVino.traits,
        specializes_0_1=False,
        crashes_on_caught_errors=CRASHES_ON_CAUGHT_ERRORS,
        answers=TRACING,
    )
    needs = ("openvino",)

    def convert(
        self, module: Callable[..., Any], example: Call, spec: InputSpec, **options: Any
    ) -> Converted | NotApplicable:
        """Convert as ``openvino.convert_model(module, example_input=...)`` does."""
        import openvino
        import torch

        from pytest_torchexport import targets
        from pytest_torchexport.targets.capturing import TensorsOnly, constant_arguments, value_of
        from pytest_torchexport.targets.onnx_artifact import OnnxOutputs

        value = value_of(module, example)
        bounds = [_bounded(spec.bounds(leaf)) for leaf in spec.tensors]
        flat = TensorsOnly(module, example)
        modes = [(each, each.training) for each in flat.modules()]
        try:
            model = openvino.convert_model(
                flat, input=bounds, example_input=example.tensors(), **options
            )
        finally:  # it puts all of them into eval mode
            for each, mode in modes:
                each.training = mode
        names = [f"input_{number}" for number in range(len(model.inputs))]
        for name, each in zip(names, model.inputs, strict=True):
            each.get_tensor().set_names({name})
        made = functools.cache(lambda: targets.get("trace").export(module, example, spec))

        def traced(*args: Any, **kwargs: Any) -> Any:
            artifact: Any = made()
            return artifact(*args, **kwargs)

        return Converted(
            program=model,
            facts=ProgramFacts(),
            steps=lambda: (MadeOf("trace", traced, "capture"),),
            names=names,
            inside=[isinstance(leaf, torch.Tensor) for leaf in example.leaves()],
            outputs=OnnxOutputs.of(value, len(model.outputs)),
            baked=constant_arguments(spec, example),
        )


def _bounded(axes: Iterable[tuple[int, int | None]]) -> Any:
    import openvino

    ends = [(low, -1 if high is None else high) for low, high in axes]
    return openvino.PartialShape([openvino.Dimension(*each) for each in ends])


TARGET, TRACE = OpenVino(), OpenVinoTrace()

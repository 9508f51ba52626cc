"""ONNX Runtime: run an ONNX file, here with torch's tensors, in the clean process without torch.

As it is served; and for a diagnosis node by node, or by onnx.reference.

torch is imported only by the functions that take or make tensors.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_torchexport.sandbox.libraries import THREADS
from pytest_torchexport.sandbox.wire import Array
from pytest_torchexport.targets.formats import onnx_model
from pytest_torchexport.targets.formats.facts import ProgramFacts

if TYPE_CHECKING:
    import torch

# The path of LOADER, for a process without torch.
LOADER_PATH = "pytest_torchexport.targets.formats.onnx_runtime:LOADER"
INSTALL = {
    "cpu": "pip install 'pytest-torchexport[onnx]'",
    "cuda": "pip install 'pytest-torchexport[onnx-gpu]'",
}
# OrtLoggingLevel.FATAL: https://onnxruntime.ai/docs/api/python/api_summary.html
FATAL = 4
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
ON_CUDA = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")
# Set to "1", a graph of which a node is left to the CPU is refused.
ALONE = "session.disable_cpu_ep_fallback"

# Loads a file for a person, without this package; ``read`` makes tensors of a call.
SCRIPT = """\
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
provider = f"{device.partition(':')[0].upper()}ExecutionProvider"
session = onnxruntime.InferenceSession(path, options, providers=[provider])


def artifact(**inputs):
    \"\"\"Run the model on tensors by input name; return its outputs in order.\"\"\"
    names = [item.name for item in session.get_inputs()]
    arrays = {name: torch.as_tensor(inputs[name]).cpu().numpy() for name in names}
    found = session.run(None, arrays)
    return [torch.from_numpy(array.astype(array.dtype.name)).to(device) for array in found]
"""

# As torch is set during a check: without TF32, and without kernels picked by measuring their time.
CUDA_SETTINGS = {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}


def unavailable(device: str, needs: Sequence[str]) -> str | None:
    """Return why ONNX cannot be checked on this device, with the command that helps; else None."""
    kind = device.partition(":")[0]
    missing = [name for name in needs if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed: {INSTALL[kind]}"
    import onnxruntime

    if PROVIDERS[kind] not in onnxruntime.get_available_providers():
        return f"this onnxruntime has no {PROVIDERS[kind]}: {INSTALL[kind]}"
    return None


@dataclass(frozen=True, kw_only=True)
class Optimizations:
    """The optimizations that ONNX Runtime makes when it opens a file: by default, all.

    ``disabled``: the names of optimizers that it leaves out. ``written``: where it writes the graph
    as it runs it.
    """

    enabled: bool = True
    disabled: tuple[str, ...] = ()
    written: Path | None = None


AS_SHIPPED = Optimizations()


def open_session(
    path: Path,
    device: str,
    optimizations: Optimizations = AS_SHIPPED,
    settings: Mapping[str, str] = MappingProxyType({}),
    *,
    alone: bool = True,
) -> Any:
    """Return an ``onnxruntime.InferenceSession``. Raises RuntimeError if on another device.

    ``device`` may be the name of an execution provider, which gets the ``settings``. What it has no
    kernels for, the CPU runs; ``alone``: it is tried without the CPU first.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS.allowed, 1
    if not optimizations.enabled:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimizations.written is not None:
        options.optimized_model_filepath = str(optimizations.written)
    # A failure is raised as well: the logger would write a line per call past pytest's capture.
    options.log_severity_level = FATAL
    kind, _, index = device.partition(":")
    wanted = PROVIDERS.get(kind, kind)
    by_name = device == wanted != PROVIDERS["cpu"]
    if wanted in ON_CUDA:
        # Without torch, nothing else has loaded CUDA's libraries from where pip installs them.
        onnxruntime.preload_dlls()
    on_cuda = {"device_id": index or "0"} | ({} if THREADS.allowed > 1 else CUDA_SETTINGS)
    if wanted == PROVIDERS["cuda"]:
        settings = on_cuda
    if by_name:
        options.add_session_config_entry(ALONE, f"{alone:d}")
    # What TensorRT leaves is run on the same device.
    others = [(PROVIDERS["cuda"], on_cuda)] if wanted in ON_CUDA[1:] else []
    try:
        session = onnxruntime.InferenceSession(
            str(path),
            options,
            providers=[(wanted, dict(settings)), *others],
            disabled_optimizers=list(optimizations.disabled),
        )
    except Exception:
        if not (by_name and alone):
            raise
        return open_session(path, device, optimizations, settings, alone=False)
    actual = session.get_providers()[0]
    if actual != wanted:
        # ONNX Runtime only warns and falls back, which would check the CPU under another name.
        raise RuntimeError(f"ONNX Runtime uses {actual}, not the {wanted} that was asked for")
    return session


def is_alone(session: Any) -> bool | None:
    """Return False if an execution provider leaves nodes to others; None if none was asked for."""
    try:
        alone: str = session.get_session_options().get_session_config_entry(ALONE)
    except RuntimeError:  # it has no such entry
        return None
    return alone == "1"


# The least, the example's and the largest size of an axis; None: no largest one.
Axis: TypeAlias = tuple[int, int, int | None]


def tensorrt_profiles(inputs: Mapping[str, Sequence[Axis]]) -> dict[str, str]:
    """Return the shapes for which TensorRT builds its engine, from the axes of each input.

    Empty if a largest size is not known: TensorRT then builds for the first call, and again for one
    that does not fit. https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html
    """
    if any(high is None for axes in inputs.values() for *_, high in axes):
        return {}
    shapes = {name: list(zip(*axes, strict=True)) for name, axes in inputs.items() if axes}
    return {
        f"trt_profile_{end}_shapes": ",".join(
            f"{name}:{'x'.join(str(max(size, 1)) for size in ends[number])}"
            for name, ends in shapes.items()
        )
        for number, end in enumerate(("min", "opt", "max"))
    }


def lacking(provider: str) -> str | None:
    """Return why ONNX Runtime has no such execution provider here, with the next step; or None."""
    import onnxruntime

    there, known = onnxruntime.get_available_providers(), onnxruntime.get_all_providers()
    if provider in there:
        return None
    if provider not in known:
        return f"ONNX Runtime knows no such name; legal: {', '.join(known)}"
    return (
        f"this onnxruntime has {', '.join(there)}; next step: install one that has it "
        "(onnxruntime-gpu, onnxruntime-openvino), or leave it out of torchexport_serve_on"
    )


class _OnnxFile:
    def __init__(
        self,
        path: Path,
        device: str,
        optimizations: Optimizations = AS_SHIPPED,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.session = open_session(path, device, optimizations, settings)
        self.device = device
        # Exporters drop unused inputs.
        self.declared = {item.name: _dtype(item.type) for item in self.session.get_inputs()}
        self.input_names = list(self.declared)

    def ordered(self, args: Sequence[Any]) -> dict[str, Any]:
        """Return the inputs by the names that they have in the file."""
        return dict(zip(self.input_names, args, strict=bool(args)))

    def run(self, feeds: Mapping[str, Any], of: Callable[[Any, str], Any]) -> list[Any]:
        """Run the file on ``feeds``, each made an OrtValue by ``of``, and return OrtValues."""
        import onnxruntime

        quietly = onnxruntime.RunOptions()
        quietly.log_severity_level = FATAL
        found: list[Any] = self.session.run_with_ort_values(None, self.values(feeds, of), quietly)
        return found

    def values(self, feeds: Mapping[str, Any], of: Callable[[Any, str], Any]) -> dict[str, Any]:
        """Return ``of(value, dtype)`` by input name; ``dtype`` is what the file declares.

        Names that the file does not have are left out.
        """
        return {
            name: of(feeds[name], dtype) for name, dtype in self.declared.items() if name in feeds
        }


class TensorFile(_OnnxFile):
    """Called with tensors by input name or in order; returns a list of tensors."""

    def __call__(self, *args: Any, **feeds: Any) -> list[torch.Tensor]:
        values = self.run(feeds | named(self.ordered(args)), of_tensor)
        return [to_tensor(value).to(self.device) for value in values]

    def prepared(self, feeds: Mapping[str, Any]) -> Callable[[], list[Any]]:
        """Return a function that runs the file on tensors by input name, and returns OrtValues."""
        return partial(self.session.run_with_ort_values, None, self.values(feeds, of_tensor))


class ArrayFile(_OnnxFile):
    """Called with Arrays by input name or in order; returns a list of Arrays. Needs no torch."""

    def __call__(self, *args: Any, **feeds: Any) -> list[Array]:
        return [_to_array(value) for value in self.run(feeds | self.ordered(args), _of_array)]


# -- values ----------------------------------------------------------------------------------------

# Types that numpy lacks: the integers of their width, and their numbers in the format,
# https://onnx.ai/onnx/api/mapping.html and onnx.TensorProto.DataType.
_BITS = {
    "bfloat16": ("uint16", 16),
    "float8_e4m3fn": ("uint8", 17),
    "float8_e4m3fnuz": ("uint8", 18),
    "float8_e5m2": ("uint8", 19),
    "float8_e5m2fnuz": ("uint8", 20),
}
# torch's names for the types of OrtValues, where they are not ONNX's own.
_NAMES = {"float": "float32", "double": "float64"} | {
    name.replace("_", ""): name for name in _BITS if name.startswith("float8")
}
# The dtypes that an input may have which takes a Python number; the first if it has another one.
_FLOATS = ("float32", "float64", "float16")
_OF_NUMBERS = {bool: ("bool",), int: ("int64", "int32", *_FLOATS), float: _FLOATS}


def named(feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Return feeds in ONNX's form: complex numbers become pairs of reals."""
    import torch

    return {
        name: torch.view_as_real(value)
        if isinstance(value, torch.Tensor) and value.is_complex()
        else value
        for name, value in feeds.items()
    }


def _ort_value(value: Any, dtype: str) -> Any:
    """Return the OrtValue of an array; ``value`` holds bits if numpy lacks the dtype.

    Of a Python number, ``dtype`` is what the file declares.
    """
    import numpy as np
    import onnxruntime

    if isinstance(value, bool | int | float):
        legal = _OF_NUMBERS[type(value)]
        array = np.asarray(value, dtype if dtype in legal else legal[0])
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    if dtype in _BITS:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(value, _BITS[dtype][1])
    return onnxruntime.OrtValue.ortvalue_from_numpy(value)


def of_tensor(value: Any, declared: str = "") -> Any:
    """Return the OrtValue of a tensor, or of a number in the dtype that the file declares."""
    import torch

    if not isinstance(value, torch.Tensor):
        return _ort_value(value, declared)
    dtype = str(value.dtype).removeprefix("torch.")
    tensor = value.detach().cpu().contiguous()
    if dtype in _BITS:
        tensor = tensor.view(getattr(torch, _BITS[dtype][0]))
    return _ort_value(tensor.numpy(), dtype)


def _of_array(value: Any, declared: str) -> Any:
    import numpy as np

    if not isinstance(value, Array):
        return _ort_value(value, declared)
    kind = _BITS[value.dtype][0] if value.dtype in _BITS else value.dtype
    return _ort_value(np.frombuffer(value.data, kind).reshape(value.shape), value.dtype)


def _dtype(type_: str) -> str:
    """Return torch's name for a type of ONNX Runtime's, ``tensor(double)``."""
    name = type_.removeprefix("tensor(").removesuffix(")")
    return _NAMES.get(name, name)


def to_tensor(value: Any) -> torch.Tensor:
    import torch

    array = _to_array(value)
    dtype = getattr(torch, array.dtype)
    if not array.data:
        return torch.empty(array.shape, dtype=dtype)
    return torch.frombuffer(array.data, dtype=dtype).reshape(array.shape)


def _to_array(value: Any) -> Array:
    """Copy by address: numpy lacks some types, and OrtValue has no public way to read those."""
    import numpy as np

    dtype, shape = _dtype(value.data_type()), tuple(value.shape())
    width = np.dtype(_BITS[dtype][0] if dtype in _BITS else dtype).itemsize
    data = bytearray(ctypes.string_at(value.data_ptr(), math.prod(shape) * width))
    return Array(dtype, shape, data)


# -- the values inside, node by node ---------------------------------------------------------------

EXPOSED = "exposed.onnx"
PLAIN = Optimizations(enabled=False)
# "Non-zero status code returned while running Reshape node. Name:'node_view' Status Message: ..."
_FAILED_NODE = re.compile(r"while running \w+ node\. Name:'([^']*)'")


@dataclass(frozen=True, kw_only=True)
class Inside:
    """The values of one run by name, inputs included, and the node at which it raised."""

    values: dict[str, torch.Tensor]
    raised_at: Any = None


def run_inside(
    path: Path, device: str, feeds: Mapping[str, Any], constants: Container[str] = ()
) -> Inside:
    """Run a file in ONNX Runtime without optimizations, and return every value of its main graph.

    If a node raises, the values before it. Values that are no tensors are left out, and so are
    initializers, but for those in ``constants``.
    """
    model = onnx_model.read(path)
    nodes = list(model.graph.node)
    try:
        values = _run(path, model, device, feeds, constants)
        return Inside(values=values)
    except Exception as error:
        failed = _FAILED_NODE.search(str(error))
        at = next((i for i, node in enumerate(nodes) if failed and node.name == failed[1]), None)
        if at is None:
            raise
    del model.graph.node[at:]
    del model.graph.output[:]
    values = _run(path, model, device, feeds, constants)
    return Inside(values=values, raised_at=nodes[at])


def _run(
    path: Path, model: Any, device: str, feeds: Mapping[str, Any], constants: Container[str]
) -> dict[str, torch.Tensor]:
    """Run a model that lies beside ``path``, with every value as an output."""
    names = [name for node in model.graph.node for name in node.output]
    names += [tensor.name for tensor in model.graph.initializer if tensor.name in constants]
    file = OpenFile(path, model, names, device, PLAIN)
    returned = zip(file.session.get_outputs(), file.run(feeds, of_tensor), strict=True)
    inputs = {name: feeds[name] for name in file.input_names if name in feeds}
    return inputs | {item.name: to_tensor(value) for item, value in returned if value.is_tensor()}


class OpenFile(TensorFile):
    """An ONNX model whose graph also returns values inside it, written beside its file.

    Raises if ONNX Runtime refuses an output.
    """

    def __init__(
        self,
        path: Path,
        model: Any,
        names: Iterable[str],
        device: str,
        optimizations: Optimizations = AS_SHIPPED,
    ) -> None:
        import onnx

        known = {"", *(value.name for value in model.graph.output)}
        self._inner = [name for name in dict.fromkeys(names) if name not in known]
        # ONNX Runtime infers their types.
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._inner)
        path = path.with_name(EXPOSED)
        path.write_bytes(model.SerializeToString())
        super().__init__(path, device, optimizations)

    def show(
        self, feeds: Mapping[str, Any], see: Callable[[str, torch.Tensor], None]
    ) -> list[torch.Tensor]:
        """Run it, hand the values inside to ``see``, and return what the file itself returns."""
        import torch

        found = self(**feeds)
        count = len(found) - len(self._inner)
        for name, value in zip(self._inner, found[count:], strict=True):
            if value.is_floating_point() or value.dtype == torch.int64:
                see(name, value)
        return found[:count]


class ReferenceFile:
    """A file run by onnx.reference, called like a TensorFile."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises whatever onnx.reference does not take."""
        self._run = BY_REFERENCE.load(path, "cpu")

    def __call__(self, **feeds: Any) -> list[torch.Tensor]:
        import numpy as np
        import torch

        arrays = {
            name: value.detach().cpu().numpy()
            if isinstance(value, torch.Tensor)
            else np.asarray(value, np.float32 if isinstance(value, float) else None)
            for name, value in named(feeds).items()
        }
        return [
            torch.from_numpy(np.ascontiguousarray(value).reshape(np.shape(value)))
            for value in self._run(**arrays)
        ]


# -- the clean process -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OnnxFileFacts(onnx_model.OnnxModelFacts):
    """The facts of a file that was loaded: with what is wrong with it, and the session's inputs.

    ``alone`` is what ``is_alone`` returns.
    """

    path: Path
    session: Any

    def as_plain(self, *, foreign: bool) -> dict[str, Any]:
        """Return its problems; of a foreign file what it declares of its values too."""
        found = {
            **super().as_plain(foreign=foreign),
            "problems": onnx_model.problems(self.path),
            "alone": is_alone(self.session),
        }
        if not foreign:
            return found
        names = [item.name for item in self.session.get_inputs()]
        shapes = onnx_model.input_shapes(self.model(), names)
        precision, ranges = onnx_model.precision(self.model()), onnx_model.ranges(self.model())
        return {**found, "names": names, "shapes": shapes, "precision": precision, "ranges": ranges}


class TorchFreeLoader:
    def load(self, path: Path, device: str, provider: str = "", **options: Any) -> ArrayFile:
        settings = {name: value for name, value in options.items() if name.startswith("trt_")}
        return ArrayFile(path, provider or device, settings=settings)

    def read(self, path: Path, loaded: ArrayFile) -> OnnxFileFacts:
        model = onnx_model.read(path)
        return OnnxFileFacts(model=lambda: model, path=path, session=loaded.session)


class ByReference:
    """Loads ONNX files for onnx.reference: each node in its own types, on numpy arrays."""

    def load(self, path: Path, _device: str) -> Callable[..., list[Any]]:
        import numpy as np
        import onnx
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(onnx.load(str(path)))

        def run(*args: Any, **feeds: Any) -> list[Any]:
            given = {**dict(zip(evaluator.input_names, args, strict=False)), **feeds}
            taken = {name: given[name] for name in evaluator.input_names if name in given}
            with np.errstate(all="ignore"):  # an overflow is what is looked for
                return [np.asarray(value) for value in evaluator.run(None, taken)]

        return run

    def read(self, _path: Path, _loaded: Any) -> ProgramFacts:
        return ProgramFacts()


LOADER, BY_REFERENCE = TorchFreeLoader(), ByReference()

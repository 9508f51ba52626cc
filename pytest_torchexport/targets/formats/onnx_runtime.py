"""ONNX Runtime: run an ONNX file, here with torch's tensors, in the clean process without torch.

torch is imported only by the functions that take or make tensors.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_torchexport.sandbox.libraries import THREADS
from pytest_torchexport.sandbox.wire import Array
from pytest_torchexport.targets.formats import onnx_model

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


def open_session(path: Path, device: str, optimizations: Optimizations = AS_SHIPPED) -> Any:
    """Return an ``onnxruntime.InferenceSession``. Raises RuntimeError if on another device."""
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
    wanted = PROVIDERS[kind]
    settings = {}
    if kind == "cuda":
        # Without torch, nothing else has loaded CUDA's libraries from where pip installs them.
        onnxruntime.preload_dlls()
        precise = {} if THREADS.as_served else CUDA_SETTINGS
        settings = precise | {"device_id": index or "0"}
    session = onnxruntime.InferenceSession(
        str(path),
        options,
        providers=[(wanted, settings)],
        disabled_optimizers=list(optimizations.disabled),
    )
    actual = session.get_providers()[0]
    if actual != wanted:
        # ONNX Runtime only warns and falls back, which would check the CPU under another name.
        raise RuntimeError(f"ONNX Runtime uses {actual}, not the {wanted} that was asked for")
    return session


def run_session(session: Any, feeds: Mapping[str, Any]) -> list[Any]:
    """Return the OrtValues that a session returns for OrtValues by input name."""
    import onnxruntime

    quietly = onnxruntime.RunOptions()
    quietly.log_severity_level = FATAL
    found: list[Any] = session.run_with_ort_values(None, dict(feeds), quietly)
    return found


class _OnnxFile:
    """One ONNX file in ONNX Runtime."""

    def __init__(self, path: Path, device: str, optimizations: Optimizations = AS_SHIPPED) -> None:
        self.session = open_session(path, device, optimizations)
        self.device = device
        # Exporters drop unused inputs.
        self.declared = {item.name: _name(item.type) for item in self.session.get_inputs()}
        self.input_names = list(self.declared)

    def ordered(self, args: Sequence[Any]) -> dict[str, Any]:
        """Return the inputs by the names that they have in the file."""
        return dict(zip(self.input_names, args, strict=bool(args)))

    def run(self, feeds: Mapping[str, Any], of: Callable[[Any, str], Any]) -> list[Any]:
        """Run the file on ``feeds``, each made an OrtValue by ``of``, and return OrtValues."""
        return run_session(self.session, self.values(feeds, of))

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
        """Run the file on these inputs."""
        values = self.run(feeds | named(self.ordered(args)), of_tensor)
        return [to_tensor(value).to(self.device) for value in values]

    def prepared(self, feeds: Mapping[str, Any]) -> Callable[[], list[Any]]:
        """Return what runs the file on these tensors by input name, and returns OrtValues."""
        return partial(self.session.run_with_ort_values, None, self.values(feeds, of_tensor))


class OpenFile(TensorFile):
    """An ONNX file whose graph also returns the values that its nodes decide on.

    ``save`` writes the file to a directory and returns its path. Raises if ONNX Runtime refuses an
    output.
    """

    def __init__(self, save: Callable[[Path], Path], device: str) -> None:
        import onnx

        with tempfile.TemporaryDirectory(prefix="torchexport-") as directory:
            path = save(Path(directory))
            model = onnx_model.read(path)
            kept = {value.name for value in model.graph.output}
            names = [name for name in onnx_model.decided_on(model) if name not in kept]
            # ONNX Runtime infers their types.
            model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
            path.write_bytes(model.SerializeToString())
            super().__init__(path, device)
        self._names = names

    def show(
        self, feeds: Mapping[str, Any], see: Callable[[str, torch.Tensor], None]
    ) -> list[torch.Tensor]:
        """Run it, hand the values inside to ``see``, and return what the file itself returns."""
        import torch

        found = self(**feeds)
        count = len(found) - len(self._names)
        for name, value in zip(self._names, found[count:], strict=True):
            if value.is_floating_point() or value.dtype == torch.int64:
                see(name, value)
        return found[:count]


class ArrayFile(_OnnxFile):
    """Called with Arrays by input name or in order; returns a list of Arrays. Needs no torch."""

    def __call__(self, *args: Any, **feeds: Any) -> list[Array]:
        """Run the file on these inputs."""
        return [_to_array(value) for value in self.run(feeds | self.ordered(args), _of_array)]


def named(feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Return feeds in ONNX's form: complex numbers become pairs of reals."""
    import torch

    return {
        name: torch.view_as_real(value)
        if isinstance(value, torch.Tensor) and value.is_complex()
        else value
        for name, value in feeds.items()
    }


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


def _of_numpy(array: Any, dtype: str) -> Any:
    import onnxruntime

    if dtype in _BITS:
        kind = _BITS[dtype][1]
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, kind)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


# The dtypes that an input may have which takes a Python number; the first if it has another one.
_FLOATS = ("float32", "float64", "float16")
_OF_NUMBERS = {bool: ("bool",), int: ("int64", "int32", *_FLOATS), float: _FLOATS}


def _of_number(value: bool | float, declared: str) -> Any:
    import numpy as np

    legal = _OF_NUMBERS[type(value)]
    return _of_numpy(np.asarray(value, declared if declared in legal else legal[0]), "")


def of_tensor(value: Any, declared: str = "") -> Any:
    """Return the OrtValue of a tensor, or of a number in the dtype that the file declares."""
    import torch

    if not isinstance(value, torch.Tensor):
        return _of_number(value, declared)
    dtype = str(value.dtype).removeprefix("torch.")
    tensor = value.detach().cpu().contiguous()
    if dtype in _BITS:
        tensor = tensor.view(getattr(torch, _BITS[dtype][0]))
    return _of_numpy(tensor.numpy(), dtype)


def _of_array(value: Any, declared: str) -> Any:
    import numpy as np

    if not isinstance(value, Array):
        return _of_number(value, declared)
    kind = _BITS[value.dtype][0] if value.dtype in _BITS else value.dtype
    return _of_numpy(np.frombuffer(value.data, kind).reshape(value.shape), value.dtype)


def _name(type_: str) -> str:
    """Return torch's name for a type of ONNX Runtime's, ``tensor(double)``."""
    name = type_.removeprefix("tensor(").removesuffix(")")
    return _NAMES.get(name, name)


def _dtype(value: Any) -> str:
    """Return torch's name for the type of an OrtValue."""
    return _name(value.data_type())


def to_tensor(value: Any) -> torch.Tensor:
    import torch

    dtype = _dtype(value)
    if dtype in _BITS:
        array = _to_array(value)
        flat = (
            torch.frombuffer(array.data, dtype=torch.uint8)
            if array.data
            else torch.empty(0, dtype=torch.uint8)
        )
        return flat.view(getattr(torch, dtype)).reshape(array.shape)
    # numpy has two names for 64 bits, of which torch knows one.
    return torch.from_numpy(value.numpy().view(dtype))


def _to_array(value: Any) -> Array:
    """Copy by address: numpy lacks some types, and OrtValue has no public way to read those."""
    import numpy as np

    dtype = _dtype(value)
    shape = tuple(value.shape())
    width = np.dtype(_BITS[dtype][0] if dtype in _BITS else dtype).itemsize
    data = bytearray(ctypes.string_at(value.data_ptr(), math.prod(shape) * width))
    return Array(dtype, shape, data)


# -- the clean process -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OnnxFileFacts(onnx_model.OnnxModelFacts):
    """The facts of a file that was loaded: with what is wrong with it, and the session's inputs."""

    path: Path
    session: Any

    def weights(self) -> dict[str, str]:
        """Return the digests of its initializers."""
        return onnx_model.weights(self.path)

    def as_plain(self, *, foreign: bool) -> dict[str, Any]:
        """Return its problems; of a foreign file what it declares of its values too."""
        found = {**super().as_plain(foreign=foreign), "problems": onnx_model.problems(self.path)}
        return {**found, **self._declared()} if foreign else found

    def _declared(self) -> dict[str, Any]:
        names = [item.name for item in self.session.get_inputs()]
        return {
            "names": names,
            "shapes": onnx_model.input_shapes(self.model(), names),
            "outputs": self.outputs(),
        }


class TorchFreeLoader:
    """Loads ONNX files without torch."""

    def load(self, path: Path, device: str) -> ArrayFile:
        """Return a session on the device."""
        return ArrayFile(path, device)

    def read(self, path: Path, loaded: ArrayFile) -> OnnxFileFacts:
        """Return the facts of a loaded file."""
        model = onnx_model.read(path)
        return OnnxFileFacts(model=lambda: model, path=path, session=loaded.session)


LOADER = TorchFreeLoader()

"""ONNX Runtime, and nothing of any exporter: sessions whose provider is the one that was asked for.

Not a target itself. Both ONNX targets run and load their files through it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

INSTALL = {
    "cpu": "pip install 'pytest-torchexport[onnx]'",
    "cuda": "pip install 'pytest-torchexport[onnx-gpu]'",
}
# OrtLoggingLevel.FATAL: https://onnxruntime.ai/docs/api/python/api_summary.html
FATAL = 4
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def unavailable(device: str, needs: Sequence[str]) -> str | None:
    """Why ONNX cannot be checked on this device, with the line that installs what is missing."""
    kind = device.partition(":")[0]
    missing = [name for name in needs if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed: {INSTALL[kind]}"
    import onnxruntime

    if PROVIDERS[kind] not in onnxruntime.get_available_providers():
        return f"this onnxruntime has no {PROVIDERS[kind]}: {INSTALL[kind]}"
    return None


class Session:
    """One ONNX file in ONNX Runtime. Called with tensors by input name; returns a list of tensors."""

    def __init__(self, path: Path, device: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # What fails is raised as well: its logger would write a line per call past everybody.
        options.log_severity_level = FATAL
        kind, _, index = device.partition(":")
        wanted = PROVIDERS[kind]
        # TF32 is the default of ONNX Runtime's CUDA provider, and off in torch's own check.
        settings = {"device_id": index or "0", "use_tf32": "0"} if kind == "cuda" else {}
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=[(wanted, settings)]
        )
        actual = self.session.get_providers()[0]
        if actual != wanted:
            # ONNX Runtime only warns and falls back, which would check the CPU under another name.
            raise RuntimeError(f"ONNX Runtime uses {actual}, not the {wanted} that was asked for")
        self._quietly = onnxruntime.RunOptions()
        self._quietly.log_severity_level = FATAL
        self._device = device
        self._inputs = [item.name for item in self.session.get_inputs()]

    @property
    def input_names(self) -> list[str]:
        """The inputs the file still has: exporters drop unused ones."""
        return self._inputs

    def __call__(self, *args: Any, **feeds: Any) -> list[torch.Tensor]:
        """Run the file on these inputs, by name or in order; names it does not have are left out."""
        feeds |= named(dict(zip(self._inputs, args, strict=bool(args))))
        values = {name: _to_ort(feeds[name]) for name in self._inputs if name in feeds}
        outputs = self.session.run_with_ort_values(None, values, self._quietly)
        return [_from_ort(value).to(self._device) for value in outputs]


def has_loops(model: Any) -> bool:
    """Whether an ONNX model (an ``onnx.ModelProto``) holds a loop, which may never end."""
    return any(node.op_type == "Loop" for graph in _graphs(model.graph) for node in graph.node)


def _graphs(graph: Any) -> list[Any]:
    found = [graph]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += _graphs(attribute.g)
    return found


def named(feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Feeds as ONNX has them: complex numbers are pairs of reals there."""
    return {
        name: torch.view_as_real(value)
        if isinstance(value, torch.Tensor) and value.is_complex()
        else value
        for name, value in feeds.items()
    }


def _to_ort(value: Any) -> Any:
    import numpy as np
    import onnxruntime

    if not isinstance(value, torch.Tensor):
        kinds = {bool: np.bool_, int: np.int64, float: np.float32}
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(value, kinds[type(value)]))
    tensor = value.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        raw = tensor.view(torch.uint16).numpy()
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, _BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(tensor.numpy())


def _from_ort(value: Any) -> torch.Tensor:
    if value.data_type() == "tensor(bfloat16)":
        # OrtValue has no public dlpack protocol, and numpy no bfloat16.
        return torch.utils.dlpack.from_dlpack(value._get_c_value()).clone()
    return torch.from_numpy(value.numpy())


# onnx.TensorProto.BFLOAT16, a constant of the format: https://onnx.ai/onnx/api/mapping.html
_BFLOAT16 = 16

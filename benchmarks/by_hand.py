"""Call torch's exporters by hand, as a user would without the plugin."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
from networks import RANGES, Network
from torch import Tensor, nn
from torch.export import Dim


def exported(network: Network, module: nn.Module, target: str) -> Callable[..., Any]:
    module = copy.deepcopy(module)
    with torch.no_grad():
        return EXPORTERS[target](network, module)


def _trace(network: Network, module: nn.Module) -> Callable[..., Any]:
    return torch.jit.trace(module, network.example(), check_trace=False)


def _script(network: Network, module: nn.Module) -> Callable[..., Any]:
    return torch.jit.script(module)


def _export(network: Network, module: nn.Module) -> Callable[..., Any]:
    shapes = _dynamic_shapes(network)
    return torch.export.export(module, network.example(), dynamic_shapes=shapes).module()


def _onnx(network: Network, module: nn.Module) -> Callable[..., Any]:
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(
        module,
        network.example(),
        dynamic_shapes=_dynamic_shapes(network),
        dynamo=True,
        verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [given.name for given in session.get_inputs()]
    keys = _keys(module, network)

    def call(*args: Tensor) -> Any:
        # The file may lack inputs that no output depends on.
        given = dict(zip(network.shapes, args, strict=True))
        outputs = session.run(None, {name: given[name].numpy() for name in names})
        tensors = [torch.from_numpy(output) for output in outputs]
        return dict(zip(keys, tensors, strict=True)) if keys else tuple(tensors)

    return call


def _keys(module: nn.Module, network: Network) -> list[str]:
    """Return the keys of eager's outputs: a dict's keys, none for a tuple, one for a tensor."""
    output = copy.deepcopy(module)(*network.example())
    if isinstance(output, dict):
        return list(output)
    return [] if isinstance(output, tuple) else [""]


def _dynamic_shapes(network: Network) -> dict[str, dict[int, Any]]:
    dims = {name: Dim(name, min=low, max=high) for name, (low, high) in RANGES.items()}
    return {
        name: {axis: dims[word] for axis, word in enumerate(text.split()) if word in dims}
        for name, text in network.shapes.items()
    }


EXPORTERS = {"trace": _trace, "script": _script, "export": _export, "onnx": _onnx}

"""The values inside an ONNX graph: what ONNX Runtime or onnx.reference computes node by node.

Apart from ``onnx_runtime``, which runs files as they are served.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.targets.formats import onnx_model
from pytest_torchexport.targets.formats.onnx_runtime import (
    Optimizations,
    TensorFile,
    named,
    of_tensor,
    to_tensor,
)

EXPOSED = "exposed.onnx"
PLAIN = Optimizations(enabled=False)
# "Non-zero status code returned while running Reshape node. Name:'node_view' Status Message: ..."
_FAILED_NODE = re.compile(r"while running \w+ node\. Name:'([^']*)'")

Values = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Inside:
    """The values of one run by name, inputs included, and the node at which it raised."""

    values: Values
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
) -> Values:
    """Run a model that lies beside ``path``, with every value as an output."""
    import onnx

    known = {"", *(value.name for value in model.graph.output)}
    names = [name for node in model.graph.node for name in node.output]
    names += [tensor.name for tensor in model.graph.initializer if tensor.name in constants]
    for name in names:
        if name not in known:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    beside = path.with_name(EXPOSED)
    beside.write_bytes(model.SerializeToString())
    file = TensorFile(beside, device, PLAIN)
    names = [value.name for value in file.session.get_outputs()]
    found = zip(names, file.run(feeds, of_tensor), strict=True)
    inputs = {name: feeds[name] for name in file.input_names if name in feeds}
    return inputs | {name: to_tensor(value) for name, value in found if value.is_tensor()}


class ReferenceFile:
    """A file run by onnx.reference, called like a TensorFile."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises whatever onnx.reference does not take."""
        import onnx
        from onnx.reference import ReferenceEvaluator

        self._evaluator = ReferenceEvaluator(onnx.load(str(path)))

    def __call__(self, *args: Any, **feeds: Any) -> list[torch.Tensor]:
        """Run the file on these inputs."""
        names = self._evaluator.input_names
        given = {name: _to_numpy(value) for name, value in named(feeds).items() if name in names}
        found = self._evaluator.run(None, given)
        return [_from_numpy(value) for value in found]


def _to_numpy(value: Any) -> Any:
    import numpy as np

    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    return np.asarray(value, np.float32 if isinstance(value, float) else None)


def _from_numpy(value: Any) -> torch.Tensor:
    import numpy as np

    return torch.from_numpy(np.ascontiguousarray(value).reshape(np.shape(value)))

"""The values inside an ONNX graph: what ONNX Runtime or onnx.reference computes node by node.

Apart from ``onnx_runtime``, which runs files as they are served.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Container, Iterable, Mapping
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
    names = [name for node in model.graph.node for name in node.output]
    names += [tensor.name for tensor in model.graph.initializer if tensor.name in constants]
    _expose(model, names)
    exposed = path.with_name(EXPOSED)
    exposed.write_bytes(model.SerializeToString())
    file = TensorFile(exposed, device, PLAIN)
    returned = zip(file.session.get_outputs(), file.run(feeds, of_tensor), strict=True)
    inputs = {name: feeds[name] for name in file.input_names if name in feeds}
    return inputs | {item.name: to_tensor(value) for item, value in returned if value.is_tensor()}


def _expose(model: Any, names: Iterable[str]) -> list[str]:
    """Make outputs of these values, and return the names of those that were none before."""
    import onnx

    known = {"", *(value.name for value in model.graph.output)}
    new = [name for name in dict.fromkeys(names) if name not in known]
    # ONNX Runtime infers their types.
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in new)
    return new


class OpenFile(TensorFile):
    """An ONNX file whose graph also returns the values that its nodes decide on.

    ``save`` writes the file to a directory and returns its path. Raises if ONNX Runtime refuses an
    output.
    """

    def __init__(self, save: Callable[[Path], Path], device: str) -> None:
        with tempfile.TemporaryDirectory(prefix="torchexport-") as directory:
            path = save(Path(directory))
            model = onnx_model.read(path)
            self._names = _expose(model, onnx_model.decided_on(model))
            path.write_bytes(model.SerializeToString())
            super().__init__(path, device)

    def show(
        self, feeds: Mapping[str, Any], see: Callable[[str, torch.Tensor], None]
    ) -> list[torch.Tensor]:
        """Run it, hand the values inside to ``see``, and return what the file itself returns."""
        found = self(**feeds)
        count = len(found) - len(self._names)
        for name, value in zip(self._names, found[count:], strict=True):
            if value.is_floating_point() or value.dtype == torch.int64:
                see(name, value)
        return found[:count]


class ReferenceFile:
    """A file run by onnx.reference, called like a TensorFile."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises whatever onnx.reference does not take."""
        import onnx
        from onnx.reference import ReferenceEvaluator

        self._evaluator = ReferenceEvaluator(onnx.load(str(path)))

    def __call__(self, *args: Any, **feeds: Any) -> list[torch.Tensor]:
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

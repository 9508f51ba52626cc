"""The artifact of both exporters to ONNX, and the way from a graph's outputs to eager's value."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import flatten
from pytest_torchexport.inputs.spec import Call, InputSpec, TensorLeaf
from pytest_torchexport.targets.base import NotAsAsked
from pytest_torchexport.targets.formats import onnx_model
from pytest_torchexport.targets.formats.onnx_model import FILENAME, OnnxModelFacts, input_shapes
from pytest_torchexport.targets.formats.onnx_runtime import Axis, OpenFile, TensorFile, named
from pytest_torchexport.targets.formats.sizes import SizeFacts, Suspicion, suspicions


@dataclass(frozen=True, kw_only=True)
class OnnxArtifactFacts(OnnxModelFacts):
    """The facts of an ONNX model, and of the ExportedPrograms that it was made from, if any.

    ``inside`` says of each leaf of the call whether it is an input of the graph; ``names`` are
    those of the inputs. The file keeps no guards of ``captured``.
    """

    inside: tuple[bool, ...]
    names: tuple[str, ...]
    captured: Sequence[SizeFacts] = ()

    def axes_of(self, spec: InputSpec) -> dict[str, list[Axis]]:
        """Return the axes of each input; a complex one has pairs of reals."""
        leaves = zip(self.names, compress(spec.leaves, self.inside), strict=True)
        return {
            name: [
                (low, size, high)
                for (low, high), size in zip(spec.bounds(leaf), leaf.example.shape, strict=True)
            ]
            + ([(2, 2, 2)] if leaf.example.is_complex() else [])
            for name, leaf in leaves
            if isinstance(leaf, TensorLeaf)
        }

    def suspicions(self, spec: InputSpec, example: Call) -> tuple[Suspicion, ...]:
        waiting = iter(input_shapes(self.model(), self.names))
        shapes = [next(waiting) if inside else None for inside in self.inside]
        frozen = {
            source: line
            for facts in reversed(self.captured)
            for source, line in facts.frozen.items()
        }
        inputs = SizeFacts.of_inputs(shapes, frozen)
        return suspicions(spec, inputs, *self.captured, dropped=bool(self.captured))


# The options that a file shows, and how each is read from its model.
_WRITTEN: dict[str, Callable[[Any], Any]] = {
    "opset_version": onnx_model.opset,
    "input_names": lambda model: [value.name for value in model.graph.input],
    "output_names": lambda model: [value.name for value in model.graph.output],
    "external_data": lambda model: bool(onnx_model.locations(model)),
}


def require_asked(model: Callable[[], Any], options: Mapping[str, Any]) -> None:
    """Raise NotAsAsked if a file has another opset, other names or places than options ask for."""
    for name, read in _WRITTEN.items():
        wanted = options.get(name)
        if wanted is None or wanted is True:  # small weights are in the file, also if asked apart
            continue
        written = read(model())
        # The names of further inputs and outputs are the exporter's.
        compared = written[: len(wanted)] if isinstance(written, list) else written
        if compared != (list(wanted) if isinstance(written, list) else wanted):
            raise NotAsAsked(f"{name}={wanted!r} was asked for; the exporter wrote {written!r}")


@dataclass(frozen=True, kw_only=True)
class OnnxArtifact:
    """An ONNX model with its session.

    ``write`` saves the model in a directory. ``opened`` is the session that the export opened; None
    if its weights are large, so that they are in memory only once the artifact is called here.
    ``unoptimized`` are the options with which the exporter leaves its optimizer out.
    """

    program: Any
    outputs: OnnxOutputs
    write: Callable[[Path], None]
    opened: TensorFile | None
    device: str
    facts: OnnxArtifactFacts
    unoptimized: Mapping[str, Any]
    baked: tuple[str, ...] = ()
    module: Any = None
    dynamic_shapes: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.unpack_outputs(self.session(**self.pack_inputs(Call(args, kwargs)).kwargs))

    def show(self, call: Call, see: Callable[[str, Any], None]) -> Any:
        """Run it, and show the places that it chooses."""
        return self.unpack_outputs(self._open.show(self.pack_inputs(call).kwargs, see))

    @cached_property
    def native_loops(self) -> bool:
        return onnx_model.has_loops(self.facts.model())

    @cached_property
    def session(self) -> TensorFile:
        if self.opened is not None:
            return self.opened
        with self._saved() as path:
            return TensorFile(path, self.device)

    @cached_property
    def _open(self) -> OpenFile:
        with self._saved() as path:
            model = onnx_model.read(path)
            return OpenFile(path, model, onnx_model.decided_on(model), self.device)

    @contextmanager
    def _saved(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="torchexport-") as directory:
            yield self.save(Path(directory))

    def served(self, call: Call) -> Callable[[], Any]:
        return self.session.prepared(self.pack_inputs(call).kwargs)

    def save(self, directory: Path) -> Path:
        """Write ``model.onnx`` and, if its weights are apart, the files that hold them."""
        self.write(directory)
        return directory / FILENAME

    def pack_inputs(self, call: Call) -> Call:
        """Return the values by input name. Other arguments are constants, and vanish."""
        return packed(self.facts.names, compress(call.leaves(), self.facts.inside))

    def unpack_outputs(self, value: Any) -> Any:
        """Return eager's pytree of what the graph returned and of the constants it leaves out."""
        return self.outputs.unpack([tensor.to(self.device) for tensor in value])

    def pack_outputs(self, value: Any) -> dict[str, torch.Tensor] | None:
        """Return by path what the graph would return for a value of eager's; None if it cannot."""
        return self.outputs.pack(value)


def packed(names: Iterable[str], values: Iterable[Any]) -> Call:
    """Return the call of an ONNX file: a value for each input name, complex ones as pairs."""
    return Call((), named(dict(zip(names, values, strict=True))))


@dataclass(frozen=True, kw_only=True)
class Output:
    """A leaf of eager's value that the graph returns.

    ``is_number`` if eager has a Python number, which is a tensor in the graph; ``is_complex`` if
    eager has a complex tensor, which is pairs of reals in the graph.
    """

    is_number: bool = False
    is_complex: bool = False


@dataclass(frozen=True, kw_only=True)
class OnnxOutputs:
    """The way from a graph's flat list to eager's pytree.

    Each of ``leaves`` is an Output, or a constant that the graph leaves out; ``rebuild`` returns
    the pytree with given leaves.
    """

    leaves: tuple[Any, ...]
    rebuild: Callable[[Sequence[Any]], Any]

    @classmethod
    def of(cls, value: Any, count: int) -> OnnxOutputs:
        """Return which leaves of eager's value a graph with ``count`` outputs returns.

        The graph returns the tensors, or the tensors and the integers, because a size among the
        outputs is a tensor in the graph; the other leaves are constants. If neither are ``count``,
        the graph has another structure than eager, and its outputs are returned as they are.
        """
        leaves, structure = flatten(value)
        for numbers in ((), (int,), (int, bool)):
            inside = [isinstance(leaf, torch.Tensor) or type(leaf) in numbers for _, leaf in leaves]
            if sum(inside) == count:
                outputs = (
                    leaf
                    if not is_inside
                    else Output(is_complex=leaf.is_complex())
                    if isinstance(leaf, torch.Tensor)
                    else Output(is_number=True)
                    for (_, leaf), is_inside in zip(leaves, inside, strict=True)
                )
                return cls(leaves=tuple(outputs), rebuild=structure.unflatten)
        return cls(
            leaves=(Output(),) * count,
            rebuild=lambda leaves: leaves[0] if len(leaves) == 1 else tuple(leaves),
        )

    def unpack(self, tensors: Sequence[torch.Tensor]) -> Any:
        waiting = iter(tensors)
        leaves: list[Any] = []
        for leaf in self.leaves:
            value = next(waiting) if isinstance(leaf, Output) else leaf
            if isinstance(leaf, Output) and leaf.is_number:
                value = value.item()
            elif isinstance(leaf, Output) and leaf.is_complex and value.is_floating_point():
                pairs = value.shape[-1:] == (2,)
                value = torch.view_as_complex(value.contiguous()) if pairs else value
            leaves.append(value)
        return self.rebuild(leaves)

    def pack(self, value: Any) -> dict[str, torch.Tensor] | None:
        """Return by path what the graph would return for a value of eager's, in the graph's order.

        None if the value has another structure.
        """
        leaves = flatten(value, "output")[0]
        if len(leaves) != len(self.leaves):
            return None
        return named(
            {
                path: torch.as_tensor(leaf)
                for (path, leaf), output in zip(leaves, self.leaves, strict=True)
                if isinstance(output, Output)
            }
        )

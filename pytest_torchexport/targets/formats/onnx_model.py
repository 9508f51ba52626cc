"""ONNX files (``.onnx``): what a model says of itself, which files it needs, what is wrong with it.

Free of torch: the process that loads ONNX files has none. Only the model itself is read; the files
of external data that it names are found without opening them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pytest_torchexport.outcomes.operator_table import onnx_of_kind
from pytest_torchexport.targets.formats.branches import Branches, Place, frames_in, frames_of_fx
from pytest_torchexport.targets.formats.facts import ProgramFacts

FILENAME = "model.onnx"
# The longest text of the checker's that is passed on.
MESSAGE = 400
# A text of a model has the numbers of tensors that are no larger than this.
FEW = 16
# The fields of a TensorProto that hold its numbers.
NUMBERS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")
# The domains of ONNX's own operators.
_STANDARD = ("", "ai.onnx", "ai.onnx.ml")
# Operators that compute something else on the two sides of a number, an input of theirs.
_BOUNDED = onnx_of_kind("comparison", "clamp", "extremum")
# "%add : [num_users=1] = call_function[target=torch.ops.aten.add.Tensor](args = ...".
_FX_NODE = re.compile(r"%(\w+) ")

# Operators whose result jumps.
_JUMPING = onnx_of_kind("decides", "rounding", "cast", "choice", "inspection")


@dataclass(frozen=True, kw_only=True)
class OnnxModelFacts(ProgramFacts):
    """The facts of an ONNX model. ``model`` returns its ``onnx.ModelProto``."""

    model: Callable[[], Any]

    def inputs(self) -> tuple[str, ...]:
        """Return the names of the graph's inputs."""
        graph = self.model().graph
        weights = {item.name for item in graph.initializer}
        return tuple(value.name for value in graph.input if value.name not in weights)

    def outputs(self) -> tuple[tuple[int | None, ...], ...]:
        """Return the sizes of the graph's outputs."""
        return tuple(map(_sizes, self.model().graph.output))

    def branches(self) -> Branches:
        """Return its ``If``, ``Loop`` and ``Scan``, nested ones and those in functions.

        The exporter of ``dynamo=False`` writes no places (unless ``verbose``), and translates a few
        operators to such nodes as well.
        """
        nodes = nodes_of(self.model())
        return Branches.at(frames_of(n) for n in nodes if n.op_type in ("If", "Loop", "Scan"))

    def bounds(self) -> tuple[float, ...]:
        """Return the scalar constants that go into ``Clip``, ``Max``, ``Min`` and comparisons."""
        model = self.model()
        scalars = dict(_scalars(model))
        nodes = (node for node in nodes_of(model) if node.op_type in _BOUNDED)
        used = (scalars.get(name) for node in nodes for name in node.input)
        return tuple(dict.fromkeys(value for value in used if value is not None))

    def text(self) -> str:
        """Return it in ONNX's own syntax."""
        return text(self.model())


def read(path: Path) -> Any:
    """Return the ``onnx.ModelProto`` of a file, without its external data."""
    import onnx

    return onnx.load(str(path), format="protobuf", load_external_data=False)


# -- the graph -------------------------------------------------------------------------------------


def nodes_of(model: Any) -> Iterator[Any]:
    """Yield every node of a model, those of subgraphs and functions included."""
    import onnx

    yield from messages_of(model, onnx.NodeProto)


def messages_of(message: Any, wanted: type) -> Iterator[Any]:
    """Yield the protobuf messages of a type, wherever in a model a message may be.

    That is in subgraphs, functions, sparse tensors, and in what a later ONNX adds. Tensors are not
    looked into.
    """
    import onnx

    if isinstance(message, wanted):
        yield message
    if isinstance(message, onnx.TensorProto):
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in [value] if hasattr(value, "ListFields") else value:
                yield from messages_of(item, wanted)


def _scalars(model: Any) -> Iterator[tuple[str, float]]:
    """Yield the constants of one number by the name of their value."""
    import onnx
    from onnx import numpy_helper

    tensors = [
        (name, item)
        for graph in messages_of(model, onnx.GraphProto)
        for item in graph.initializer
        for name in [item.name]
    ]
    tensors += [
        (node.output[0], attribute.t)
        for node in nodes_of(model)
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.HasField("t")
    ]
    for name, tensor in tensors:
        inside = tensor.data_location != onnx.TensorProto.EXTERNAL
        if inside and not any(size != 1 for size in tensor.dims):
            yield name, float(numpy_helper.to_array(tensor).item())


def decided_on(model: Any) -> list[str]:
    """Return the names of the values that nodes of the graph decide on.

    Also of those that such a value is made of: a floor division is ``Div`` and ``Floor``. Not
    before a cast to floats, where ONNX Runtime would no longer fuse the nodes that make the value.
    And of the places that ``TopK`` chooses, with what is computed from them at once.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    found: dict[str, None] = {}
    chosen = {node.output[1] for node in model.graph.node if node.op_type == "TopK"} - {""}
    for node in model.graph.node:
        if chosen & {*node.input, *node.output}:
            found |= dict.fromkeys([*(chosen & {*node.output}), *node.output[:1]])
        picks = node.op_type == "MaxPool" and len(node.output) > 1  # it returns indices
        if node.op_type in _JUMPING or picks:
            operands = [name for name in node.input if name in producers]
            found |= dict.fromkeys(operands)
            if not _casts_to_floats(node):
                for operand in operands:
                    found |= dict.fromkeys(n for n in producers[operand].input if n in producers)
    return list(found)


def _casts_to_floats(node: Any) -> bool:
    from onnx import helper

    kinds = [attribute.i for attribute in node.attribute if attribute.name == "to"]
    return node.op_type == "Cast" and helper.tensor_dtype_to_np_dtype(kinds[0]).kind not in "biu"


def text(model: Any) -> str:
    """Return a model in ONNX's own syntax, without the numbers of large tensors."""
    import onnx
    from onnx import printer

    short = onnx.ModelProto()
    short.CopyFrom(model)
    for tensor in messages_of(short, onnx.TensorProto):
        if math.prod(tensor.dims) > FEW:
            for name in NUMBERS:
                tensor.ClearField(name)
    return str(printer.to_text(short))


def has_loops(model: Any) -> bool:
    """Return True if a model holds a ``Loop``, which may never end."""
    return any(node.op_type == "Loop" for node in nodes_of(model))


def frames_of(node: Any) -> list[Place]:
    stack = _metadata(node).get("pkg.torch.onnx.stack_trace")
    return frames_of_fx(stack) if stack is not None else frames_in(node.doc_string)[:1]


def fx_name(node: Any) -> str:
    """Return the name of the node of torch's program that a node is a part of, empty if unknown."""
    found = _FX_NODE.match(_metadata(node).get("pkg.torch.onnx.fx_node", ""))
    return found[1] if found is not None else ""


def _metadata(node: Any) -> dict[str, str]:
    return {item.key: item.value for item in getattr(node, "metadata_props", ())}


# -- weights and sizes -----------------------------------------------------------------------------




def input_shapes(model: Any, names: Sequence[str]) -> tuple[tuple[int | None, ...], ...]:
    """Return the sizes of each input, None for an open one; () if the graph lacks the input."""
    shapes = {value.name: _sizes(value) for value in model.graph.input}
    return tuple(shapes.get(name, ()) for name in names)


def _sizes(value: Any) -> tuple[int | None, ...]:
    """Return the sizes of a value. ONNX Runtime takes a negative one for an open one."""
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None
        for dim in value.type.tensor_type.shape.dim
    )


# -- external data ---------------------------------------------------------------------------------


def external(path: Path) -> list[str]:
    """Return the locations of external data in the model, sorted. Raises if it is no model."""
    return sorted({piece.location for piece in _pieces(read(path))})


@dataclass(frozen=True)
class _Piece:
    """The place of a tensor's data. ``end`` is None if its offset or length is not legal."""

    tensor: str
    location: str
    end: int | None


def _pieces(model: Any) -> Iterator[_Piece]:
    import onnx

    for tensor in messages_of(model, onnx.TensorProto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            yield _Piece(tensor.name, entries.get("location", ""), _end(entries))


def _end(entries: dict[str, str]) -> int | None:
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", "0"))
    except ValueError:
        return None
    return offset + length if min(offset, length) >= 0 else None


# -- problems --------------------------------------------------------------------------------------


def problems(path: Path) -> list[str]:
    """Return what is wrong with the file, each a sentence with the next step.

    The checker runs only if the external data is right: it stops at the first piece that is not.
    """
    try:
        model = read(path)
    except Exception as error:
        return [f"{path.name} is no ONNX model ({_line(error)}): save it again"]
    found = [
        *_data_problems(path.parent.resolve(), list(_pieces(model))),
        *_absolute_attributes(model),
    ]
    return found or _format_problems(path)


def _data_problems(directory: Path, pieces: Iterable[_Piece]) -> Iterator[str]:
    by_location: dict[str, list[_Piece]] = {}
    for piece in pieces:
        by_location.setdefault(piece.location, []).append(piece)
    for location, here in by_location.items():
        problem = _misplaced(directory, location) or _overrun(directory / location, here)
        if problem is not None:
            yield f"external data {location!r} {problem}"


def _misplaced(directory: Path, location: str) -> str | None:
    if _is_absolute(location):
        return "is an absolute path, which only one machine has: save it beside the model"
    file = directory / location
    try:
        if not file.resolve().is_relative_to(directory):
            return "lies outside the model's directory: save it beside the model"
        if not file.exists():
            return "is missing: move it together with the model, or save with external_data=False"
    # Too long, with a null byte, links in a ring.
    except (OSError, ValueError, RuntimeError) as error:
        return f"is no legal name ({_line(error)}): save the model again"
    return None if file.is_file() else "is no file: save the model again"


def _is_absolute(path: str) -> bool:
    return PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute()


def _overrun(file: Path, pieces: Iterable[_Piece]) -> str | None:
    size = file.stat().st_size
    for piece in pieces:
        if piece.end is None:
            return f"has no legal offset and length for {piece.tensor!r}: save the model again"
        if piece.end > size:
            return (
                f"has {size} bytes, and {piece.tensor!r} ends at {piece.end}: it is cut off or "
                "another model's, save both again"
            )
    return None


def _absolute_attributes(model: Any) -> Iterator[str]:
    """Yield the absolute paths in attributes of custom operators; ONNX's own take no paths."""
    import onnx

    for node in nodes_of(model):
        if node.domain in _STANDARD:
            continue
        for attribute in node.attribute:
            text = attribute.s.decode(errors="replace")
            is_path = _is_absolute(text) and text.strip("/\\")
            if attribute.type == onnx.AttributeProto.STRING and is_path:
                yield (
                    f"node {node.name!r} ({node.op_type}) has the absolute path {text!r} as its "
                    f"{attribute.name!r}, which only one machine has: make it relative"
                )


def _format_problems(path: Path) -> list[str]:
    """Return what ``onnx.checker`` finds, shapes included. It knows only ONNX's own domains.

    It gets the path: a model may be larger than a protobuf message can be.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        step = "correct the export, or save it again"
        return [f"onnx.checker refuses {path.name}: {_line(error)}; {step}"]
    return []


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= MESSAGE else f"{text[:MESSAGE]}..."

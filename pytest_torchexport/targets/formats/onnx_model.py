"""ONNX files (``.onnx``): what a model says of itself, which files it needs, what is wrong with it.

Free of torch: the process that loads ONNX files has none. Only the model itself is read; the files
of external data that it names are found without opening them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_torchexport.outcomes.operator_table import OPERATORS, of_kind, onnx_of_kind
from pytest_torchexport.targets.formats.facts import Branches, ProgramFacts, frames_in, frames_of_fx

FILENAME = "model.onnx"
# The longest text of the checker's that is passed on.
MESSAGE = 400
# A text of a model has the numbers of tensors that are no larger than this.
FEW = 16
# The fields of a TensorProto that hold its numbers.
NUMBERS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")
# Operators that compute something else on the two sides of a number, an input of theirs.
_BOUNDED = {OPERATORS[name].onnx for name in of_kind("comparison", "clamp", "extremum")} - {""}
# "%add : [num_users=1] = call_function[target=torch.ops.aten.add.Tensor](args = ...".
_FX_NODE = re.compile(r"%(\w+) ")

# Operators whose result jumps.
_JUMPING = onnx_of_kind("decides", "rounding", "cast", "choice", "inspection")


@dataclass(frozen=True, kw_only=True)
class OnnxModelFacts(ProgramFacts):
    """The facts of an ONNX model. ``model`` returns its ``onnx.ModelProto``."""

    model: Callable[[], Any]

    def inputs(self) -> tuple[str, ...]:
        graph = self.model().graph
        weights = {item.name for item in graph.initializer}
        return tuple(value.name for value in graph.input if value.name not in weights)

    def branches(self) -> Branches:
        """Return its ``If``, ``Loop`` and ``Scan``, nested ones and those in functions.

        The exporter of ``dynamo=False`` writes no places (unless ``verbose``), and translates a few
        operators to such nodes as well.
        """
        found = []
        for node in nodes_of(self.model()):
            if node.op_type in ("If", "Loop", "Scan"):
                stack = _metadata(node).get("pkg.torch.onnx.stack_trace")
                doc = frames_in(node.doc_string)[:1]
                found.append(frames_of_fx(stack) if stack is not None else doc)
        return Branches.at(found)

    def bounds(self) -> tuple[float, ...]:
        """Return the scalar constants that go into ``Clip``, ``Max``, ``Min`` and comparisons."""
        import onnx
        from onnx import numpy_helper

        model = self.model()
        weights = [
            item for part in messages_of(model, onnx.GraphProto) for item in part.initializer
        ]
        scalars = {
            name: float(numpy_helper.to_array(tensor).item())
            for name, tensor in _stored(weights, nodes_of(model))
            if tensor.data_location != onnx.TensorProto.EXTERNAL
            and all(size == 1 for size in tensor.dims)
        }
        bounded = [node for node in nodes_of(model) if node.op_type in _BOUNDED]
        names = (name for node in bounded for name in node.input if name in scalars)
        return tuple(dict.fromkeys(scalars[name] for name in names))

    def text(self) -> str:
        """Return it in ONNX's own syntax, without the numbers of large tensors."""
        import onnx
        from onnx import printer

        short = onnx.ModelProto()
        short.CopyFrom(self.model())
        for tensor in messages_of(short, onnx.TensorProto):
            if math.prod(tensor.dims) > FEW:
                for name in NUMBERS:
                    tensor.ClearField(name)
        return str(printer.to_text(short))


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


def opset(model: Any) -> int:
    """Return the version of ONNX's own operators that a model has; 0 if it has none of them."""
    own = (item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    return next(own, 0)


def decided_on(model: Any) -> list[str]:
    """Return the names of the values that nodes of the graph decide on.

    Also of those that such a value is made of: a floor division is ``Div`` and ``Floor``. Not
    before a cast to floats, where ONNX Runtime would no longer fuse the nodes that make the value.
    And of the places that ``TopK`` chooses, with what is computed from them at once.
    """
    from onnx import helper

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
            to = [attribute.i for attribute in node.attribute if attribute.name == "to"]
            casts = node.op_type == "Cast"
            if not casts or helper.tensor_dtype_to_np_dtype(to[0]).kind in "biu":
                for operand in operands:
                    found |= dict.fromkeys(n for n in producers[operand].input if n in producers)
    return list(found)


def has_loops(model: Any) -> bool:
    """Return True if a model holds a ``Loop``, which may never end."""
    return any(node.op_type == "Loop" for node in nodes_of(model))


def fx_name(node: Any) -> str:
    """Return the name of the node of torch's program that a node is a part of, empty if unknown."""
    found = _FX_NODE.match(_metadata(node).get("pkg.torch.onnx.fx_node", ""))
    return found[1] if found is not None else ""


def _metadata(node: Any) -> dict[str, str]:
    return {item.key: item.value for item in getattr(node, "metadata_props", ())}


# -- what a file stores ----------------------------------------------------------------------------


def arrays(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the arrays that a file stores for its graph, by name: initializers and constants."""
    from onnx import numpy_helper

    graph = read(path).graph
    for name, tensor in _stored(graph.initializer, graph.node):
        yield name, numpy_helper.to_array(tensor, str(path.parent))


def _stored(weights: Iterable[Any], nodes: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    yield from ((tensor.name, tensor) for tensor in weights)
    for node in nodes:
        held = [item.t for item in node.attribute if item.HasField("t")]
        yield from ((node.output[0], tensor) for tensor in held if node.op_type == "Constant")


def input_shapes(model: Any, names: Sequence[str]) -> tuple[tuple[int | None, ...], ...]:
    """Return the sizes of each input, None for an open one; () if the graph lacks the input."""
    # ONNX Runtime takes a negative size for an open one.
    shapes = {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None
            for dim in value.type.tensor_type.shape.dim
        )
        for value in model.graph.input
    }
    return tuple(shapes.get(name, ()) for name in names)


# -- other precisions than float32 -----------------------------------------------------------------

# Operators on numbers in eight bits, ONNX's own and ONNX Runtime's.
_QUANTIZED = re.compile(
    r"(Quantize|Dequantize)Linear$|QLinear|QGemm|QAttention|DynamicQuantize|\w+Integer"
)


def precision(model: Any) -> str:
    """Return ``int8`` if a model is quantized to eight bits, or the type of half precision weights.

    Empty for another model, as one with other quantized numbers than these.
    """
    import onnx

    types, held = onnx.TensorProto, dict(_stored(model.graph.initializer, model.graph.node))
    counts = dict[int, int]()
    for tensor in held.values():
        counts[tensor.data_type] = counts.get(tensor.data_type, 0) + math.prod(tensor.dims)
    quantized = [node for node in nodes_of(model) if _QUANTIZED.match(node.op_type)]
    if quantized:
        read = {name for node in quantized for name in node.input if name in held}
        numbers = {held[name].data_type for name in read}
        narrow = {types.INT8, types.UINT8}
        own = {types.FLOAT, types.FLOAT16, *narrow, types.INT32, types.INT64}
        # A lone pair of operators leaves the weights as they were.
        weights = any(held[name].data_type in narrow and held[name].dims for name in read)
        return "int8" if weights and numbers <= own else ""
    floats = {types.FLOAT: "", types.FLOAT16: "float16", types.BFLOAT16: "bfloat16"}
    most = max((kind for kind in counts if kind in floats), key=counts.__getitem__, default=None)
    return floats.get(most, "")


def ranges(model: Any) -> dict[str, tuple[float, float]]:
    """Return by input the least and the largest number that its ``QuantizeLinear`` does not cut."""
    import onnx
    from onnx import numpy_helper

    limits = {onnx.TensorProto.INT8: (-128, 127), onnx.TensorProto.UINT8: (0, 255)}
    held = dict(_stored(model.graph.initializer, model.graph.node))
    inputs, found = {value.name for value in model.graph.input}, {}
    for node in model.graph.node:
        known = [held[name] for name in node.input[1:3] if name in held]
        if node.op_type != "QuantizeLinear" or node.input[0] not in inputs or len(known) < 2:
            continue
        if known[1].data_type in limits and all(math.prod(each.dims) == 1 for each in known):
            scale, zero = (float(numpy_helper.to_array(each).item()) for each in known)
            low, high = limits[known[1].data_type]
            found[node.input[0]] = (low - zero) * scale, (high - zero) * scale
    return found


# -- files -----------------------------------------------------------------------------------------


def external(path: Path) -> list[str]:
    """Return the locations of external data in the model, sorted. Raises if it is no model."""
    return locations(read(path))


def locations(model: Any) -> list[str]:
    """Return the locations of external data in a model, sorted."""
    import onnx

    return sorted(
        {
            next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            for tensor in messages_of(model, onnx.TensorProto)
            if tensor.data_location == onnx.TensorProto.EXTERNAL
        }
    )


def problems(path: Path) -> list[str]:
    """Return the problems that ``onnx.checker`` finds in a file: its shapes and external data.

    It knows only ONNX's own domains. It gets the path: a model may be larger than a protobuf
    message can be. The order of nodes is none: runtimes sort them, and ONNX Runtime's own float16
    converter leaves them unsorted.
    """
    import onnx

    problem, step = f"{path.name} is no ONNX model", "save it again"
    try:
        read(path)
        problem, step = f"onnx.checker refuses {path.name}", f"correct the export, or {step}"
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        text = " ".join(str(error).split()).rstrip(".")
        if "must be topologically sorted" in text:
            return []
        return [f"{problem}: {text[:MESSAGE]}{'...' * (len(text) > MESSAGE)}; {step}"]
    return []

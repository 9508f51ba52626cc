"""Devices that became constants of a program, and what that does where its weights and inputs are elsewhere.

``torch.zeros(3, device=x.device)`` follows its input in eager; of a trace and of an exported program the device of
the example is a part. Read from the program, because the machine that could show it is often not there. What a
program that was moved to ``meta`` says when it is called there, the one other device that every machine has, is
understood here too.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import flatten
from pytest_torchexport.outcomes.messages import source_line
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.targets.formats import branches

# What a constant device does in a program that was moved, the worst first. A tensor of no dimensions and an index
# may stay on the CPU: they do nothing.
RAISES = "raises"  # what it made meets a tensor that was moved
RETURNED = "returned"  # what it made is returned, from another device than the inputs'
UNKNOWN = "unknown"  # the program does not say what it meets
NOTHING = "nothing"
EFFECTS = (RAISES, RETURNED, UNKNOWN, NOTHING)

# Arguments that need not be where the others are, by position: indices, lengths, and what gives only its shape.
_ELSEWHERE = {
    "aten::index": 1,
    "aten::index_put": 1,
    "aten::index_put_": 1,
    "aten::_index_put_impl_": 1,
    "aten::_pack_padded_sequence": 1,
    "aten::tensor_split": 1,
    "aten::expand_as": 1,
    "aten::view_as": 1,
    "aten::reshape_as": 1,
    "aten::copy": 1,
    "aten::copy_": 1,
}
# What goes to where their last tensor is.
_LIKE = ("aten::to", "aten::type_as")
# torch.export puts it before each .to(): where that was moved which was on the CPU, it raises.
_ASSERTION = "aten::_assert_tensor_metadata"
# TorchScript's operators that name a device by themselves.
_BY_NAME = {"aten::cpu": "cpu", "aten::cuda": "cuda"}


@dataclass(frozen=True, kw_only=True)
class BakedDevice:
    """A device that is a constant of a program: the operation that makes or moves a tensor there, the user's line
    and one of ``EFFECTS``.
    """

    device: str
    op: str
    where: SourceLine | None
    effect: str


def of_torchscript(program: Any) -> tuple[BakedDevice, ...]:
    """Those of a trace or script. A script keeps ``x.device``; what it makes without naming a device is made on the
    default one, as in eager, and is not listed. Parameters, buffers and constant tensors move with ``map_location``.
    """
    graph = getattr(program, "inlined_graph", None)
    if graph is None:
        return ()
    moved = {value.debugName(): _dims(value) for value in graph.inputs() if _is_tensors(value)}
    operations = [*_traced(program, graph, moved), _returned(graph)]
    return _judged(operations, moved)


def of_exported(program: Any) -> tuple[BakedDevice, ...]:
    """Those of an ExportedProgram, its constant tensors included, as they are where only ``program.module()`` is
    moved: ``torch.export.passes.move_to_device_pass`` rewrites them all.
    """
    root = getattr(program, "graph_module", None)
    if not isinstance(root, torch.nn.Module):
        return ()
    constants = getattr(program.graph_signature, "inputs_to_lifted_tensor_constants", {})
    found: list[BakedDevice] = []
    for module in root.modules():
        if isinstance(module, torch.fx.GraphModule):
            # What a branch's operands are, only the outer graph knows.
            moved = _inputs(module.graph, constants) if module is root else {}
            found += _judged(list(_exported(module.graph, constants)), moved)
    return tuple(dict.fromkeys(found))


# -- torch's words -----------------------------------------------------------------------------------

_WORDS = (
    "is not on the expected device",
    "Expected all tensors to be on the same device",
    "tensors are not at the same device",
    "found two different devices",
    "Tensor device mismatch!",
)


def about_devices(text: str) -> str | None:
    """The line that says that tensors on different devices met."""
    lines = (line.strip() for line in text.splitlines())
    found = next((line for line in lines if any(words in line for words in _WORDS)), None)
    # TorchScript repeats the exception's type before its text.
    return re.sub(r"^(?:\w+Error: )+", "", found) if found is not None else None


# -- what a constant device does ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Operation:
    """One operation of either format. ``inputs`` are the tensors that have to be on one device, ``outputs`` what it
    makes, with their number of dimensions where that is known.
    """

    op: str
    where: SourceLine | None
    inputs: tuple[Hashable, ...]
    outputs: tuple[tuple[Hashable, int | None], ...]
    device: str | None = None
    opaque: bool = False


@dataclass
class _Whereabouts:
    """Where the tensors of a moved program are: those in ``moved`` went with it, those in ``stuck`` stayed because
    of the constants whose numbers they carry; of the others nothing is known.
    """

    moved: dict[Hashable, int | None]
    stuck: dict[Hashable, frozenset[int]] = field(default_factory=dict)
    dims: dict[Hashable, int | None] = field(default_factory=dict)
    found: list[_Operation] = field(default_factory=list)
    effects: dict[int, set[str]] = field(default_factory=dict)

    def follow(self, step: _Operation) -> None:
        """Take one operation into account."""
        outputs = [name for name, _ in step.outputs]
        self.dims.update(step.outputs)
        if step.op == _ASSERTION:
            if step.device is not None and self.moved.keys() & set(step.inputs):
                self.effects[len(self.found)] = {RAISES}
                self.found.append(step)
        elif step.device is not None:
            self.stuck.update(dict.fromkeys(outputs, frozenset({len(self.found)})))
            self.found.append(step)
        else:
            self._pass_on(step)

    def _pass_on(self, step: _Operation) -> None:
        """What an operation without a device of its own makes is where its inputs are."""
        outputs = [name for name, _ in step.outputs]
        inputs = step.inputs[-1:] if step.op in _LIKE else step.inputs
        stuck = [name for name in inputs if name in self.stuck]
        rest = [name for name in inputs if name not in self.stuck]
        if step.op == "return":
            self._blame(stuck, RETURNED)
        elif step.opaque:
            self._blame(stuck, UNKNOWN)
        elif any(self.moved.get(name, 0) != 0 for name in rest):
            self._meet(stuck, RAISES)
            self.moved.update(step.outputs)
        elif stuck and all(name in self.moved for name in rest):
            if rest:
                # Numbers: in a trace they are tensors that map_location moves, and to(device) does not.
                self._meet(stuck, UNKNOWN)
            held = frozenset[int]().union(*(self.stuck[name] for name in stuck))
            self.stuck.update(dict.fromkeys(outputs, held))
        elif not stuck and any(name in self.moved for name in rest):
            self.moved.update(step.outputs)
        else:
            self._blame(stuck, UNKNOWN)

    def effect(self, number: int) -> str:
        """What a constant device does, at worst."""
        if self.found[number].device != "cpu":
            # Where there is no such device, its tensors cannot even be made.
            return RAISES
        return min(self.effects.get(number, {NOTHING}), key=EFFECTS.index)

    def _meet(self, stuck: Iterable[Hashable], effect: str) -> None:
        for name in stuck:
            dims = self.dims.get(name)
            if dims != 0:
                self._blame([name], UNKNOWN if dims is None else effect)

    def _blame(self, names: Iterable[Hashable], effect: str) -> None:
        for name in names:
            for number in self.stuck[name]:
                self.effects.setdefault(number, set()).add(effect)


def _judged(
    operations: Iterable[_Operation], moved: dict[Hashable, int | None]
) -> tuple[BakedDevice, ...]:
    program = _Whereabouts(moved=moved)
    for step in operations:
        program.follow(step)
    found = [
        BakedDevice(
            device=str(step.device),
            op=step.op,
            where=step.where,
            effect=program.effect(number),
        )
        for number, step in enumerate(program.found)
    ]
    return tuple(dict.fromkeys(found))


def _together(op: str, arguments: Sequence[Any]) -> list[Any]:
    """The arguments of an operation that have to be on one device."""
    return [item for i, item in enumerate(arguments) if i != _ELSEWHERE.get(op)]


def _shown(place: branches.Place | None) -> SourceLine | None:
    return source_line(*place) if place is not None else None


# -- TorchScript -------------------------------------------------------------------------------------


def _traced(program: Any, graph: Any, moved: dict[Hashable, int | None]) -> Iterator[_Operation]:
    """The operations of a TorchScript graph; adds what moves with the program to ``moved``."""
    for node in branches._nodes(graph):
        kind = node.kind()
        if kind in ("prim::Constant", "prim::GetAttr"):
            moved.update(
                (value.debugName(), _dims(value)) for value in node.outputs() if _is_tensors(value)
            )
        elif kind not in branches._PACKING:
            yield _operation(program, node)


def _operation(program: Any, node: Any) -> _Operation:
    kind, inputs = node.kind(), list(node.inputs())
    leaves = [leaf for value in _together(kind, inputs) for leaf in branches._unpacked(value)]
    constants = filter(None, (_constant_device(program, value) for value in inputs))
    device = _BY_NAME.get(kind) or next(constants, None)
    return _Operation(
        op=kind,
        # Reading a place costs more than all the rest, and most are never asked for.
        where=_shown(branches._traced_at(node.sourceRange())) if device is not None else None,
        inputs=tuple(leaf.debugName() for leaf in leaves if _is_tensors(leaf)),
        outputs=tuple((value.debugName(), _dims(value)) for value in node.outputs()),
        device=device,
        opaque=any(True for _ in node.blocks()),
    )


def _returned(graph: Any) -> _Operation:
    leaves = [leaf for value in graph.outputs() for leaf in branches._unpacked(value)]
    return _Operation(
        op="return", where=None, inputs=tuple(leaf.debugName() for leaf in leaves), outputs=()
    )


def _is_tensors(value: Any) -> bool:
    """Whether a value is a tensor, holds some, or is the device of one."""
    kind = value.type().annotation_str
    return "Tensor" in kind or (kind == "Device" and value.node().kind() == "prim::device")


def _constant_device(program: Any, value: Any) -> str | None:
    """The device that is written in the program, or kept as an attribute (``self.device``), if a value is one."""
    if value.type().annotation_str != "Device":
        return None
    if value.node().kind() == "prim::Constant":
        return str(value.toIValue())
    names = branches._attribute(value).split(".")
    held = reduce(lambda owner, name: getattr(owner, name, None), names, program)
    return str(held) if isinstance(held, torch.device) else None


def _dims(value: Any) -> int | None:
    """Known in a trace; a script knows none."""
    kind = value.type()
    return kind.dim() if isinstance(kind, torch._C.TensorType) else None


# -- torch.export ------------------------------------------------------------------------------------


def _inputs(graph: Any, constants: dict[str, str]) -> dict[Hashable, int | None]:
    """What moves with the program: its inputs, parameters and buffers, each with its number of dimensions."""
    found = [
        item for item in graph.nodes if item.op == "placeholder" and item.name not in constants
    ]
    tensors = ((node, _tensor(node)) for node in found)
    return {node: tensor.dim() for node, tensor in tensors if tensor is not None}


def _exported(graph: Any, constants: dict[str, str]) -> Iterator[_Operation]:
    """The operations of an fx graph. A constant tensor is one: it makes a tensor where the example was."""
    for node in graph.nodes:
        tensor = _tensor(node)
        outputs = ((node, tensor.dim() if tensor is not None else None),)
        if node.op == "placeholder" and node.name in constants and tensor is not None:
            yield _Operation(
                op=f"constant {constants[node.name]}",
                where=next(filter(None, map(_where, node.users)), None),
                inputs=(),
                outputs=outputs,
                device=str(tensor.device),
            )
        elif node.op == "call_function":
            device = _device_argument(node)
            yield _Operation(
                op=_name(node),
                where=_where(node) if device is not None else None,
                inputs=tuple(_operands(node)),
                outputs=outputs,
                device=device,
                opaque=isinstance(node.target, torch._ops.HigherOrderOperator),
            )
        elif node.op == "output":
            yield _Operation(
                op="return", where=None, inputs=tuple(node.all_input_nodes), outputs=()
            )


def _name(node: Any) -> str:
    """``aten::zeros``, as TorchScript calls it."""
    schema = getattr(node.target, "_schema", None)
    return (
        str(schema.name)
        if schema is not None
        else str(getattr(node.target, "__name__", node.target))
    )


def _operands(node: Any) -> Iterator[Any]:
    """The tensors among the arguments that have to be on one device, those in lists included."""
    arguments = [*_together(_name(node), node.args), *node.kwargs.values()]
    for _, leaf in flatten(arguments)[0]:
        if isinstance(leaf, torch.fx.Node) and _tensor(leaf, lists=True) is not None:
            yield leaf


def _tensor(node: Any, *, lists: bool = False) -> Any:
    """What torch keeps of a node's value, where that is a tensor (or, with ``lists``, several)."""
    value = node.meta.get("val")
    if lists and isinstance(value, (tuple, list)):
        value = next((item for item in value if isinstance(item, torch.Tensor)), None)
    return value if isinstance(value, torch.Tensor) else None


def _device_argument(node: Any) -> str | None:
    leaves = [*node.args, *node.kwargs.values()]
    return next((str(leaf) for leaf in leaves if isinstance(leaf, torch.device)), None)


def _where(node: Any) -> SourceLine | None:
    frames = branches._stack(node.meta.get("stack_trace"))
    return _shown(next((place for place in frames if not branches._is_torchs(place[0])), None))

"""TorchScript files (``.pt``): load and save them, and read what a program says of itself.

The one place that walks TorchScript graphs. torch has no documented interface to them; what is
private in torch is looked up, and a test says if it is gone.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.outcomes.operator_table import OPERATORS, row_of
from pytest_torchexport.results.source_line import source_line
from pytest_torchexport.targets.formats.facts import (
    EFFECTS,
    FRAME,
    NOTHING,
    RAISES,
    RETURNED,
    BakedDevice,
    Branches,
    Place,
    ProgramFacts,
    frames_in,
    is_outside_torch,
    real_path,
)
from pytest_torchexport.torch_private.modules import with_calls_inlined

FILENAME = "model.pt"
SUFFIXES = (".pt", ".pth")
SCRIPT = "artifact = torch.jit.load(path, map_location=device)\n"
# Weights of more bytes are saved by torch's own writer, if the disk has room for so many times as
# many.
LARGE, ROOM = 2**24, 4
# The trip count that TorchScript gives a loop of which it knows none.
UNBOUNDED = 2**63 - 1
# The kinds of device on which its fuser, from the second call on, computes a chain of operators in
# float32 whatever their types: torch 2.11.0 on an H200, (x.half() * 3).float(), 2026-11-26.
FUSES_ON = ("cuda",)
# Nodes that put values into a container, or make a tensor of a number.
PACKING = (
    "prim::ListConstruct",
    "prim::TupleConstruct",
    "prim::DictConstruct",
    "prim::NumToTensor",
)
# Operators that name a device by themselves.
DEVICE_BY_NAME = {f"aten::{name}": row.device for name, row in OPERATORS.items() if row.device}


@dataclass(frozen=True, kw_only=True)
class TorchScriptFacts(ProgramFacts):
    program: Any

    def branches(self) -> Branches:
        """Return its ``prim::If`` and ``prim::Loop``.

        An ``assert``, a comprehension and an ``and`` are such nodes too.
        """
        graph = _graph_of(self.program)
        return Branches.at(
            frames_in(node.sourceRange())[:1]
            for node in (nodes_of(graph) if graph is not None else ())
            if node.kind() in ("prim::If", "prim::Loop")
        )

    def devices(self) -> tuple[BakedDevice, ...]:
        """Return the devices that are constants of its graph.

        A script keeps ``x.device``; what it makes without naming a device is made on the default
        one, as in eager, and is not listed. Parameters, buffers and constant tensors move with
        ``map_location``.
        """
        graph = _graph_of(self.program)
        return _Moved(self.program, graph).devices() if graph is not None else ()

    def text(self) -> str:
        return str(_graph_of(self.program) or "")


# -- files -----------------------------------------------------------------------------------------


def artifact_fields(program: Any, extra_files: Mapping[str, str | bytes]) -> dict[str, Any]:
    return {
        "program": program,
        "module": program if isinstance(program, torch.nn.Module) else None,
        "run": program,
        "write": lambda path: save(program, path, extra_files),
        "filename": FILENAME,
        "native_loops": has_loops(program),
        "facts": TorchScriptFacts(program=program),
    }


def load(path: Path, device: str) -> Callable[..., Any]:
    with _without_deprecations():
        return torch.jit.load(path, map_location=device)  # type: ignore[no-any-return,no-untyped-call]


def read(path: Path, loaded: Any) -> TorchScriptFacts:
    return TorchScriptFacts(program=loaded)


def save(program: Any, path: Path, extra_files: Mapping[str, str | bytes]) -> None:
    """Write the program to a file of Python's, a large one by torch's C++ writer.

    Given a file, torch makes the whole archive in memory, and a copy of it. Given a path, its
    writer aborts the process if the disk is full: only if there is room enough.
    """
    tensors = (
        (*program.parameters(), *program.buffers()) if isinstance(program, torch.nn.Module) else ()
    )
    size = sum(tensor.nbytes for tensor in tensors)
    with _without_deprecations():
        if LARGE < size < shutil.disk_usage(path.parent).free / ROOM:
            torch.jit.save(program, path, _extra_files=dict(extra_files))
            return
        with path.open("wb") as file:
            torch.jit.save(program, file, _extra_files=dict(extra_files))


def write_arguments(program: Any, call: Call, path: Path) -> None:
    """Write the arguments of a call, by position first, with the types that ``forward`` takes."""
    method: Any = program.forward if isinstance(program, torch.nn.Module) else program
    own = method.schema.arguments[0 if method is program else 1 :]
    by_name = {each.name: each for each in own}  # a trace may have several of one name
    taken = [*own[: len(call.args)], *(by_name[name] for name in call.kwargs)]
    types = [each.type.annotation_str for each in taken]
    write_values(types, [*call.args, *call.kwargs.values()], path)


def write_values(types: Sequence[str], values: Sequence[Any], path: Path) -> None:
    """Write a tuple of values of TorchScript's types, as TorchScript in C++ reads it."""
    names = "".join(f"a{number}, " for number in range(len(types)))
    given = "".join(f"a{number}: {each}, " for number, each in enumerate(types))
    source = f"def write({given}path: str):\n    torch.save(({names}), path)\n"
    torch.jit.CompilationUnit(source).write(*values, str(path))


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Hide torch's deprecation of ``torch.jit`` itself, which ``-W error`` would raise.

    Its class differs between versions of torch, its words do not.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r"`torch\.jit\.\w+` is (deprecated|not supported)"
        )
        yield


# -- graphs ----------------------------------------------------------------------------------------


def has_loops(program: Any) -> bool:
    """Return True if a TorchScript program has a ``while``, whose call may never return.

    A ``for`` ends by itself: its loop node knows the number of trips.
    """
    graph = _graph_of(program)
    loops = graph.findAllNodes("prim::Loop") if graph is not None else []
    return any(next(iter(loop.inputs())).toIValue() == UNBOUNDED for loop in loops)


def _graph_of(program: Any) -> Any:
    return getattr(program, "inlined_graph", None)


def nodes_of(graph: Any) -> Iterator[Any]:
    """Yield every node of a graph, those in blocks and in the graphs of forks included."""
    for node in graph.nodes():
        yield node
        for block in node.blocks():
            yield from nodes_of(block)
        for name in node.attributeNames():
            if node.kindOf(name) == "g":
                yield from nodes_of(with_calls_inlined(node.g(name)))


def unpacked(value: Any) -> list[Any]:
    """Return the elements of a list or tuple, or the value itself."""
    node = value.node()
    if node.kind() not in PACKING:
        return [value]
    return [leaf for item in node.inputs() for leaf in unpacked(item)]


_TRACED = re.compile(r"^(\S[^\n]*?)\((\d+)\): ", re.MULTILINE)
# Here the frames of the model end, and those of the code that traced it begin.
_TRACER = re.compile(r"torch[/\\]jit[/\\]_trace\.py\(")


def traced_at(text: str) -> Place | None:
    """Return the user's innermost line under a node, given the text of its source range.

    A trace lists its frames there, a script has one place.
    """
    tracer = _TRACER.search(text)
    traced = _TRACED.finditer(text[: tracer.start()] if tracer else text)
    outside = (match for match in traced if is_outside_torch(match[1]))
    found = next(outside, None) or FRAME.search(text)
    if found is None or not is_outside_torch(found[1]):
        return None
    return real_path(found[1]), int(found[2])


# -- devices ---------------------------------------------------------------------------------------


class _Moved:
    """The tensors of a graph whose program was moved to another device.

    Those in ``moved`` went with it. Those in ``stuck`` stayed where a constant put them, each with
    the indices (into ``made``) of the constants that it comes from. Of all others nothing is known.
    The other device is often not there to try.
    """

    def __init__(self, program: Any, graph: Any) -> None:
        self.program = program
        self.moved = {value.debugName() for value in graph.inputs() if _is_tensors(value)}
        self.stuck: dict[str, frozenset[int]] = {}
        self.made: list[tuple[Any, str]] = []
        self.effects: dict[int, set[str]] = {}
        for node in nodes_of(graph):
            kind, inputs = node.kind(), list(node.inputs())
            outputs = [value.debugName() for value in node.outputs()]
            if kind in ("prim::Constant", "prim::GetAttr"):
                tensors = (value for value in node.outputs() if _is_tensors(value))
                self.moved.update(value.debugName() for value in tensors)
            elif kind not in PACKING:
                constants = filter(None, (_constant_device(program, value) for value in inputs))
                device = DEVICE_BY_NAME.get(kind) or next(constants, None)
                if device is None:
                    self._pass_on(node, inputs, outputs)
                else:
                    self.stuck.update(dict.fromkeys(outputs, frozenset({len(self.made)})))
                    self.made.append((node, device))
        self._blame([leaf for value in graph.outputs() for leaf in unpacked(value)], RETURNED)

    def devices(self) -> tuple[BakedDevice, ...]:
        found = []
        for number, (node, device) in enumerate(self.made):
            place = traced_at(node.sourceRange())
            worst = min(self.effects.get(number, {NOTHING}), key=EFFECTS.index)
            # On a machine without another device than the CPU its tensors cannot even be made.
            effect = worst if device == "cpu" else RAISES
            where = source_line(*place) if place is not None else None
            found.append(BakedDevice(device=device, op=node.kind(), where=where, effect=effect))
        return tuple(dict.fromkeys(found))

    def _pass_on(self, node: Any, inputs: Sequence[Any], outputs: Sequence[str]) -> None:
        """Put what an operation without a device of its own makes on the side of its inputs."""
        row = row_of(node.kind().removeprefix("aten::").removesuffix("_"))
        together = [value for place, value in enumerate(inputs) if place != row.elsewhere]
        tensors = [leaf for v in together for leaf in unpacked(v) if _is_tensors(leaf)]
        if "as_last" in row.kinds:
            tensors = tensors[-1:]
        stuck = [value for value in tensors if value.debugName() in self.stuck]
        rest = [value for value in tensors if value.debugName() not in self.stuck]
        moved = [value for value in rest if value.debugName() in self.moved]
        if any(True for _ in node.blocks()):
            return  # what a branch takes is not judged
        if any(_dimensions(value) != 0 for value in moved):
            self._blame([value for value in stuck if _dimensions(value)], RAISES)
            self.moved.update(outputs)
        elif stuck and len(moved) == len(rest):
            held = frozenset[int]().union(*(self.stuck[value.debugName()] for value in stuck))
            self.stuck.update(dict.fromkeys(outputs, held))
        elif moved and not stuck:
            self.moved.update(outputs)

    def _blame(self, values: Iterable[Any], effect: str) -> None:
        for value in values:
            for number in self.stuck.get(value.debugName(), ()):
                self.effects.setdefault(number, set()).add(effect)


def _is_tensors(value: Any) -> bool:
    """Return True if a value is a tensor, holds tensors, or is the device of one."""
    kind = value.type().annotation_str
    return "Tensor" in kind or (kind == "Device" and value.node().kind() == "prim::device")


def _constant_device(program: Any, value: Any) -> str | None:
    """Return the device that is written in the program, or kept as an attribute."""
    if value.type().annotation_str != "Device":
        return None
    node = value.node()
    if node.kind() == "prim::Constant":
        return str(value.toIValue())
    path: list[str] = []
    while node.kind() == "prim::GetAttr":
        path.insert(0, node.s("name"))
        node = next(iter(node.inputs())).node()
    held = reduce(lambda owner, name: getattr(owner, name, None), path, program)
    return str(held) if isinstance(held, torch.device) else None


def _dimensions(value: Any) -> int | None:
    """Return a tensor's number of dimensions. A trace knows it, a script does not."""
    kind = value.type()
    return kind.dim() if kind.kind() == "TensorType" else None

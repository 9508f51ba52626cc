"""The place of a node of an ExportedProgram, with the user's innermost line.

torch keeps the lines of ``forward`` methods alone: of an operator in a helper function it has the
line that calls the helper. Eager runs the same operators there, and its stack has all lines.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from pytest_torchexport.diagnosis.alignment import aligned
from pytest_torchexport.diagnosis.scene import Scene
from pytest_torchexport.outcomes.observe import observe
from pytest_torchexport.outcomes.operators import dispatched, name_of
from pytest_torchexport.outcomes.tape import UsersLines, is_behind
from pytest_torchexport.results.diagnosis import Place
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.targets.formats.branches import line_of_fx
from pytest_torchexport.targets.formats.onnx_model import fx_name
from pytest_torchexport.torch_private.dispatcher import is_operator, schema_of


def place_of(scene: Scene, node: fx.Node) -> Place:
    """Return the place of a node, with eager's line of it if that is known."""
    own = Place(operator=operator_of(node), module=_module_of(node), where=line_of_fx(node))
    if own.where is None or scene.call is None:
        return own
    if node.target is operator.getitem:
        node = node.all_input_nodes[0]
    on_line = [
        other
        for other in node.graph.nodes
        if schema_of(other.target) is not None and line_of_fx(other) == own.where
    ]
    if node not in on_line:
        return own
    names, ran = [name_of(other.target) for other in on_line], _run_by_eager(scene, own.where)
    lines = _lines_of(on_line.index(node), names, ran)
    return replace(own, where=lines.pop() or own.where) if len(lines) == 1 else own


def _lines_of(
    index: int, names: Sequence[str], ran: Sequence[tuple[str, SourceLine | None]]
) -> set[SourceLine | None]:
    """Return the lines of what eager ran in the place of a node."""
    alike = [where for name, where in ran if name == names[index]]
    if len(set(alike)) == 1:
        return set(alike)
    pairs = dict(aligned(names, [name for name, _ in ran]))
    if index in pairs:
        return {ran[pairs[index]][1]} if len(alike) == names.count(names[index]) else set(alike)
    # It runs other operators: those between the twins of the nodes before and after it.
    first = max((other for one, other in pairs.items() if one < index), default=-1)
    last = min((other for one, other in pairs.items() if one > index), default=len(ran))
    return {where for _, where in ran[first + 1 : last]}


def _run_by_eager(scene: Scene, line: SourceLine) -> list[tuple[str, SourceLine | None]]:
    """Return what eager runs on a line, or in what is called there: operators and their lines."""
    ran: list[tuple[str, SourceLine | None]] = []
    lines = UsersLines()
    plan, subject = scene.case.plan, scene.case.reference.pristine.copy()
    subject = subject.to(plan.device)

    def note(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        frame = sys._getframe(1)
        if is_operator(func) and is_behind(line, frame):
            ran.append((name_of(func), lines.innermost(frame, run.__code__)[0]))
        return func(*args, **kwargs)

    def run(*args: Any, **kwargs: Any) -> Any:
        with dispatched(note):
            return subject.function(*args, **kwargs)

    assert scene.call is not None
    observe(run, scene.call.to(plan.device), seed=plan.seed, grad_mode=subject.grad_mode)
    return ran


def translated_by(onnx_node: Any | None, module: fx.GraphModule) -> fx.Node | None:
    """Return the node of the program that an ONNX node is a part of, as its metadata says."""
    name = fx_name(onnx_node) if onnx_node is not None else None
    return next((node for node in module.graph.nodes if node.name == name), None)


def operator_of(node: fx.Node) -> str:
    """Return ``aten.view`` of a node; of one that takes a part of a result, what made it."""
    if node.target is operator.getitem:
        return operator_of(node.all_input_nodes[0])
    return str(getattr(node.target, "overloadpacket", None) or getattr(node.target, "__name__", ""))


def _module_of(node: fx.Node) -> str:
    """Return the path and class of the submodule that a node is in, empty for the module itself."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if len(stack) < 2:
        return ""
    path, cls = stack[-1]
    name = cls if isinstance(cls, str) else cls.__name__
    return f"{path} ({name.rpartition('.')[2]})"

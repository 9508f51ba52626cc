"""Find the user's innermost line of a node of an ExportedProgram.

torch keeps the lines of ``forward`` methods alone: of an operator in a helper function it has the
line that calls the helper. Eager runs the same operators there, and its stack has all lines.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from pytest_torchexport.diagnosis.alignment import aligned
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case
from pytest_torchexport.outcomes.observe import observe
from pytest_torchexport.outcomes.operators import dispatched, name_of
from pytest_torchexport.outcomes.tape import UsersLines, is_behind
from pytest_torchexport.results.diagnosis import Place
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.targets.formats.branches import line_of_fx
from pytest_torchexport.torch_private.dispatcher import is_operator, schema_of


@dataclass(frozen=True)
class _Ran:
    """An operator that eager ran, and the user's innermost line of it."""

    name: str
    where: SourceLine | None


def with_innermost_line(place: Place, node: fx.Node, case: Case, call: Call) -> Place:
    """Return a node's place with eager's innermost line of it, if eager has only one for it."""
    if place.where is None:
        return place
    if node.target is operator.getitem:
        node = node.all_input_nodes[0]
    nodes = [
        other
        for other in node.graph.nodes
        if schema_of(other.target) is not None and line_of_fx(other) == place.where
    ]
    ran = _ran(case, call, place.where)
    lines = _lines(nodes.index(node), nodes, ran) if node in nodes else set()
    return replace(place, where=lines.pop() or place.where) if len(lines) == 1 else place


def _lines(index: int, nodes: Sequence[fx.Node], ran: Sequence[_Ran]) -> set[SourceLine | None]:
    """Return the lines of what eager ran in the place of a node."""
    names = [name_of(node.target) for node in nodes]
    alike = [each for each in ran if each.name == names[index]]
    lines = {each.where for each in alike}
    if len(lines) == 1:
        return lines
    pairs = dict(aligned(names, [each.name for each in ran]))
    if index in pairs:
        return {ran[pairs[index]].where} if len(alike) == names.count(names[index]) else lines
    return {each.where for each in ran[slice(*_gap(index, pairs, len(ran)))]}


def _gap(index: int, pairs: Mapping[int, int], end: int) -> tuple[int, int]:
    """Return where the operators begin and end that stand for a node without a pair."""
    before = [other for own, other in pairs.items() if own < index]
    after = [other for own, other in pairs.items() if own > index]
    return max(before, default=-1) + 1, min(after, default=end)


def _ran(case: Case, call: Call, line: SourceLine) -> list[_Ran]:
    """Return the operators that eager runs on a line, or in what is called there."""
    found: list[_Ran] = []
    lines = UsersLines()
    plan = case.plan
    subject = case.reference.pristine.copy().to(plan.device)

    def note(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        frame = sys._getframe(1)
        if is_operator(func) and is_behind(line, frame):
            found.append(_Ran(name_of(func), lines.innermost(frame, run.__code__)[0]))
        return func(*args, **kwargs)

    def run(*args: Any, **kwargs: Any) -> Any:
        with dispatched(note):
            return subject.function(*args, **kwargs)

    observe(run, call.to(plan.device), seed=plan.seed, grad_mode=subject.grad_mode)
    return found

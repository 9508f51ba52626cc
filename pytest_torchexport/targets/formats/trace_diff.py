"""Compare two traces of one subject: evidence that one of them took another branch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from pytest_torchexport.results.source_line import SourceLine, source_line
from pytest_torchexport.targets.formats.branches import Place
from pytest_torchexport.targets.formats.torchscript import (
    PACKING,
    attribute_path,
    nodes_of,
    traced_at,
    unpacked,
)

MAX_LINES = 6
# Above this many differing nodes on either side the rest is counted without being aligned.
ALIGNED = 1000
# These only name, pack or hold values; operations are compared by what is inside.
SILENT = frozenset({"prim::Constant", "prim::GetAttr", *PACKING})


def difference(first: Any, second: Any) -> tuple[str, ...]:
    """Return how the ``inlined_graph`` of a second trace differs from that of a first.

    A few lines such as ``- aten::relu  model.py:12  return torch.relu(x)``. Compared are the
    operations, the user's lines they come from, the weights they use and how they are connected;
    numbers and sizes are not. Empty if nothing else differs.
    """
    old, new = _steps(first), _steps(second)
    changed = _changed(old, new)
    if not changed:
        # The same operations in the same order: what remains are their connections.
        rewired = [(a, b) for a, b in zip(old, new, strict=True) if a.operands != b.operands]
        changed = [step for pair in rewired for step in zip("-+", pair, strict=True)]
    return _as_lines(changed)


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One operation of a trace.

    ``weights`` are the paths of the module's attributes that it takes; ``operands`` name the step
    or the input that each of its tensors comes from.
    """

    kind: str
    place: Place | None
    weights: tuple[str, ...]
    operands: tuple[str, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """The facts that are equal for the same step in two traces."""
        return self.kind, self.place, self.weights

    @property
    def name(self) -> str:
        """The operation and the owner of its weights: ``aten::linear(experts.0)``."""
        owner = self.weights[0].rpartition(".")[0] or self.weights[0] if self.weights else ""
        return f"{self.kind}({owner})" if owner else self.kind

    @property
    def where(self) -> SourceLine | None:
        """The user's line of the step."""
        return source_line(*self.place) if self.place is not None else None


def _steps(graph: Any) -> list[_Step]:
    names = {value.debugName(): f"input {i}" for i, value in enumerate(graph.inputs())}
    steps: list[_Step] = []
    for node in nodes_of(graph):
        if node.kind() in SILENT:
            continue
        steps.append(_step(node.kind(), node.inputs(), names, traced_at(node.sourceRange())))
        for i, value in enumerate(node.outputs()):
            names[value.debugName()] = f"step {len(steps)}.{i}"
    return [*steps, _step("return", graph.outputs(), names, None)]


def _step(kind: str, values: Iterable[Any], names: dict[str, str], place: Place | None) -> _Step:
    leaves = [leaf for value in values for leaf in unpacked(value)]
    return _Step(
        kind=kind,
        place=place,
        weights=tuple(filter(None, map(attribute_path, leaves))),
        operands=tuple(names.get(leaf.debugName(), "") for leaf in leaves),
    )


def _changed(old: Sequence[_Step], new: Sequence[_Step]) -> list[tuple[str, _Step]]:
    """Return the steps that only one of the two has, in order, each with ``-`` or ``+``."""
    start = _in_common(old, new)
    stop = _in_common(old[start:][::-1], new[start:][::-1])
    left, right = old[start : len(old) - stop], new[start : len(new) - stop]
    matcher = difflib.SequenceMatcher(
        None,
        [step.key for step in left[:ALIGNED]],
        [step.key for step in right[:ALIGNED]],
        autojunk=False,
    )
    found: list[tuple[str, _Step]] = []
    for tag, low, high, new_low, new_high in matcher.get_opcodes():
        if tag != "equal":
            found += [("-", step) for step in left[low:high]]
            found += [("+", step) for step in right[new_low:new_high]]
    return found + [("-", step) for step in left[ALIGNED:]] + [("+", s) for s in right[ALIGNED:]]


def _in_common(old: Sequence[_Step], new: Sequence[_Step]) -> int:
    """Return how many steps both begin with.

    They are not given to difflib, whose time grows with the square of the number.
    """
    pairs = zip(old, new, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0].key == pair[1].key, pairs))


def _as_lines(changed: Sequence[tuple[str, _Step]]) -> tuple[str, ...]:
    some = changed[:MAX_LINES]
    width = max((len(step.name) for _, step in some), default=0)
    lines = [f"{sign} {step.name:{width}}  {step.where or ''}".rstrip() for sign, step in some]
    more = len(changed) - len(some)
    return (*lines, f"... and {more} more") if more else tuple(lines)

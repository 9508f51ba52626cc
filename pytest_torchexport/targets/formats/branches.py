"""What control flow a program still has, and how two traces differ: evidence of structure beside the numbers.

A program that has no branch where eager decided something took the decision once and for all. Which line of
the user's a node came from is told by each format in its own words, read here; torch's own lines are left out.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from pytest_torchexport.outcomes.messages import source_line
from pytest_torchexport.results.source_line import SourceLine

Place = tuple[str, int]

MAX_LINES = 6
# Above this many differing nodes on either side the rest is counted without being aligned.
ALIGNED = 1000

# torch's higher-order operators that decide or repeat, by name: some are classes of private modules.
OPERATORS = frozenset(
    {"cond", "while_loop", "while_loop_stack_output", "scan", "associative_scan", "map", "map_impl"}
)
_FRAME = re.compile(r'File "([^"\n]+)", line (\d+)')
_TRACED = re.compile(r"^(\S[^\n]*?)\((\d+)\): ", re.MULTILINE)
# Where the frames of a trace stop being the model's and begin to be those of whoever traced it.
_TRACER = re.compile(r"torch[/\\]jit[/\\]_trace\.py\(")


@dataclass(frozen=True, kw_only=True)
class Branches:
    """The branches and loops that a program still has. ``lines`` are (file, line) in the user's source where
    the program says so; ``unplaced`` counts those of which it does not. Files are real paths.
    """

    lines: frozenset[Place] = frozenset()
    unplaced: int = 0

    def as_plain(self) -> dict[str, Any]:
        """Lists and numbers, as they cross to another process."""
        return {"lines": [list(place) for place in sorted(self.lines)], "unplaced": self.unplaced}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Branches:
        """The inverse of ``as_plain``."""
        lines = frozenset((str(file), int(line)) for file, line in plain["lines"])
        return cls(lines=lines, unplaced=int(plain["unplaced"]))

    def covers(self, file: str, first: int, last: int) -> bool:
        """Whether a branch begins on one of these lines of the file."""
        path = _real(file)
        return any(path == other and first <= line <= last for other, line in self.lines)


def of_torchscript(program: Any) -> Branches:
    """``prim::If`` and ``prim::Loop`` of a script, or of the scripted parts of a trace. An ``assert``, a
    comprehension and an ``and`` are such nodes too.
    """
    graph = getattr(program, "inlined_graph", None)
    nodes = _nodes(graph) if graph is not None else ()
    return _branches(
        _frames(node.sourceRange())[:1]
        for node in nodes
        if node.kind() in ("prim::If", "prim::Loop")
    )


def of_exported(program: Any) -> Branches:
    """``torch.cond``, ``while_loop``, ``scan`` and ``map`` of an ExportedProgram and of all its subgraphs. Of
    frames torch keeps those of ``forward`` alone (unless ``strict``), so a ``torch.cond`` in a
    helper function is placed where a ``forward`` calls it, and one inside another's branch nowhere.
    """
    import torch

    root = getattr(program, "graph_module", None)
    modules = root.modules() if isinstance(root, torch.nn.Module) else ()
    return _branches(
        _stack(node.meta.get("stack_trace"))
        for module in modules
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
        if _is_branch(node.target)
    )


def of_onnx(model: Any) -> Branches:
    """``If``, ``Loop`` and ``Scan`` of an ``onnx.ModelProto``, nested ones and those in functions. The exporter of
    ``dynamo=False`` writes no places (unless ``verbose``), and translates a few operators to
    such nodes as well.
    """
    graphs = [model.graph, *getattr(model, "functions", ())]
    return _branches(
        _onnx_place(node)
        for graph in graphs
        for node in _onnx_nodes(graph)
        if node.op_type in ("If", "Loop", "Scan")
    )


def difference(first: Any, second: Any) -> tuple[str, ...]:
    """How the ``inlined_graph`` of a second trace differs from that of a first: a few lines such as
    ``- aten::relu  model.py:12  return torch.relu(x)``. Operations, the user's lines they come from, the weights
    they use and how they are connected are compared; numbers and sizes are not. Nothing where only those differ.
    """
    old, new = _steps(first), _steps(second)
    changed = _changed(old, new)
    if not changed:
        # The same operations in the same order: what remains is who feeds whom.
        rewired = [(a, b) for a, b in zip(old, new, strict=True) if a.operands != b.operands]
        changed = [step for pair in rewired for step in zip("-+", pair, strict=True)]
    return _shown(changed)


# -- nodes and their places --------------------------------------------------------------------------


def _branches(places: Iterable[Sequence[Place]]) -> Branches:
    """One entry per branch: its frames, the user's innermost first. Branches of torch's own are not the user's."""
    lines, unplaced = set(), 0
    for frames in places:
        users = [place for place in frames if not _is_torchs(place[0])]
        if users:
            lines.add(users[0])
        elif not frames:
            unplaced += 1
    return Branches(lines=frozenset(lines), unplaced=unplaced)


def _frames(text: str) -> list[Place]:
    """The places in real files that a text names, in its order."""
    found = [(path, int(number)) for path, number in _FRAME.findall(text)]
    return [(_real(path), number) for path, number in found if _is_file(path)]


def _stack(text: str | None) -> list[Place]:
    """The frames of an fx node, innermost first. Each level of subgraphs adds a generated one: of a node below the
    first level only the place of the outermost operator is known, which is not its own.
    """
    generated = [path for path, _ in _FRAME.findall(text or "") if not _is_file(path)]
    return _frames(text or "")[::-1] if len(generated) < 2 else []


def _is_file(path: str) -> bool:
    # "code/" is inside a saved file, "<string>" and "<eval_with_key>.1" are nowhere.
    return not path.startswith(("<", "code/"))


@lru_cache(maxsize=1024)
def _real(path: str) -> str:
    # One path per frame of each node: a large program has a million.
    return os.path.realpath(path)


@lru_cache(maxsize=1024)
def _is_torchs(path: str) -> bool:
    """Whether a real path is torch's or, where it wraps a subject, ours."""
    # Found, not imported: an ONNX file is read where there is no torch.
    spec = importlib.util.find_spec("torch")
    roots = [Path(spec.origin).parent] if spec is not None and spec.origin is not None else []
    inside = (*roots, Path(__file__).parents[1])
    return any(Path(path).is_relative_to(directory.resolve()) for directory in inside)


def _nodes(graph: Any) -> Iterator[Any]:
    """Every node of a TorchScript graph, those in blocks and in the graphs of forks included."""
    for node in graph.nodes():
        yield node
        for block in node.blocks():
            yield from _nodes(block)
        for name in node.attributeNames():
            if node.kindOf(name) == "g":
                yield from _nodes(_inlined(node.g(name)))


def _inlined(graph: Any) -> Any:
    """A fork's graph with its calls resolved, as ``inlined_graph`` does for the outer one. Private in torch,
    so feature-detected.
    """
    import torch

    inline = getattr(torch._C, "_jit_pass_inline", None)
    if inline is None:
        return graph
    copy = graph.copy()
    inline(copy)
    return copy


def _is_branch(target: Any) -> bool:
    import torch

    operator = isinstance(target, torch._ops.HigherOrderOperator)
    return operator and getattr(target, "__name__", "") in OPERATORS


def _onnx_nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _onnx_nodes(inner)


def _onnx_place(node: Any) -> list[Place]:
    metadata = {item.key: item.value for item in getattr(node, "metadata_props", ())}
    stack = metadata.get("pkg.torch.onnx.stack_trace")
    return _stack(stack) if stack is not None else _frames(node.doc_string)[:1]


# -- two traces --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One operation of a trace. ``weights`` are the module's attributes that it takes, ``operands`` where its
    tensors come from: the number of a step or of an input.
    """

    kind: str
    place: Place | None
    weights: tuple[str, ...]
    operands: tuple[str, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """What two steps have in common that are the same."""
        return self.kind, self.place, self.weights

    @property
    def name(self) -> str:
        """``aten::linear(experts.0)``: what it does, and whose weights it takes."""
        owner = self.weights[0].rpartition(".")[0] or self.weights[0] if self.weights else ""
        return f"{self.kind}({owner})" if owner else self.kind

    @property
    def where(self) -> SourceLine | None:
        """The user's line of the step."""
        return source_line(*self.place) if self.place is not None else None


# What only names, packs or holds values; operations are compared by what is inside.
_PACKING = (
    "prim::ListConstruct",
    "prim::TupleConstruct",
    "prim::DictConstruct",
    "prim::NumToTensor",
)
_SILENT = frozenset({"prim::Constant", "prim::GetAttr", *_PACKING})


def _steps(graph: Any) -> list[_Step]:
    names = {value.debugName(): f"input {i}" for i, value in enumerate(graph.inputs())}
    steps: list[_Step] = []
    for node in _nodes(graph):
        if node.kind() in _SILENT:
            continue
        steps.append(_step(node.kind(), node.inputs(), names, _traced_at(node.sourceRange())))
        for i, value in enumerate(node.outputs()):
            names[value.debugName()] = f"step {len(steps)}.{i}"
    return [*steps, _step("return", graph.outputs(), names, None)]


def _step(kind: str, values: Iterable[Any], names: dict[str, str], place: Place | None) -> _Step:
    leaves = [leaf for value in values for leaf in _unpacked(value)]
    return _Step(
        kind=kind,
        place=place,
        weights=tuple(filter(None, map(_attribute, leaves))),
        operands=tuple(names.get(leaf.debugName(), "") for leaf in leaves),
    )


def _unpacked(value: Any) -> list[Any]:
    """The elements of a list or tuple, or the value itself."""
    node = value.node()
    if node.kind() not in _PACKING:
        return [value]
    return [leaf for item in node.inputs() for leaf in _unpacked(item)]


def _attribute(value: Any) -> str:
    """``experts.0.weight``, for what is an attribute of the traced module."""
    names: list[str] = []
    node = value.node()
    while node.kind() == "prim::GetAttr":
        names.append(node.s("name"))
        node = next(iter(node.inputs())).node()
    return ".".join(reversed(names))


def _traced_at(text: str) -> Place | None:
    """The user's innermost line under a node: a trace lists its frames, a script has one place."""
    tracer = _TRACER.search(text)
    traced = _TRACED.finditer(text[: tracer.start()] if tracer else text)
    found = next((match for match in traced if _is_users(match[1])), None) or _FRAME.search(text)
    if found is None or not _is_users(found[1]):
        return None
    return _real(found[1]), int(found[2])


def _is_users(path: str) -> bool:
    return _is_file(path) and not _is_torchs(_real(path))


def _changed(old: Sequence[_Step], new: Sequence[_Step]) -> list[tuple[str, _Step]]:
    """The steps that only one of the two has, each with its sign, in order."""
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
    """How many steps both begin with. What is left for difflib is small: its time grows with the square."""
    pairs = zip(old, new, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0].key == pair[1].key, pairs))


def _shown(changed: Sequence[tuple[str, _Step]]) -> tuple[str, ...]:
    some = changed[:MAX_LINES]
    width = max((len(step.name) for _, step in some), default=0)
    lines = [f"{sign} {step.name:{width}}  {step.where or ''}".rstrip() for sign, step in some]
    more = len(changed) - len(some)
    return (*lines, f"... and {more} more") if more else tuple(lines)

"""Read what torch.export could not decide from the user's source: the condition, and the way out.

Only refusals that are about control flow and sizes. torch says in its own symbols what it could not
decide (``Eq(u0, 1)``) and on which line; the ``if`` on that line is read from its source.
"""

from __future__ import annotations

import ast
import linecache
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pytest_torchexport.outcomes.messages import condense
from pytest_torchexport.outcomes.texts import chain, text_of
from pytest_torchexport.results.diagnosis import Cause
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.targets.formats.shape_env import refused_sizes

WHILE = "torch.while_loop" if hasattr(torch, "while_loop") else "torch._higher_order_ops.while_loop"
REMEDIES = {
    "if": (
        "torch.cond(pred, true_fn, false_fn, operands), or torch.where(pred, a, b) where both "
        "sides may be computed"
    ),
    "while": f"{WHILE}(cond_fn, body_fn, inputs), or a fixed number of steps with torch.where",
    "for": (
        f"{WHILE}(cond_fn, body_fn, inputs), or as many steps as there can be, each under "
        "torch.where(i < n, ...)"
    ),
    "assert": "torch._assert_async(condition, message), or leave the check to who calls the model",
    "extreme": (
        "torch's own: x.clamp(min=n) for max(x.item(), n), x.clamp(max=n) for min(x.item(), n), "
        "torch.maximum(x, y) of two tensors"
    ),
    "number": (
        "keep it a tensor; or take it by .item() (an int by .long().item()), as a size bounded by "
        "torch._check(n >= 0)"
    ),
    "": (
        "torch._check(...) of that number before this line, if the answer is always the same; or "
        "pass what this line reads from values as an argument"
    ),
}
BRANCHES = ("if", "while", "assert")
# The cause, of a construct that values decide.
DECIDED = {
    "if": "an if asks {text}, whose value is not known while torch.export captures",
    "while": "a while asks {text}, whose value is not known while torch.export captures",
    "for": "a loop runs over {text}, whose length is not known while torch.export captures",
    "assert": "an assert asks {text}, whose value is not known while torch.export captures",
    "extreme": "{text} compares a number whose value is not known while torch.export captures",
    "number": "{text} makes a Python number of a value that torch.export does not know",
    "": "this line needs a number or a truth value that torch.export does not know",
}
NUMEL = "ask the tensor, which keeps the sizes symbolic: x.numel() for x.shape.numel()"
# torch.Size.numel() takes each size for a number of Python, which the tensor's own does not.
_OF_EACH_SIZE = (".shape.numel()", ".size().numel()")
SIZE = "declare sizes on one side of it, or torch.cond"
STATIC = "keep the size symbolic (no int(), no Python loop over it), or declare it fixed"
PROMISE = "or, if it always holds, before this line: torch._check({text})"
# These operators give a Python bool; the hint names what gives the same as a tensor.
TENSOR_TESTS = {
    "aten.equal": "torch.equal gives a Python bool, (a == b).all() a tensor",
    "aten.allclose": "torch.allclose gives a Python bool, torch.isclose(a, b).all() a tensor",
}
_UNDECIDED = re.compile(
    r"(?:Could not guard on|Could not extract specialized integer from) data-dependent expression "
    r"(?P<expression>.+?) \(unhinted"
    r"|Data-dependent (?:branching|assertion)|dynamic control flow is not supported"
    # bool(...) of a tensor under strict=True, in torch 2.9.
    r"|does not know how to trace builtin operator `bool` with argument types \['Tensor'\]",
    re.IGNORECASE,
)

_SUGGESTED = re.compile(r"Suggested fixes:\n((?:  .+\n?)+)")
_RANGE = re.compile(r"(?P<name>\w+) = Dim\('\w+'(?P<bounds>[^)]*)\)")
_RELATED = re.compile(r"(?P<name>\w+) = (?P<value>(?!Dim\().+)")
_SPECIALIZED = re.compile(
    r"You marked (\S+) as dynamic but your code specialized it to be a constant \((\d+)\)"
)
_RELATION = re.compile(r"[<>]|\b(?:Eq|Ne)\(")
# torch's names for a tensor's truth value and number, which say nothing to a reader.
_NAMELESS = re.compile(r"|Eq\(z?u\w*, 1\)|z?u\w*|TruncToInt\(\w+\)")


def control_flow(error: BaseException) -> Cause | None:
    """Return the condition, number or size that torch could not decide, with the usual remedy.

    None if the refusal is not about control flow or sizes.
    """
    for cause in chain(error):
        text = text_of(cause)
        if type(cause).__name__ == "DataDependentOutputException":
            return _of_values(error, hints=_tensor_test(text))
        undecided = _UNDECIDED.search(text)
        if undecided is not None:
            of_sizes = "Size-like symbols: u" in text
            expression = undecided["expression"] or ""
            hints = [PROMISE] if of_sizes else []
            return _of_values(error, expression=expression, hints=hints)
        if "Constraints violated" in text:
            return _of_sizes(cause, text)
    return None


# -- values ----------------------------------------------------------------------------------------


def _of_values(
    error: BaseException, *, expression: str = "", hints: Iterable[str] = ()
) -> Cause | None:
    # torch gives no expression for some branches, but for all numbers.
    truth = not expression or bool(_RELATION.search(expression))
    where = condense(error)[1]
    found = _construct_at(where, truth=truth)
    if found is None:
        return None
    # A truth value may also be used without a branch: layers[int(x.sum() > 0)].
    choice = "if" if truth else "number"
    kind = choice if found.kind == "number" else found.kind
    symbolic = [] if _NAMELESS.fullmatch(expression) else [f"to torch it is {expression}"]
    return Cause(
        kind="data-dependent value",
        text=DECIDED[kind].format(text=found.text),
        remedy=REMEDIES[kind if found.text else choice],
        details=(*symbolic, *(hint.format(text=found.text) for hint in hints)),
        where=where,
    )


def _tensor_test(text: str) -> list[str]:
    return [hint for name, hint in TENSOR_TESTS.items() if text.startswith(name)]


# -- sizes -----------------------------------------------------------------------------------------


def _of_sizes(error: BaseException, text: str) -> Cause | None:
    """Return the branch, else the number, with which torch narrowed the declared dims.

    If it has no line, torch's own words.
    """
    facts = refused_sizes(error)
    bounds = [at for each in facts.ranges.values() for at in (each.low_at, each.high_at)]
    decided = _constructs([*(where for _, where in facts.guards), *bounds], truth=True)
    numbers = dict(_constructs(facts.frozen.values(), truth=False, only="number"))
    branches = [
        (where, item)
        for where, item in decided
        if item.kind in BRANCHES and not _beside(numbers.get(where), item)
    ]
    frozen = [
        (where, numbers.get(where, item))
        for where, item in _constructs(facts.frozen.values(), truth=False)
        if item.kind
    ]
    fixes = _fixes(text)
    declared = [f"or declare what the export takes: {'; '.join(fixes)}"] if fixes else []
    if branches:
        where, first = branches[0]
        return Cause(
            kind="guard",
            text=f"{first.text} decides by a size that is declared to vary",
            remedy="\n".join([SIZE, *declared]),
            details=(*_others(branches),),
            where=where,
        )
    if frozen:
        where, first = frozen[0]
        of_each = first.text.endswith(_OF_EACH_SIZE)
        return Cause(
            kind="frozen size",
            text=f"{first.text} makes a number of a size that is declared to vary",
            remedy="\n".join([NUMEL if of_each else STATIC, *declared]),
            details=(*_others(frozen),),
            where=where,
        )
    return _in_torchs_words(text, fixes)


def _in_torchs_words(text: str, fixes: Sequence[str]) -> Cause | None:
    frozen = dict.fromkeys(_SPECIALIZED.findall(text))  # several inputs may have the dim
    if frozen:
        named = " and ".join(f"{dim} only as {size}" for dim, size in frozen)
        return Cause(
            kind="frozen size",
            text=f"the operations of forward take {named}, and it is declared to vary",
            remedy="declare it fixed: "
            + "; ".join(f'{size} in place of "{dim}" in shapes' for dim, size in frozen),
        )
    if not fixes:
        return None
    return Cause(
        kind="guard",
        text="the operations of forward take fewer sizes than are declared",
        remedy=f"declare what the export takes: {'; '.join(fixes)}",
    )


def _fixes(text: str) -> list[str]:
    """Return torch's suggested fixes as the plugin's marker has them."""
    match = _SUGGESTED.search(text)
    lines = [line.strip() for line in match[1].splitlines()] if match is not None else []
    ranges = [found for found in map(_RANGE.fullmatch, lines) if found is not None]
    relations = [found for found in map(_RELATED.fullmatch, lines) if found is not None]
    dims = ", ".join(_in_dims(found["name"], found["bounds"]) for found in ranges)
    return [
        *(f'"{found["value"]}" in place of "{found["name"]}" in shapes' for found in relations),
        *([f"dims={{{dims}}}"] if dims else []),
    ]


def _in_dims(name: str, bounds: str) -> str:
    low, high = re.search(r"min=(\d+)", bounds), re.search(r"max=(\d+)", bounds)
    return f'"{name}": ({low[1] if low else 1}, {high[1] if high else "..."})'


def _constructs(
    places: Iterable[SourceLine | None], *, truth: bool, only: str = ""
) -> list[tuple[SourceLine, Construct]]:
    lines = [where for where in dict.fromkeys(places) if where is not None]
    found = [(where, _construct_at(where, truth=truth, only=only)) for where in lines]
    return [(where, item) for where, item in found if item is not None]


def _beside(number: Construct | None, branch: Construct) -> bool:
    """Return True if a line makes a number of the size outside of its condition, or of each size.

    ``x.shape.numel()`` makes one of each size also inside a condition.
    """
    if number is None:
        return False
    return number.text not in branch.text or number.text.endswith(_OF_EACH_SIZE)


def _others(found: Sequence[tuple[SourceLine, Construct]]) -> Iterator[str]:
    for where, item in found[1:]:
        yield f"also: {item.text}  ({where.place})"


# -- what is on a line -------------------------------------------------------------------------


@dataclass(frozen=True)
class Construct:
    """The statement or expression on a line of source that decides something.

    ``kind`` is a key of ``REMEDIES``, empty if only the line is known; ``text`` is the condition,
    or the line.
    """

    kind: str
    text: str


def _construct_at(where: SourceLine | None, *, truth: bool, only: str = "") -> Construct | None:
    """Return what decides on a line. ``truth``: torch needed a truth value, not a number.

    ``only``: None if there is nothing of this kind.
    """
    if where is None:
        return None
    line = where.line
    # linecache looks for the file of a library, whose path begins with the package, in sys.path.
    source = linecache.getlines(str(Path(where.file).resolve())) or linecache.getlines(where.file)
    plain = source[line - 1].strip() if 0 < line <= len(source) else ""
    found = [item for item in _asked("".join(source)) if item.first <= line <= item.last]
    if only:
        found = [item for item in found if item.kind == only]
    if not found:
        return None if only else Construct("", plain)
    best = min(found, key=lambda item: (item.rank(truth=truth), item.last - item.first))
    # torch does not say which of several conditions on one line it means.
    same = {item.text for item in found if (item.kind, item.first) == (best.kind, best.first)}
    unsure = len(same) > 1 and best.kind != "number"
    return Construct(best.kind, plain if unsure else best.text)


@dataclass(frozen=True)
class _Asked:
    """An expression whose value decides something, and the lines on which that is written."""

    kind: str
    text: str
    first: int
    last: int

    def rank(self, *, truth: bool) -> int:
        """Return how well it fits what torch needed: 0 is best."""
        if self.kind in BRANCHES:
            return 1
        if self.kind == "extreme":
            return 2 if truth else 4
        if self.kind == "number":
            return 3
        # range(int(n)) takes a number; a loop over a name takes none.
        return 0 if not truth and "(" in self.text else 4


def _asked(source: str) -> Iterator[_Asked]:
    """Yield every condition, loop and conversion to a number; none if the source has an error."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # generated, or another language than this Python's
        return
    for node in ast.walk(tree):
        for kind, expression in _decisions(node):
            # A statement's own line counts, a comprehension has none.
            first = getattr(node, "lineno", expression.lineno)
            text = " ".join(ast.unparse(expression).split())
            yield _Asked(kind, text, first, expression.end_lineno or first)


def _decisions(node: ast.AST) -> list[tuple[str, ast.expr]]:
    match node:
        case ast.If(test=test) | ast.IfExp(test=test):
            return [("if", test)]
        case ast.While(test=test):
            return [("while", test)]
        case ast.Assert(test=test):
            return [("assert", test)]
        case ast.Match(subject=test) | ast.match_case(guard=ast.expr() as test):
            return [("if", test)]
        case ast.For(iter=iterated):
            return [("for", iterated)]
        case ast.comprehension(iter=iterated, ifs=tests):
            return [("for", iterated), *(("if", test) for test in tests)]
        case ast.Call(func=ast.Name(id="max" | "min"), args=[_, _, *_]):
            return [("extreme", node)]
        case ast.Call() if _makes_a_number(node):
            return [("number", node)]
    return []


def _makes_a_number(call: ast.Call) -> bool:
    """Return True if a call makes a number of Python, or a list of numbers."""
    match call.func:
        case ast.Name(id="int" | "float" | "bool" | "round" | "len"):
            return True
        case ast.Attribute(attr="item" | "tolist"):
            return True
    return ast.unparse(call).endswith(_OF_EACH_SIZE)

"""Tell what to do about an exporter's refusal: the line, its condition, and the usual way out.

Only refusals that are about control flow. torch says in its own symbols what it could not decide
(``Eq(u0, 1)``) and on which line; the ``if`` on that line is read from its source.
"""

from __future__ import annotations

import ast
import linecache
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from pytest_torchexport.outcomes.messages import condense, text_of
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
    "number": (
        "keep it a tensor; or take it by .item() (an int by .long().item()), as a size bounded by "
        "torch._check(n >= 0)"
    ),
}
BRANCHES = ("if", "while", "assert")
SIZE = "a torch.export.Dim that keeps to one side of it{example}, or torch.cond"
STATIC = "keep the size symbolic (no int(), no Python loop over it), or declare it fixed"
DRAFT = (
    "torch.export.draft_export does not stop at the first such line: "
    "it lists all that the example meets"
)
# These operators give a Python bool; the hint names what gives the same as a tensor.
TENSOR_TESTS = {
    "aten.equal": "torch.equal gives a Python bool, (a == b).all() a tensor",
    "aten.allclose": "torch.allclose gives a Python bool, torch.isclose(a, b).all() a tensor",
}
# A pattern in torch.jit.script's message, and what TorchScript compiles instead.
SCRIPT = {
    r"is not defined in the (true|false) branch": "give it a value before the if, or on both sides",
    r"is set to type .* in the true branch and type": (
        "the same type on both sides: a tensor rather than a number (torch.zeros(()))"
    ),
    r"Previous return statement returned a value of type": (
        "the same type in every return; or annotate what forward returns (-> typing.Union[...])"
    ),
    r"ModuleList/Sequential indexing is only supported with integer literals": (
        "for i, layer in enumerate(self.layers): if i == index: ..."
    ),
    r"Comprehension ifs are not supported": "a for loop that appends under an if",
    r"try blocks aren't supported": "an if that asks beforehand whether it would raise",
    r"Match aren't supported": "if and elif",
    r"NamedExpr aren't supported": "assign on a line of its own",
    r"else branches of for loops aren't supported": "a flag that the loop sets, and an if after it",
    r"do not support break or continue inside the body": (
        "a flag, and the rest of the body under an if"
    ),
    r"previously had type NoneType but is now being assigned": (
        "annotate it where it becomes None (y: Optional[Tensor] = None) and assert y is not None "
        "before use"
    ),
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
_RELATION = re.compile(r"[<>]|\b(?:Eq|Ne)\(")
# torch's names for a tensor's truth value and number, which say nothing to a reader.
_NAMELESS = re.compile(r"|Eq\(z?u\w*, 1\)|z?u\w*|TruncToInt\(\w+\)")


def remedy(error: BaseException) -> tuple[str, ...]:
    """Return lines for the report: the condition with its place, and the usual remedy.

    Empty if the refusal is not about control flow.
    """
    for cause in _causes(error):
        text = text_of(cause)
        if type(cause).__name__ == "DataDependentOutputException":
            return (*_of_values(error), *_tensor_test(text))
        undecided = _UNDECIDED.search(text)
        if undecided is not None:
            # draft_export fails as export does if a size itself comes from values.
            drafts = hasattr(torch.export, "draft_export") and "Size-like symbols: u" not in text
            found = _of_values(error, expression=undecided["expression"] or "")
            return (*found, DRAFT) if found and drafts else found
        if "Constraints violated" in text:
            return _of_sizes(cause, text)
        for words, instead in SCRIPT.items():
            if re.search(words, text):
                return (f"remedy: {instead}",)
    return ()


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


# -- values ----------------------------------------------------------------------------------------


def _of_values(error: BaseException, *, expression: str = "") -> tuple[str, ...]:
    # torch gives no expression for some branches, but for all numbers.
    truth = not expression or bool(_RELATION.search(expression))
    found = _construct_at(condense(error)[1], truth=truth)
    if found is None:
        return ()
    # A truth value may also be used without a branch: layers[int(x.sum() > 0)].
    choice = "if" if truth else "number"
    kind = found.kind if found.kind not in ("number", "") else choice
    symbolic = f", to torch {expression}" if not _NAMELESS.fullmatch(expression) else ""
    what = "value" if kind == "number" else "condition"
    return f"{what}: {found.text}{symbolic}  ({found.place})", f"remedy: {REMEDIES[kind]}"


def _tensor_test(text: str) -> list[str]:
    return [hint for name, hint in TENSOR_TESTS.items() if text.startswith(name)]


# -- sizes -----------------------------------------------------------------------------------------


def _of_sizes(error: BaseException, text: str) -> tuple[str, ...]:
    """Return the branches, else the numbers, with which torch narrowed the declared dims."""
    facts = refused_sizes(error)
    bounds = [at for each in facts.ranges.values() for at in (each.low_at, each.high_at)]
    decided = _constructs([*(where for _, where in facts.guards), *bounds], truth=True)
    branches = [item for item in decided if item.kind in BRANCHES]
    if branches:
        return (*_conditions(branches), f"remedy: {SIZE.format(example=_suggested(text))}")
    frozen = [item for item in _constructs(facts.frozen.values(), truth=False) if item.kind]
    return (*_conditions(frozen), f"remedy: {STATIC}") if frozen else ()


def _suggested(text: str) -> str:
    """Return torch's own suggestion, ``, e.g. batch = Dim('batch', min=5)``, if it has one."""
    match = _SUGGESTED.search(text)
    lines = [line.strip() for line in match[1].splitlines()] if match is not None else []
    return f", e.g. {', '.join(lines)}" if any("Dim(" in line for line in lines) else ""


def _constructs(places: Iterable[SourceLine | None], *, truth: bool) -> list[Construct]:
    found = (_construct_at(where, truth=truth) for where in dict.fromkeys(places))
    return [item for item in found if item is not None]


def _conditions(found: Iterable[Construct]) -> Iterator[str]:
    for item in found:
        what = "condition" if item.kind in BRANCHES else "size"
        yield f"{what}: {item.text}  ({item.place})"


# -- what is on a line -------------------------------------------------------------------------


@dataclass(frozen=True)
class Construct:
    """The statement or expression on a line of source that decides something.

    ``kind`` is a key of ``REMEDIES``, empty if only the line is known; ``text`` is the condition,
    or the line; ``place`` is ``model.py:12``.
    """

    kind: str
    text: str
    place: str


def _construct_at(where: SourceLine | None, *, truth: bool) -> Construct | None:
    """Return what decides on a line. ``truth``: torch needed a truth value, not a number."""
    if where is None:
        return None
    line, place = where.line, where.place
    source = linecache.getlines(str(Path(where.file).resolve()))
    plain = source[line - 1].strip() if 0 < line <= len(source) else ""
    found = [item for item in _asked("".join(source)) if item.first <= line <= item.last]
    if not found:
        return Construct("", plain, place)
    best = min(found, key=lambda item: (item.rank(truth=truth), item.last - item.first))
    # torch does not say which of several conditions on one line it means.
    same = {item.text for item in found if (item.kind, item.first) == (best.kind, best.first)}
    unsure = len(same) > 1 and best.kind != "number"
    return Construct(best.kind, plain if unsure else best.text, place)


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
        if self.kind == "number":
            return 2
        # range(int(n)) takes a number; a loop over a name takes none.
        return 0 if not truth and "(" in self.text else 3


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
        case ast.Call(func=ast.Name(id="int" | "float" | "bool" | "round" | "len")):
            return [("number", node)]
        case ast.Call(func=ast.Attribute(attr="item" | "tolist")):
            return [("number", node)]
    return []

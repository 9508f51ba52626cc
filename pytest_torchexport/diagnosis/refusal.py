"""Diagnose an exporter's refusal: the owner, the cause in a sentence, the user's line, the remedy.

First what is known of the exporter's words. Else the condition, number or size that torch.export
could not decide: torch says it in its own symbols (``Eq(u0, 1)``), and on which line; what asks on
that line is read from the user's source.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import re
import textwrap
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.diagnosis.remedies import also, without_a_number
from pytest_torchexport.judge.case import Prepared
from pytest_torchexport.outcomes.errors import chain, text_of
from pytest_torchexport.outcomes.messages import condense
from pytest_torchexport.outcomes.torch_state import GradMode
from pytest_torchexport.results.diagnosis import NOTHING, Cause, CauseKind, Diagnosis
from pytest_torchexport.results.source_line import SourceLine, has_owner, source_line
from pytest_torchexport.targets.upstream import Evidence, first
from pytest_torchexport.torch_private.symbolic_sizes import (
    called_lines,
    environment_of,
    frozen_lines,
    guards_of,
    range_lines,
    ranges_of,
    text_lines,
)

# TorchScript underlines the expression that it refuses, and leaves out its last bracket.
_UNDERLINED = re.compile(r"\n(?P<code>[^\n]*)\n(?P<blanks> *)(?P<line>~+) <--- HERE")
BRACKETS = (("[", "]"), ("(", ")"))
WHILE = "torch.while_loop" if hasattr(torch, "while_loop") else "torch._higher_order_ops.while_loop"
# For each construct that values decide: the cause and the remedy.
UNKNOWN = "is not known while torch.export captures"
CAUSES = {
    "if": f"an if asks {{text}}, whose value {UNKNOWN}",
    "while": f"a while asks {{text}}, whose value {UNKNOWN}",
    "for": f"a loop runs over {{text}}, whose length {UNKNOWN}",
    "assert": f"an assert asks {{text}}, whose value {UNKNOWN}",
    "number": "{text} makes a Python number of a value that torch.export does not know",
    "": "this line needs a number or a truth value that torch.export does not know",
}
REMEDIES = {
    "if": "torch.cond(pred, true_fn, false_fn, operands), or torch.where(pred, a, b) where both "
    "sides may be computed",
    "while": f"{WHILE}(cond_fn, body_fn, inputs), or a fixed number of steps with torch.where",
    "for": f"{WHILE}(cond_fn, body_fn, inputs), or as many steps as there can be, each under "
    "torch.where(i < n, ...)",
    "assert": "torch._assert_async(condition, message), or leave the check to who calls the model",
    "number": "keep it a tensor; or take it by .item() (an int by .long().item()), as a size "
    "bounded by torch._check(n >= 0)",
    "": "torch._check(...) of that number before this line, if the answer is always the same; or "
    "pass what this line reads from values as an argument",
}
BRANCHES = ("if", "while", "assert")
SIZE = "declare sizes on one side of it, or torch.cond"
STATIC = "keep the size symbolic (no int(), no Python loop over it), or declare it fixed"

_UNDECIDED = re.compile(
    r"(?:Could not guard on|Could not extract specialized integer from) data-dependent expression "
    r"(?P<expression>.+?) \(unhinted"
    r"|Data-dependent (?:branching|assertion)|dynamic control flow is not supported"
    # bool(...) of a tensor under strict=True, in torch 2.9.
    r"|does not know how to trace builtin operator `bool` with argument types \['Tensor'\]",
    re.IGNORECASE,
)
_FIX = re.compile(
    r"^  (?P<name>\w+) = (?:Dim\('\w+'(?P<bounds>[^)]*)\)|(?P<value>(?!Dim\().+))$", re.MULTILINE
)
_SPECIALIZED = re.compile(
    r"You marked (\S+) as dynamic but your code specialized it to be a constant \((\d+)\)"
)
_RELATION = re.compile(r"[<>]|\b(?:Eq|Ne)\(")


def explained(
    error: BaseException, target: str, called: Callable[..., Any] | None = None
) -> Diagnosis:
    """Return the diagnosis that an exception allows; the line alone if its words are not known.

    ``called`` is the module or function that was to be exported, if it is known.
    """
    # With the notes that a target added.
    texts = [
        (type(each).__name__, "\n".join((text_of(each), *getattr(each, "__notes__", ()))))
        for each in chain(error)
    ]
    frames = [frame for each in chain(error) for frame in traceback.extract_tb(each.__traceback__)]
    frozen = frozen_lines(environment_of(chain(error)))
    where = next(iter(frozen.values()), None) or condense(error)[1]
    evidence = Evidence(
        target=target,
        said=texts,
        line=where.text if where is not None else "",
        frames="\n".join(f"{frame.filename}:{frame.name}" for frame in frames),
        names={"here": _underlined([text for _, text in texts], where)},
    )
    known = first("refusals", evidence)
    if known is None:
        return undecided(error)
    row, names = known
    cause = Cause(
        kind=row.kind,
        text=row.cause.format_map(names),
        remedy=row.remedy.format_map(names),
        where=_only_return(called) if row.returned else where,
    )
    return Diagnosis(owner=row.owner, causes=(cause,))


def in_other_mode(prepared: Prepared) -> Diagnosis:
    """Return that the exporter takes the module without gradients, if it does."""
    modes = prepared.reference.exported_in, prepared.reference.served
    if modes != (GradMode.GRAD, GradMode.NO_GRAD):
        return NOTHING
    made = prepared.exported_or_refused(prepared.call_to_export(), grad_mode=GradMode.NO_GRAD)
    if isinstance(made, str):
        return NOTHING
    cause = Cause(
        kind="mode-dependent operator",
        text=f"the exporter takes the module {GradMode.NO_GRAD.value}, and not with gradients",
        remedy=f"export {GradMode.NO_GRAD.value}, and make the test's call so",
    )
    return Diagnosis(causes=(cause,))


def _underlined(texts: list[str], where: SourceLine | None) -> str:
    """Return the expression that TorchScript underlines, else the user's line."""
    line = where.text if where is not None else "forward"
    match = next(filter(None, map(_UNDERLINED.search, texts)), None)
    if match is None:
        return line
    start = len(match["blanks"])
    marked = match["code"][start : start + len(match["line"])]
    marked += "".join(end for begin, end in BRACKETS if marked.count(begin) > marked.count(end))
    whole = all(marked.count(begin) == marked.count(end) for begin, end in BRACKETS)
    return marked if whole and marked in line else line


def _only_return(called: Any) -> SourceLine | None:
    """Return the line of the only return statement of what was called; None if there are more."""
    function = getattr(called, "forward", called)
    try:
        path = inspect.getsourcefile(inspect.unwrap(function))
        lines, start = inspect.getsourcelines(function)
        (definition,) = ast.parse(textwrap.dedent("".join(lines))).body
    except (OSError, TypeError, SyntaxError, ValueError):  # no source, or a lambda's
        return None
    found = list(_returns(definition))
    if path is None or len(found) != 1 or not has_owner(path):
        return None
    return source_line(path, start + found[0].lineno - 1)


def _returns(definition: ast.AST) -> Iterator[ast.Return]:
    """Yield the return statements of a function, without those of functions inside it."""
    inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    for node in ast.iter_child_nodes(definition):
        if isinstance(node, ast.Return):
            yield node
        elif not isinstance(node, inner):
            yield from _returns(node)


# -- what torch.export could not decide ------------------------------------------------------------


def undecided(error: BaseException) -> Diagnosis:
    """Return the condition, number or size that torch could not decide, with the usual remedy.

    Also the size of which it made a text that means nothing. Nothing if the refusal is not about
    control flow or sizes.
    """
    texts = text_lines(environment_of(chain(error)))
    for raised in chain(error):
        text = text_of(raised)
        asked = _UNDECIDED.search(text)
        if asked is not None or type(raised).__name__ == "DataDependentOutputException":
            expression = asked and asked["expression"]
            return _by_values(condense(error)[1], expression or "")
        if "Constraints violated" in text:
            return _by_sizes(raised, text)
        written = next((each for each in texts if each in text), "")
        if written and isinstance(raised, (LookupError, AttributeError, ValueError)):
            cause = Cause(
                kind="frozen size",
                text=f"this line makes a text of a size, which is {written!r} while torch.export "
                "captures",
                remedy=f"choose by the size itself, as with n == 4; {STATIC}",
                where=texts[written],
            )
            return Diagnosis(owner="model", causes=(cause,))
    return NOTHING


def _by_values(where: SourceLine | None, expression: str) -> Diagnosis:
    if where is None:
        return NOTHING
    # torch gives no expression for some branches, but for all numbers.
    truth = not expression or bool(_RELATION.search(expression))
    construct = construct_at(where, truth=truth)
    # A truth value may also be used without a branch: layers[int(x.sum() > 0)].
    choice = "if" if truth else "number"
    kind = choice if construct.kind == "number" else construct.kind
    cause = Cause(
        kind="data-dependent value",
        text=CAUSES[kind].format(text=construct.text),
        remedy=REMEDIES[kind if construct.text else choice],
        where=where,
    )
    return Diagnosis(owner="model", causes=(cause,))


def _by_sizes(error: BaseException, text: str) -> Diagnosis:
    """Return the branch, else the number, with which torch narrowed the declared dims.

    If it has no line, torch's own words.
    """
    fixes = _fixes(text)
    declare = f"declare what the export takes: {'; '.join(fixes)}" if fixes else ""
    environment = environment_of(chain(error))
    # The user's lines that made a number of a size for which torch refused the dims.
    frozen = [*dict.fromkeys(frozen_lines(environment).values())]

    def told(kind: CauseKind, text: str, remedy: str, lines: Iterable[SourceLine | None]) -> Cause:
        """Return the cause that stands on the first of these lines, and on others too."""
        where, *others = lines
        either = "\nor ".join(filter(None, [remedy, declare]))
        return Cause(kind=kind, text=text, remedy=either, details=also(others), where=where)

    # The lines that put a condition or a bound on a size.
    conditions = [where for _, where in guards_of(environment)]
    bounds = [
        where for symbol in ranges_of(environment) for where in range_lines(environment, symbol)
    ]
    asking: dict[SourceLine, tuple[CauseKind, str, str]] = {}
    for where in filter(None, dict.fromkeys((*conditions, *bounds))):
        branch = construct_at(where, truth=True)
        number = construct_at(where, truth=False, kinds=("number",)) if where in frozen else None
        # int(x.shape[0]) if self.whole else ...: the number is beside the condition.
        beside = number is not None and number.kind and number.text not in branch.text
        if branch.kind in BRANCHES and not beside:
            asks = f"{branch.text} decides by a size that is declared to vary"
            asking[where] = "guard", asks, SIZE
    for where in frozen:
        number = construct_at(where, truth=False, kinds=("number",))
        number = number if number.kind else construct_at(where, truth=False)
        if number.kind:
            makes = f"{number.text} makes a number of a size that is declared to vary"
            # In a loop, Python would still count to the size.
            mend = STATIC if "range(" in where.text else without_a_number(where, STATIC)
            asking.setdefault(where, ("frozen size", makes, mend))
    if asking:
        cause = told(*next(iter(asking.values())), asking)
        return Diagnosis(owner="model", causes=(cause,))
    # What torch's own code decided by.
    called = dict.fromkeys(called_lines(environment).values())
    lines: list[SourceLine | None] = [*(frozen or called)] or [None]
    of_torch = not frozen and bool(called_lines(environment, of_layers=True))
    take = "torch's own code takes" if of_torch else "the operations of forward take"
    constants = dict.fromkeys(_SPECIALIZED.findall(text))  # several inputs may have the dim
    if constants:
        named = " and ".join(f"{dim} only as {size}" for dim, size in constants)
        fixed = "; ".join(f'{size} in place of "{dim}" in shapes' for dim, size in constants)
        takes = f"{take} {named}, and it is declared to vary"
        kind: CauseKind = "guard" if of_torch else "frozen size"
        cause = replace(told(kind, takes, "", lines), remedy=f"declare it fixed: {fixed}")
    elif fixes:
        cause = told("guard", f"{take} fewer sizes than are declared", "", lines)
    else:
        return NOTHING
    return Diagnosis(owner="capture" if of_torch else "model", causes=(cause,))


def _fixes(text: str) -> list[str]:
    """Return torch's suggested fixes as the plugin's marker has them."""
    ranges, relations = [], []
    for fix in _FIX.finditer(text.partition("Suggested fixes:\n")[2]):
        if fix["value"]:
            relations.append(f'"{fix["value"]}" in place of "{fix["name"]}" in shapes')
        else:
            low, high = (re.search(rf"{end}=(\d+)", fix["bounds"]) for end in ("min", "max"))
            bounds = f"({low[1] if low else 1}, {high[1] if high else '...'})"
            ranges.append(f'"{fix["name"]}": {bounds}')
    return [*relations, *([f"dims={{{', '.join(ranges)}}}"] if ranges else [])]


# -- what is on a line -------------------------------------------------------------------------


@dataclass(frozen=True)
class Construct:
    """A statement or expression that decides something, and the lines on which it is written.

    ``kind`` is a key of ``CAUSES``, empty if only the line is known; ``text`` is the condition.
    """

    kind: str
    text: str
    first: int = 0
    last: int = 0


def construct_at(
    where: SourceLine, *, truth: bool, kinds: Collection[str] = tuple(CAUSES)
) -> Construct:
    """Return the construct that decides on a line, where torch needed a truth value or a number."""
    # linecache looks for the file of a library, whose path begins with the package, in sys.path.
    source = linecache.getlines(str(Path(where.file).resolve())) or linecache.getlines(where.file)
    plain = source[where.line - 1].strip() if 0 < where.line <= len(source) else ""
    here = [
        each
        for each in _constructs("".join(source))
        if each.first <= where.line <= each.last and each.kind in kinds
    ]
    if not here:
        return Construct("", plain)

    def misfit(each: Construct) -> tuple[int, int]:
        """Return how badly it fits what torch needed, and on how many more lines it is."""
        if each.kind in (*BRANCHES, "number"):
            return 1 + (each.kind == "number"), each.last - each.first
        # range(int(n)) takes a number; a loop over a name takes none.
        return 0 if not truth and "(" in each.text else 3, each.last - each.first

    best = min(here, key=misfit)
    # torch does not say which of several conditions on one line it means.
    same = {each.text for each in here if (each.kind, each.first) == (best.kind, best.first)}
    unsure = len(same) > 1 and best.kind != "number"
    return Construct(best.kind, plain) if unsure else best


def _constructs(source: str) -> Iterator[Construct]:
    """Yield every condition, loop and conversion to a number; none if the source has an error."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # generated, or another language than this Python's
        return
    for node in ast.walk(tree):
        for kind, expression in _decisions(node):
            # A statement's own line counts, a comprehension has none.
            start = getattr(node, "lineno", expression.lineno)
            text = " ".join(ast.unparse(expression).split())
            yield Construct(kind, text, start, expression.end_lineno or start)


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
        case ast.Call(func=ast.Name(id="int" | "float" | "bool" | "round" | "len" | "max" | "min")):
            return [("number", node)]
        case ast.Call(func=ast.Attribute(attr="item" | "tolist" | "numel")):
            return [("number", node)]
    return []

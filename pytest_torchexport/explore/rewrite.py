"""Rewrite the syntax tree of the user's functions so that every condition goes through a recorder.

The source is rewritten, instead of tracing lines, because this shows both operands of a condition
(also Python numbers), the parts of a condition, and conditions that share a line. It needs nothing
of the interpreter that coverage.py or a debugger may hold. It is cheap: a forward of 3 ms took 1.04
times as long, and 1.14 times with ``sys.settrace`` (docs/decisions.md).

Only the wanted functions are changed, and the rest of the file stays around them. So closures,
``super()``, private names and line numbers stay the same.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_torchexport.explore.conditions import Condition, ConditionId
from pytest_torchexport.outcomes.operator_table import of_kind

# Functions and methods that may return a Python number or bool for a tensor.
READERS = of_kind("read") | {
    *("bool", "int", "float", "tolist", "len"),
    *("max", "min", "any", "all", "sum"),
}
# What is known of a tensor without its numbers, which no call changes.
FACTS = frozenset(
    ["dtype", "device", "layout", "requires_grad", "is_cuda", "is_floating_point", "is_complex"]
)
# A value may be computed from one that was read, which takes a second pass to see.
PASSES = 2


def readers_in(trees: Iterable[ast.AST]) -> frozenset[str]:
    """Return ``READERS`` and the functions in these trees that return what a reader returns."""
    functions = [
        item for tree in trees for item in ast.walk(tree) if isinstance(item, ast.FunctionDef)
    ]
    readers = READERS
    for _ in range(PASSES):
        readers |= {function.name for function in functions if _returns_read(function, readers)}
    return readers


def _returns_read(function: ast.FunctionDef, readers: frozenset[str]) -> bool:
    """Return True if a function, or one nested in it, returns what it reads from a tensor."""
    names = names_read(function, readers)
    return any(
        reads_tensor(item.value, names, readers)
        for item in ast.walk(function)
        if isinstance(item, ast.Return) and item.value is not None
    )


def reads_tensor(node: ast.AST, names: Collection[str], readers: frozenset[str]) -> bool:
    """Return True if an expression calls one of ``readers`` or contains one of ``names``.

    A property of the file's own classes is a reader too; it is accessed without a call. Not counted
    is what only ``FACTS`` are asked of: ``x.dtype == torch.float16``.
    """
    own = readers - READERS
    return any(
        (isinstance(item, ast.Call) and _last_name(item.func) in readers)
        or (isinstance(item, ast.Attribute) and item.attr in own)
        or (isinstance(item, ast.Name) and item.id in names)
        for item in _without_facts(node)
    )


def _without_facts(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and those below it, but none of ``x.dtype``, ``len(x.shape)``, ``x is None``."""
    is_fact = isinstance(node, ast.Attribute) and node.attr in FACTS
    is_rank = (
        isinstance(node, ast.Call)
        and _last_name(node.func) == "len"
        and any(isinstance(item, ast.Attribute) and item.attr == "shape" for item in node.args)
    )
    if is_fact or is_rank or is_none_test(node):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _without_facts(child)


def is_none_test(node: ast.AST) -> bool:
    """Return True for ``x is None``: no number of a tensor decides it."""
    return (
        isinstance(node, ast.Compare)
        and isinstance(node.ops[0], (ast.Is, ast.IsNot))
        and isinstance(node.comparators[0], ast.Constant)
        and node.comparators[0].value is None
    )


def names_read(function: ast.AST, readers: frozenset[str]) -> set[str]:
    """Return the local names to which a function assigns what it reads from tensors."""
    names: set[str] = set()
    assigned = [
        (target.id, item.value)
        for item in ast.walk(function)
        if isinstance(item, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.NamedExpr))
        for targets in getattr(item, "targets", [getattr(item, "target", None)])
        for target in getattr(targets, "elts", [targets])
        if isinstance(target, ast.Name) and item.value is not None
    ]
    for _ in range(PASSES):
        names |= {name for name, value in assigned if reads_tensor(value, names, readers)}
    return names


def _last_name(function: ast.expr) -> str:
    return str(getattr(function, "attr", "") or getattr(function, "id", ""))


# Stands for the recorder until it is inserted: a name would have to be a global of the user's.
SENTINEL = "\0pytest-torchexport"
# Characters of a line that a report quotes.
MAX_TEXT = 160
_OPERATORS = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
}
_SCOPES = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)

# A function by its first line, decorators included, and its name.
FunctionStart = tuple[int, str]
# The outcomes of a condition after which the code only raises.
Raises = frozenset[bool]
NEVER: Raises = frozenset()


def rewrite(
    tree: ast.Module, file: str, source: str, wanted: Collection[FunctionStart]
) -> dict[ConditionId, Condition]:
    """Rewrite the wanted functions of a tree in place, and return the conditions in them.

    The rewritten code calls methods of the constant ``SENTINEL``, with a condition's id as the
    first argument.
    """
    functions = [item for item in ast.walk(tree) if _start(item) in wanted]
    rewriter = _Rewriter(file, source, wanted, readers_in(functions))
    rewriter.visit(tree)
    ast.fix_missing_locations(tree)
    return rewriter.conditions


@dataclass(frozen=True)
class _Scope:
    """The class or function around a node: its dotted name, and whether its code is rewritten.

    ``names_read`` are local names whose values were read from tensors.
    """

    name: str = ""
    wanted: bool = False
    names_read: frozenset[str] = frozenset()


class _Rewriter(ast.NodeTransformer):
    """Rewrites the conditions in the wanted functions and in functions nested in them."""

    def __init__(
        self,
        file: str,
        source: str,
        wanted: Collection[FunctionStart],
        readers: frozenset[str],
    ) -> None:
        self.conditions: dict[ConditionId, Condition] = {}
        self._file = file
        # As Python counts lines: a form feed does not end one.
        self._lines = source.split("\n")
        self._wanted = wanted
        self._readers = readers
        self._scope = _Scope()
        # The first line of the statement around the node.
        self._statement = 0

    # -- the walk -------------------------------------------------------------------------------

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.stmt):
            self._statement = node.lineno
        if not self._scope.wanted and not isinstance(node, _SCOPES):
            return self.generic_visit(node)
        return super().visit(node)

    def _visited(self, node: Any, **done: Any) -> Any:
        for name in done:
            setattr(node, name, None)
        self.generic_visit(node)
        for name, value in done.items():
            setattr(node, name, value)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        return self._body(node, replace(self._scope, name=self._dotted(node)))

    def visit_FunctionDef(self, node: Any) -> Any:
        scope = _Scope(
            self._dotted(node),
            self._scope.wanted or _start(node) in self._wanted,
            self._scope.names_read | names_read(node, self._readers),
        )
        return self._body(node, scope)

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef

    def _dotted(self, node: Any) -> str:
        return f"{self._scope.name}.{_name(node)}".lstrip(".")

    def _body(self, node: ast.AST, scope: _Scope) -> Any:
        """Visit the body alone: defaults and decorators are evaluated in another scope."""
        around, self._scope = self._scope, scope
        others = {name: value for name, value in ast.iter_fields(node) if name != "body"}
        made = self._visited(node, **others)
        self._scope = around
        return made

    # -- statements -----------------------------------------------------------------------------

    def visit_If(self, node: ast.If) -> Any:
        ways = ((True, node.body), (False, node.orelse))
        raises = frozenset(outcome for outcome, body in ways if _only_raises(body))
        return self._visited(node, test=self._test(node.test, "if", raises))

    def visit_While(self, node: ast.While) -> Any:
        # ``while True`` decides nothing, but its rounds are counted.
        raises = frozenset({False}) if isinstance(node.test, ast.Constant) else NEVER
        return self._visited(node, test=self._test(node.test, "while", raises))

    def visit_Assert(self, node: ast.Assert) -> Any:
        return self._visited(node, test=self._test(node.test, "assert", frozenset({False})))

    def visit_For(self, node: ast.For) -> Any:
        return self._visited(node, iter=self._iterable(node.iter))

    def visit_Try(self, node: Any) -> Any:
        self.generic_visit(node)
        node.body = [*self._alternatives("except", node.handlers), *node.body]
        return node

    visit_TryStar = visit_Try

    def visit_Match(self, node: ast.Match) -> Any:
        self.generic_visit(node)
        return [*self._alternatives("case", node.cases), node]

    def visit_match_case(self, node: ast.match_case) -> Any:
        guard = self._test(node.guard, "case") if node.guard is not None else None
        return self._visited(node, guard=guard)

    def _alternatives(self, kind: str, ways: Sequence[Any]) -> list[ast.stmt]:
        """Record in each handler or case that it was reached.

        Return the statements that record before them that none was. After a case that is reached
        the later ones are not evaluated.
        """
        found: list[tuple[ConditionId, Any]] = []
        for way in ways:
            at = getattr(way, "pattern", way)
            raises = frozenset({True}) if _only_raises(way.body) else NEVER
            found.append((self._condition(kind, at, raises), at))
        for number, (way, (own_id, at)) in enumerate(zip(ways, found, strict=True), 1):
            later = tuple(each for each, _ in found[number:]) if kind == "case" else ()
            way.body.insert(0, self._mark(own_id, True, at, later))
        return [self._mark(own_id, False, at) for own_id, at in found]

    # -- expressions ----------------------------------------------------------------------------

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        return self._visited(node, test=self._test(node.test, "expression"))

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        """Record the truth of each operand of ``a and b`` outside of a test, but of the last."""
        *tested, last = node.values
        return self._visited(node, values=[*map(self._valued, tested), self.visit(last)])

    def visit_Compare(self, node: ast.Compare) -> Any:
        """Record a comparison of numbers outside of a test, as in ``1 + (n == 3)``."""
        if len(node.ops) > 1 or isinstance(node.ops[0], (ast.Is, ast.IsNot)):
            return self.generic_visit(node)
        own_id = self._condition("expression", node)
        operands = self.visit(node.left), self.visit(node.comparators[0])
        return self._compare("compared", own_id, node, *operands)

    def visit_Call(self, node: ast.Call) -> Any:
        """Record the predicate of ``torch.cond`` and each element of ``any(... for ...)``.

        Also which of two numbers ``max`` or ``min`` returns, and if ``get`` finds a key.
        """
        given, name = node.args, _last_name(node.func)
        if name == "cond" and given:
            predicate = self._valued(given[0], "cond")
            return self._visited(node, args=[predicate, *map(self.visit, given[1:])])
        if _may_decide(node):
            own_id, read = self._condition("expression", node), self._reads(*given)
            self.generic_visit(node)
            operands = ast.Tuple(node.args, ast.Load())
            return self._call("decided", own_id, node.func, operands, read, at=node)
        each = given[0] if len(given) == 1 else None
        is_name = isinstance(node.func, ast.Name)
        if is_name and name in ("any", "all") and isinstance(each, ast.GeneratorExp):
            return self._visited(
                node, args=[self._visited(each, elt=self._test(each.elt, "expression"))]
            )
        return self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> Any:
        iterable = self.visit(node.iter) if node.is_async else self._iterable(node.iter)
        tests = [self._test(item, "expression") for item in node.ifs]
        return self._visited(node, iter=iterable, ifs=tests)

    # -- conditions -----------------------------------------------------------------------------

    def _test(self, node: ast.expr, kind: str, raises: Raises = NEVER) -> Any:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            opposite = frozenset(not outcome for outcome in raises)
            return self._visited(node, operand=self._test(node.operand, kind, opposite))
        if isinstance(node, ast.BoolOp):
            # ``a or b`` is true as soon as a is, but false only if b is false too.
            early = raises & {isinstance(node.op, ast.Or)}
            *first, last = node.values
            values = [self._test(item, kind, early) for item in first]
            return self._visited(node, values=[*values, self._test(last, kind, raises)])
        if isinstance(node, ast.IfExp):
            return self._visited(
                node,
                test=self._test(node.test, "expression"),
                body=self._test(node.body, kind, raises),
                orelse=self._test(node.orelse, kind, raises),
            )
        if isinstance(node, ast.Compare):
            return self._chain(node, kind, raises)
        if isinstance(node, ast.Constant) and kind != "while":
            return node
        own_id, read = self._condition(kind, node, raises), self._reads(node)
        return self._call("truth", own_id, self.visit(node), read, at=node)

    def _chain(self, node: ast.Compare, kind: str, raises: Raises) -> ast.expr:
        """Rewrite ``a < b < c`` as ``a < b and kept() < c``."""
        left, parts = node.left, list[ast.expr]()
        made = self.visit(left)
        for sign, right in zip(node.ops, node.comparators, strict=True):
            pair = ast.copy_location(ast.Compare(left, [sign], [right]), node)
            # ``a < b`` decides alone only if it is false.
            own = raises if right is node.comparators[-1] else raises & {False}
            own_id = self._condition(kind, node, own)
            parts.append(self._compare("compare", own_id, pair, made, self.visit(right)))
            left, made = right, self._call("kept", own_id, at=right)
        return (
            parts[0] if len(parts) == 1 else ast.copy_location(ast.BoolOp(ast.And(), parts), node)
        )

    def _compare(
        self, method: str, own_id: ConditionId, node: ast.Compare, left: ast.expr, right: ast.expr
    ) -> ast.expr:
        """Return the call that records a comparison, given its visited operands."""
        sign = ast.Constant(_OPERATORS[type(node.ops[0])])
        operands = (node.left, node.comparators[0])
        read = ast.Constant(0) if is_none_test(node) else self._reads(*operands)
        return self._call(method, own_id, sign, left, right, read, at=node)

    def _reads(self, *operands: ast.expr) -> ast.Constant:
        """Return the sum of 1 if the first operand is read from a tensor and 2 if the second is."""
        names = self._scope.names_read
        read = [reads_tensor(item, names, self._readers) for item in operands]
        return ast.Constant(sum(each << position for position, each in enumerate(read)))

    def _valued(self, node: ast.expr, kind: str = "expression") -> Any:
        """Return a condition of which the value counts, too."""
        if isinstance(node, ast.BoolOp):
            return self._visited(node, values=[self._valued(item, kind) for item in node.values])
        own_id, read = self._condition(kind, node), self._reads(node)
        # The truth of a comparison is recorded here, and not in it again.
        visit = self.generic_visit if isinstance(node, ast.Compare) else self.visit
        return self._call("value", own_id, visit(node), read, at=node)

    def _iterable(self, node: ast.expr) -> ast.expr:
        return self._call("each", self._condition("for", node), self.visit(node), at=node)

    # -- nodes ----------------------------------------------------------------------------------

    def _condition(self, kind: str, node: Any, raises: Raises = NEVER) -> ConditionId:
        first = int(node.lineno)
        line = self._lines[first - 1].strip() if first <= len(self._lines) else ""
        text = line if kind == "except" else self._text(node)
        own_id = (self._file, len(self.conditions))
        self.conditions[own_id] = Condition(
            file=self._file,
            first_line=min(self._statement, first),
            line=first,
            end_line=first if kind == "except" else node.end_lineno,
            kind=kind,
            text=" ".join(text.split())[:MAX_TEXT],
            statement=line[:MAX_TEXT],
            function=self._scope.name,
            raises=raises,
        )
        return own_id

    def _text(self, node: Any) -> str:
        """Return a node's source. ``ast.get_source_segment`` would split the file each time."""
        lines = [line.encode() for line in self._lines[node.lineno - 1 : node.end_lineno]]
        if lines:
            lines[-1] = lines[-1][: node.end_col_offset]
            lines[0] = lines[0][node.col_offset :]
        return b"\n".join(lines).decode(errors="replace")

    def _call(self, method: str, own_id: ConditionId, *arguments: Any, at: Any) -> ast.Call:
        recorder = ast.Attribute(ast.Constant(SENTINEL), method, ast.Load())
        id_node = ast.Constant(own_id)  # type: ignore[arg-type]  # Python takes tuples, too
        return ast.copy_location(ast.Call(recorder, [id_node, *arguments], []), at)

    def _mark(
        self, own_id: ConditionId, outcome: bool, at: Any, later: tuple[ConditionId, ...] = ()
    ) -> ast.stmt:
        others = ast.Constant(later)  # type: ignore[arg-type]  # Python takes tuples, too
        call = self._call("mark", own_id, ast.Constant(outcome), others, at=at)
        return ast.copy_location(ast.Expr(call), at)


def _name(node: Any) -> str:
    return "<lambda>" if isinstance(node, ast.Lambda) else str(node.name)


def _start(node: ast.AST) -> FunctionStart | None:
    if not isinstance(node, _SCOPES):
        return None
    decorators = getattr(node, "decorator_list", [])
    return min(item.lineno for item in (node, *decorators)), _name(node)


def _only_raises(body: Sequence[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], ast.Raise)


def _may_decide(node: ast.Call) -> bool:
    """Return True for ``max(a, b)``, ``min(a, b)``, ``d.get(a)`` and ``d.get(a, b)``.

    Not for ``d.get("a")``.
    """
    if node.keywords or any(isinstance(item, ast.Starred) for item in node.args):
        return False
    if isinstance(node.func, ast.Name):
        return node.func.id in ("max", "min") and len(node.args) == 2
    is_get = isinstance(node.func, ast.Attribute) and node.func.attr == "get"
    if not is_get or len(node.args) not in (1, 2):
        return False
    key = node.args[0]
    return not (isinstance(key, ast.Constant) and isinstance(key.value, str))  # of a configuration

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
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from pytest_torchexport.explore.conditions import Condition, ConditionId
from pytest_torchexport.outcomes.operator_table import of_kind

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

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


def readers_in(tree: ast.AST) -> frozenset[str]:
    """Return ``READERS`` and the file's functions that return what a reader returns."""
    functions = [item for item in ast.walk(tree) if isinstance(item, ast.FunctionDef)]
    returned = {
        # Also what a function nested in it returns.
        function: [
            item.value
            for item in ast.walk(function)
            if isinstance(item, ast.Return) and item.value is not None
        ]
        for function in functions
    }
    readers = READERS
    for _ in range(PASSES):
        readers |= {
            function.name
            for function, values in returned.items()
            if values and function.name not in readers
            for names in [names_read(function, readers)]
            if any(reads_tensor(value, names, readers) for value in values)
        }
    return readers


def reads_tensor(node: ast.AST, names: set[str], readers: frozenset[str]) -> bool:
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


def names_read(function: Function, readers: frozenset[str]) -> set[str]:
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

_Node = TypeVar("_Node", bound=ast.AST)
# A function by its first line, decorators included, and its name.
FunctionStart = tuple[int, str]


def rewrite(
    tree: ast.Module, file: str, source: str, wanted: set[FunctionStart]
) -> dict[ConditionId, Condition]:
    """Rewrite the wanted functions of a tree in place, and return the conditions in them.

    The rewritten code calls methods of the constant ``SENTINEL``, with a condition's id as the
    first argument.
    """
    rewriter = _Rewriter(file, source, wanted, readers_in(tree))
    rewriter.visit(tree)
    ast.fix_missing_locations(tree)
    return rewriter.conditions


class _Rewriter(ast.NodeTransformer):
    """Rewrites the conditions in the wanted functions and in functions nested in them."""

    def __init__(
        self, file: str, source: str, wanted: set[FunctionStart], readers: frozenset[str]
    ) -> None:
        self.conditions: dict[ConditionId, Condition] = {}
        self._file = file
        # As Python counts lines: a form feed does not end one.
        self._lines = source.split("\n")
        self._wanted = wanted
        self._readers = readers
        # The state of the walk: names of the classes and functions around the node, the number of
        # wanted functions among them, and for each function the name of its ``self``, if it is a
        # method that does not assign to it.
        self._names: list[str] = []
        self._inside = 0
        self._self_names: list[str | None] = [None]
        self._in_class = False
        # The first line of the statement around the node.
        self._statement = 0
        # Local names whose values were read from tensors.
        self._names_read: set[str] = set()

    # -- scopes ---------------------------------------------------------------------------------

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.stmt):
            self._statement = node.lineno
        return super().visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self._names.append(node.name)
        before, self._in_class = self._in_class, True
        node.body = [self.visit(item) for item in node.body]
        self._in_class = before
        self._names.pop()
        return node

    def visit_FunctionDef(self, node: Any) -> Any:
        return self._function(node, node.name)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> Any:
        return self._function(node, "<lambda>")

    def _function(self, node: Function, name: str) -> Function:
        method, read_before = self._in_class, self._names_read
        self._in_class = False
        self._names_read = read_before | names_read(node, self._readers)
        wanted = self._inside or (first_line(node), name) in self._wanted
        self._names.append(name)
        self._inside += bool(wanted)
        self._self_names.append(_self_name(node) if method else None)
        if isinstance(node, ast.Lambda):
            node.body = self.visit(node.body)
        else:
            node.body = self._block(node.body)
        self._self_names.pop()
        self._inside -= bool(wanted)
        self._names.pop()
        self._in_class, self._names_read = method, read_before
        return node

    def _block(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        done: list[ast.stmt] = []
        for statement in body:
            made = self.visit(statement)
            done += made if isinstance(made, list) else [made]
        return done

    # -- statements -----------------------------------------------------------------------------

    def visit_If(self, node: ast.If) -> Any:
        raises = (_only_raises(node.body), _only_raises(node.orelse))
        test = self._test(node.test, "if", raises)
        return self._rebuilt(
            node, test=test, body=self._block(node.body), orelse=self._block(node.orelse)
        )

    def visit_While(self, node: ast.While) -> Any:
        if not self._inside:
            return self.generic_visit(node)
        test = self._test(node.test, "while", (False, False))
        body, orelse = self._block(node.body), self._block(node.orelse)
        if isinstance(node.test, ast.Constant):  # decides nothing, but its rounds are counted
            own_id = self._condition("while", node.test, False, True)
            body.insert(0, self._mark(own_id, True, node.test))
        return self._rebuilt(node, test=test, body=body, orelse=orelse)

    def visit_Assert(self, node: ast.Assert) -> Any:
        test = self._test(node.test, "assert", (False, True))
        message = self.visit(node.msg) if node.msg is not None else None
        return self._rebuilt(node, test=test, msg=message)

    def visit_For(self, node: ast.For) -> Any:
        iterable = self._iterable(self.visit(node.iter), node.iter)
        body, orelse = self._block(node.body), self._block(node.orelse)
        return self._rebuilt(node, iter=iterable, body=body, orelse=orelse)

    def visit_Try(self, node: Any) -> Any:
        body = self._block(node.body)
        if self._inside:
            for handler in reversed(node.handlers):
                own_id = self._condition("except", handler, _only_raises(handler.body))
                handler.body = [self._mark(own_id, True, handler), *self._block(handler.body)]
                body.insert(0, self._mark(own_id, False, node))
        else:
            for handler in node.handlers:
                handler.body = self._block(handler.body)
        return self._rebuilt(
            node, body=body, orelse=self._block(node.orelse), finalbody=self._block(node.finalbody)
        )

    visit_TryStar = visit_Try

    def visit_Match(self, node: ast.Match) -> Any:
        subject = self.visit(node.subject)
        if not self._inside:
            for case in node.cases:
                case.body = self._block(case.body)
            return self._rebuilt(node, subject=subject)
        ids: list[ConditionId] = []
        for case in node.cases:
            ids.append(self._condition("case", case.pattern, _only_raises(case.body)))
            if case.guard is not None:
                case.guard = self._test(case.guard, "case", (False, False))
            before = [self._mark(each, False, case.pattern) for each in ids[:-1]]
            matched = self._mark(ids[-1], True, case.pattern)
            case.body = [*before, matched, *self._block(case.body)]
        last = node.cases[-1]
        if last.guard is not None or not _matches_all(last.pattern):
            none: list[ast.stmt] = [self._mark(each, False, last.pattern) for each in ids]
            node.cases.append(ast.match_case(pattern=ast.MatchAs(), guard=None, body=none))
        return self._rebuilt(node, subject=subject)

    # -- expressions ----------------------------------------------------------------------------

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        test = self._test(node.test, "expression", (False, False))
        return self._rebuilt(
            node, test=test, body=self.visit(node.body), orelse=self.visit(node.orelse)
        )

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        """Record the truth of each operand of ``a and b`` outside of a test, but of the last."""
        if not self._inside:
            return self.generic_visit(node)
        *tested, last = node.values
        return self._rebuilt(node, values=[*map(self._valued, tested), self.visit(last)])

    def visit_Compare(self, node: ast.Compare) -> Any:
        """Record a comparison of numbers outside of a test, as in ``1 + (n == 3)``."""
        if not self._inside or len(node.ops) > 1 or isinstance(node.ops[0], (ast.Is, ast.IsNot)):
            return self.generic_visit(node)
        own_id = self._condition("expression", node, False)
        operands = self.visit(node.left), self.visit(node.comparators[0])
        return self._compare(node, own_id, *operands, method="compared")

    def visit_Call(self, node: ast.Call) -> Any:
        """Record the predicate of ``torch.cond`` and each element of ``any(... for ...)``.

        Also which of two numbers ``max`` or ``min`` returns, and if ``get`` finds a key.
        """
        name = _last_name(node.func)
        each = len(node.args) == 1 and isinstance(node.args[0], ast.GeneratorExp)
        if self._inside and each and isinstance(node.func, ast.Name) and name in ("any", "all"):
            generator: Any = node.args[0]
            generator.generators = [self.visit(item) for item in generator.generators]
            generator.elt = self._test(generator.elt, "expression", (False, False))
            return node
        predicate = node.args[0] if node.args and name == "cond" else None
        decides = self._inside and not node.keywords and _may_decide(node)
        read = self._reads(*node.args) if decides else ast.Constant(0)
        node = self.generic_visit(node)  # type: ignore[assignment]
        if decides:
            own_id = self._condition("expression", node, False)
            return self._call(
                "decided", own_id, node.func, ast.Tuple(node.args, ast.Load()), read, at=node
            )
        if predicate is not None and self._inside:
            own_id = self._condition("cond", predicate, False)
            read = self._reads(predicate)
            node.args[0] = self._call("value", own_id, node.args[0], read, at=predicate)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> Any:
        iterable = self.visit(node.iter)
        if not node.is_async:
            iterable = self._iterable(iterable, node.iter)
        ifs = [self._test(item, "expression", (False, False)) for item in node.ifs]
        return self._rebuilt(node, iter=iterable, ifs=ifs)

    # -- conditions -----------------------------------------------------------------------------

    def _test(self, node: ast.expr, kind: str, raises: tuple[bool, bool]) -> ast.expr:
        """Rewrite a condition of which only the truth counts.

        ``raises`` says whether the code only raises if it is true, and if it is false.
        """
        if not self._inside:
            return self.visit(node)  # type: ignore[no-any-return]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self._test(node.operand, kind, (raises[1], raises[0]))
            return self._rebuilt(node, operand=inner)  # type: ignore[no-any-return]
        if isinstance(node, ast.BoolOp):
            *first, last = node.values
            # ``a or b`` is true as soon as a is, but false only if b is false too.
            early = (raises[0], False) if isinstance(node.op, ast.Or) else (False, raises[1])
            values = [self._test(item, kind, early) for item in first]
            values.append(self._test(last, kind, raises))
            return self._rebuilt(node, values=values)  # type: ignore[no-any-return]
        if isinstance(node, ast.IfExp):
            test = self._test(node.test, "expression", (False, False))
            ways = [self._test(item, kind, raises) for item in (node.body, node.orelse)]
            rebuilt: ast.expr = self._rebuilt(node, test=test, body=ways[0], orelse=ways[1])
            return rebuilt
        if isinstance(node, ast.Compare):
            return self._chain(node, kind, raises)
        if isinstance(node, ast.Constant):
            return node
        own_id = self._condition(kind, node, *raises)
        read = self._reads(node)
        return self._call("truth", own_id, self.visit(node), read, at=node)

    def _chain(self, node: ast.Compare, kind: str, raises: tuple[bool, bool]) -> ast.expr:
        """Rewrite ``a < b < c`` as ``a < keep(b) and kept() < c``."""
        left, parts = node.left, list[ast.expr]()
        made = self.visit(left)
        for position, (sign, right) in enumerate(zip(node.ops, node.comparators, strict=True)):
            last = position == len(node.ops) - 1
            pair = ast.copy_location(ast.Compare(left, [sign], [right]), node)
            own_id = self._condition(kind, node, raises[0] and last, raises[1])
            right_made = self.visit(right)
            if not last:
                right_made = self._call("keep", own_id, right_made, at=right, owned=False)
            parts.append(self._compare(pair, own_id, made, right_made))
            left, made = right, self._call("kept", own_id, at=right, owned=False)
        return parts[0] if len(parts) == 1 else _located(ast.BoolOp(ast.And(), parts), node)

    def _compare(
        self,
        node: ast.Compare,
        own_id: ConditionId,
        left: ast.expr,
        right: ast.expr,
        *,
        method: str = "compare",
    ) -> ast.expr:
        """Return the call that records a comparison, given its visited operands."""
        sign = ast.Constant(_OPERATORS[type(node.ops[0])])
        operands = (node.left, node.comparators[0])
        read = ast.Constant(0) if is_none_test(node) else self._reads(*operands)
        return self._call(method, own_id, sign, left, right, read, at=node)

    def _reads(self, *operands: ast.expr) -> ast.Constant:
        """Return the sum of 1 if the first operand is read from a tensor and 2 if the second is."""
        read = [reads_tensor(item, self._names_read, self._readers) for item in operands]
        return ast.Constant(sum(each << position for position, each in enumerate(read)))

    def _valued(self, node: ast.expr) -> ast.expr:
        """Return a condition of which the value counts, too."""
        if isinstance(node, ast.BoolOp):
            return self._rebuilt(node, values=[*map(self._valued, node.values)])  # type: ignore[no-any-return]
        own_id, read = self._condition("expression", node, False), self._reads(node)
        # The truth of a comparison is recorded here, and not in it again.
        visit = self.generic_visit if isinstance(node, ast.Compare) else self.visit
        return self._call("value", own_id, visit(node), read, at=node)  # type: ignore[arg-type]

    def _iterable(self, made: ast.expr, node: ast.expr) -> ast.expr:
        if not self._inside:
            return made
        return self._call("each", self._condition("for", node, False), made, at=node)

    # -- nodes ----------------------------------------------------------------------------------

    def _condition(self, kind: str, node: Any, true: bool, false: bool = False) -> ConditionId:
        """Register a condition. ``true`` and ``false`` say after which outcome the code raises."""
        raises = {outcome for outcome, does in ((True, true), (False, false)) if does}
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
            function=".".join(self._names),
            raises=frozenset(raises),
        )
        return own_id

    def _text(self, node: Any) -> str:
        """Return a node's source. ``ast.get_source_segment`` would split the file each time."""
        lines = [line.encode() for line in self._lines[node.lineno - 1 : node.end_lineno]]
        if lines:
            lines[-1] = lines[-1][: node.end_col_offset]
            lines[0] = lines[0][node.col_offset :]
        return b"\n".join(lines).decode(errors="replace")

    def _call(
        self, method: str, own_id: ConditionId, *arguments: ast.expr, at: Any, owned: bool = True
    ) -> ast.Call:
        recorder = ast.Attribute(ast.Constant(SENTINEL), method, ast.Load())
        id_node = ast.Constant(own_id)  # type: ignore[arg-type]  # Python takes tuples, too
        given: list[ast.expr] = [id_node, *arguments]
        if owned and self._self_names[-1] is not None:
            given.append(ast.Name(self._self_names[-1], ast.Load()))
        return _located(ast.Call(recorder, given, []), at)

    def _mark(self, own_id: ConditionId, outcome: bool, at: Any) -> ast.stmt:
        call = self._call("mark", own_id, ast.Constant(outcome), at=at)
        return _located(ast.Expr(call), at)

    def _rebuilt(self, node: Any, **fields: Any) -> Any:
        for name, value in fields.items():
            setattr(node, name, value)
        return node


def first_line(node: Any) -> int:
    """Return the line on which a statement or lambda begins, decorators included."""
    decorators = getattr(node, "decorator_list", [])
    return int(min([node.lineno, *(item.lineno for item in decorators)]))


def _located(node: _Node, at: ast.AST) -> _Node:
    """Give a node the position of another, and so the nodes below it that have none.

    ``ast.fix_missing_locations`` would also visit what is below nodes that have one.
    """
    ast.copy_location(node, at)
    for child in ast.iter_child_nodes(node):
        if not hasattr(child, "lineno"):
            _located(child, at)
    return node


def _self_name(node: Function) -> str | None:
    """Return the name of a method's first argument, or None if the method assigns to it."""
    decorators = {getattr(item, "id", "") for item in getattr(node, "decorator_list", [])}
    arguments = [*node.args.posonlyargs, *node.args.args]
    if not arguments or decorators & {"staticmethod", "classmethod"}:
        return None
    name = arguments[0].arg
    for item in ast.walk(node):
        # Names may be bound or deleted also by ``as``, in a pattern or by a ``def``.
        bound = [getattr(item, field, None) for field in ("name", "asname", "rest")]
        if isinstance(item, ast.Name) and not isinstance(item.ctx, ast.Load):
            bound = [item.id]
        if name in bound:
            return None
    return name


def _matches_all(pattern: ast.pattern) -> bool:
    """Return True if a pattern matches every subject, so that no other case may follow."""
    if isinstance(pattern, ast.MatchOr):
        return _matches_all(pattern.patterns[-1])
    return isinstance(pattern, ast.MatchAs) and (
        pattern.pattern is None or _matches_all(pattern.pattern)
    )


def _only_raises(body: Sequence[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], ast.Raise)


def _may_decide(node: ast.Call) -> bool:
    """Return True for ``max(a, b)``, ``min(a, b)``, ``d.get(a)`` and ``d.get(a, b)``."""
    if any(isinstance(item, ast.Starred) for item in node.args):
        return False
    if isinstance(node.func, ast.Name):
        return node.func.id in ("max", "min") and len(node.args) == 2
    is_get = isinstance(node.func, ast.Attribute) and node.func.attr == "get"
    return is_get and len(node.args) in (1, 2)

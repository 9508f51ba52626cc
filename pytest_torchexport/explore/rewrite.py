"""The user's functions, compiled once more so that every condition passes through a recorder.

Rewriting the source rather than tracing lines: it shows both operands, also of Python numbers, sees the
parts of a condition and one-line ones, needs nothing of the interpreter that coverage.py or a debugger
may hold, and costs next to nothing per call (control-flow study: 1.04x, against 1.14x for settrace).

The whole file is parsed and only the functions asked for are changed, so that closures, ``super()``,
private names and line numbers stay as they are.
"""

from __future__ import annotations

import ast
import dis
import itertools
import linecache
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pytest_torchexport.explore.conditions import Site

# Stands for the recorder until the code is put in place: a name would need a place in the user's globals.
SENTINEL = "\0pytest-torchexport"
# Characters of a line that a report quotes.
MAX_TEXT = 160
_TEMPORARY = "_torchexport_{}"
# What a function sees its own local names by.
_LISTING = ("locals", "vars", "dir", "eval", "exec")
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
# What gives a Python number or bool for a tensor.
DRAWING = frozenset(
    [
        "bool",
        "int",
        "float",
        "item",
        "tolist",
        "equal",
        "allclose",
        "is_nonzero",
        "len",
        "max",
        "min",
        "any",
        "all",
        "sum",
    ]
)
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Rewritten:
    """Codes of one file and their twins, the sites that the twins report by number (no two in a process have
    the same), and the codes with conditions of which there is no source.
    """

    codes: Mapping[types.CodeType, types.CodeType]
    sites: Mapping[int, Site]
    unread: tuple[types.CodeType, ...]


def rewritten(file: str, codes: frozenset[types.CodeType]) -> Rewritten:
    """The twins of these codes of one file, as far as its source is there and still the one they were
    compiled from. Those without a condition have none.
    """
    linecache.checkcache(file)
    source = "".join(linecache.getlines(file))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the user's source: said when it was imported
        return _rewritten(file, codes, source)


@lru_cache(maxsize=256)
def _rewritten(file: str, codes: frozenset[types.CodeType], source: str) -> Rewritten:
    wanted = {(code.co_firstlineno, code.co_name) for code in codes}
    try:
        twins, sites = _compiled(file, source, wanted)
    except (SyntaxError, ValueError, RecursionError):  # no Python, or nested too deeply for us
        return Rewritten({}, {}, tuple(filter(_jumps, codes)))
    found = {code: _twin(code, twins) for code in codes}
    return Rewritten(
        codes={code: other for code, other in found.items() if other is not None and _asks(other)},
        sites=sites,
        unread=tuple(code for code, other in found.items() if other is None and _jumps(code)),
    )


def _compiled(
    file: str, source: str, wanted: set[tuple[int, str]]
) -> tuple[list[tuple[types.CodeType, types.CodeType]], dict[int, Site]]:
    """What the source compiles to, as it is and rewritten, and the sites in it."""
    tree = ast.parse(source, file)
    twin = ast.parse(source, file)
    for each in (tree, twin):
        each.body = _needed(each.body, {line for line, _ in wanted})
    rewriter = _Rewriter(file, source, wanted, _drawing(twin))
    rewriter.visit(twin)
    ast.fix_missing_locations(twin)
    pairs = zip(
        _codes(compile(tree, file, "exec", dont_inherit=True)),
        _codes(compile(twin, file, "exec", dont_inherit=True)),
        strict=True,
    )
    return list(pairs), rewriter.sites


def placed(code: types.CodeType, recorder: Any) -> types.CodeType:
    """The code with the recorder in it, also in the functions that it makes."""
    constants = tuple(
        placed(item, recorder)
        if isinstance(item, types.CodeType)
        else recorder
        if isinstance(item, str) and item == SENTINEL
        else item
        for item in code.co_consts
    )
    return code.replace(co_consts=constants)


def _needed(body: Sequence[ast.stmt], lines: set[int]) -> list[ast.stmt]:
    """The statements that hold one of the lines; of a class only its own such. And imports: a method of what
    was imported compiles to other code.
    """
    kept: list[ast.stmt] = []
    for statement in body:
        first = _first_line(statement)
        if any(first <= line <= (statement.end_lineno or first) for line in lines):
            if isinstance(statement, ast.ClassDef):
                statement.body = _needed(statement.body, lines) or [ast.Pass()]
                statement.decorator_list = []
            kept.append(statement)
        else:
            kept += _imports(statement)
    return [ast.fix_missing_locations(statement) for statement in kept]


def _imports(statement: ast.stmt) -> Iterator[ast.stmt]:
    """The imports of a statement, also behind an ``if`` or in a ``try``, and not those of a function."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        yield statement
    elif isinstance(statement, (ast.If, ast.Try, ast.With)):
        for item in ast.walk(statement):
            if isinstance(item, ast.stmt) and item is not statement:
                yield from _imports(item)


def _first_line(node: Any) -> int:
    decorators = getattr(node, "decorator_list", [])
    return int(min([node.lineno, *(item.lineno for item in decorators)]))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for item in code.co_consts:
        if isinstance(item, types.CodeType):
            yield from _codes(item)


def _twin(
    code: types.CodeType, twins: Sequence[tuple[types.CodeType, types.CodeType]]
) -> types.CodeType | None:
    same = [
        pair
        for pair in twins
        if (pair[0].co_firstlineno, pair[0].co_name) == (code.co_firstlineno, code.co_name)
        and pair[1].co_freevars == code.co_freevars
        and pair[0].co_varnames[: pair[0].co_argcount] == code.co_varnames[: code.co_argcount]
    ]
    if len(same) > 1:  # several lambdas on a line
        same = [pair for pair in same if pair[0].co_code == code.co_code and pair[0] == code]
    if len(same) != 1 or not _of_this_source(code, same[0][0]):
        return None
    return same[0][1]


def _asks(code: types.CodeType) -> bool:
    return any(SENTINEL in item.co_consts for item in _codes(code))


def _jumps(code: types.CodeType) -> bool:
    """Whether a code decides anything at all."""
    jumps = {*dis.hasjrel, *dis.hasjabs}
    return any(
        instruction.opcode in jumps
        for item in _codes(code)
        for instruction in dis.get_instructions(item)
    )


def _of_this_source(code: types.CodeType, compiled: types.CodeType) -> bool:
    """Whether a file still says what a function was compiled from. Where pytest rewrote asserts there is more
    in the function: names and constants of its own beside those of the user.
    """
    mine, theirs = _within(code), _within(compiled)
    if len(mine) != len(theirs) or not all(map(_of_this_source, mine, theirs)):
        return False
    if compiled.co_names == code.co_names:
        return compiled.co_code == code.co_code and _plain(compiled) == _plain(code)
    return set(compiled.co_names) <= set(code.co_names) and _plain(compiled) <= _plain(code)


def _within(code: types.CodeType) -> list[types.CodeType]:
    return [item for item in code.co_consts if isinstance(item, types.CodeType)]


def _plain(code: types.CodeType) -> set[str]:
    """Constants, told apart also where they are equal (0.0 and -0.0, 1 and True)."""
    return {
        repr(sorted(map(repr, item))) if isinstance(item, frozenset) else repr(item)
        for item in code.co_consts
        if not isinstance(item, types.CodeType)
    }


class _Rewriter(ast.NodeTransformer):
    """Hands conditions to the recorder, inside the functions that are wanted and those within them."""

    def __init__(
        self, file: str, source: str, wanted: set[tuple[int, str]], drawing: frozenset[str]
    ) -> None:
        self.sites: dict[int, Site] = {}
        self._file = file
        self._lines = source.split("\n")  # as Python counts them: a form feed ends none
        self._wanted = wanted
        self._names: list[str] = []
        self._inside = 0  # how many wanted functions we are in
        self._owner: list[str | None] = [None]
        self._in_class = False
        self._may_bind = True  # whether ``:=`` may stand here
        self._statement = 0  # the line of the statement we are in
        self._drawing = drawing  # what gives a number or bool for a tensor
        self._drawn: set[str] = set()  # local names that hold numbers drawn from tensors

    # -- where we are --------------------------------------------------------------------------------

    def visit(self, node: ast.AST) -> Any:
        """Any node, its statement's line kept in mind."""
        if isinstance(node, ast.stmt):
            self._statement = node.lineno
        return super().visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self._names.append(node.name)
        before = self._in_class, self._may_bind
        self._in_class, self._may_bind = True, False
        node.body = [self.visit(item) for item in node.body]
        self._in_class, self._may_bind = before
        self._names.pop()
        return node

    def visit_FunctionDef(self, node: Any) -> Any:
        return self._function(node, node.name)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> Any:
        return self._function(node, "<lambda>")

    def _function(self, node: _Function, name: str) -> _Function:
        method, may_bind = self._in_class, self._may_bind
        self._in_class = False
        drawn, self._drawn = self._drawn, self._drawn | _drawn_names(node, self._drawing)
        wanted = self._inside or (_first_line(node), name) in self._wanted
        self._names.append(name)
        self._inside += bool(wanted)
        self._owner.append(_own_name(node) if method else None)
        self._may_bind = (may_bind or not isinstance(node, ast.Lambda)) and not _lists_names(node)
        if isinstance(node, ast.Lambda):
            node.body = self.visit(node.body)
        else:
            node.body = self._block(node.body)
        self._owner.pop()
        self._inside -= bool(wanted)
        self._names.pop()
        self._in_class, self._may_bind, self._drawn = method, may_bind, drawn
        return node

    def _block(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        done: list[ast.stmt] = []
        for statement in body:
            made = self.visit(statement)
            done += made if isinstance(made, list) else [made]
        return done

    # -- statements ----------------------------------------------------------------------------------

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
        if isinstance(node.test, ast.Constant):  # decides nothing, and its rounds count
            number = self._site("while", node.test, False, True)
            body.insert(0, self._mark(number, True, node.test))
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
                number = self._site("except", handler, _only_raises(handler.body))
                handler.body = [self._mark(number, True, handler), *self._block(handler.body)]
                body.insert(0, self._mark(number, False, node))
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
        numbers: list[int] = []
        for case in node.cases:
            numbers.append(self._site("case", case.pattern, _only_raises(case.body)))
            if case.guard is not None:
                case.guard = self._test(case.guard, "case", (False, False))
            taken = [self._mark(n, False, case.pattern) for n in numbers[:-1]]
            case.body = [
                *taken,
                self._mark(numbers[-1], True, case.pattern),
                *self._block(case.body),
            ]
        last = node.cases[-1]
        if last.guard is not None or not _takes_all(last.pattern):
            none: list[ast.stmt] = [self._mark(n, False, last.pattern) for n in numbers]
            node.cases.append(ast.match_case(pattern=ast.MatchAs(), guard=None, body=none))
        return self._rebuilt(node, subject=subject)

    # -- expressions ---------------------------------------------------------------------------------

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        test = self._test(node.test, "expression", (False, False))
        return self._rebuilt(
            node, test=test, body=self.visit(node.body), orelse=self.visit(node.orelse)
        )

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        """Outside of a test: all but the last are asked for their truth, once, and stay what they are:
        ``a and b`` as ``b if (t := a) else t``.
        """
        if not self._inside or not self._may_bind:
            return self.generic_visit(node)
        *tested, last = _flat(node)
        parts = [self._kept(item) for item in tested]
        made = self.visit(last)
        for test, kept in reversed(parts):
            ways = (made, kept) if isinstance(node.op, ast.And) else (kept, made)
            made = _located(ast.IfExp(test, *ways), node)
        return made

    def visit_Call(self, node: ast.Call) -> Any:
        """``torch.cond(pred, ...)`` is a branch of eager's too, and so is each element of ``any(... for ...)``."""
        if self._inside and _asks_each(node):
            generator: Any = node.args[0]
            generator.generators = [self.visit(item) for item in generator.generators]
            generator.elt = self._test(generator.elt, "expression", (False, False))
            return node
        predicate = node.args[0] if node.args and _is_cond(node.func) else None
        node = self.generic_visit(node)  # type: ignore[assignment]
        if predicate is not None and self._inside:
            number = self._site("cond", predicate, False)
            drawn = self._draws(predicate)
            node.args[0] = self._call("value", number, node.args[0], drawn, at=predicate)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> Any:
        may_bind, self._may_bind = self._may_bind, False
        iterable = self.visit(node.iter)
        self._may_bind = may_bind
        if not node.is_async:
            iterable = self._iterable(iterable, node.iter)
        ifs = [self._test(item, "expression", (False, False)) for item in node.ifs]
        return self._rebuilt(node, iter=iterable, ifs=ifs)

    # -- conditions ----------------------------------------------------------------------------------

    def _test(self, node: ast.expr, kind: str, raises: tuple[bool, bool]) -> ast.expr:
        """A condition of which only the truth counts. ``raises`` says of true and of false whether the code
        only raises then.
        """
        if not self._inside:
            return self.visit(node)  # type: ignore[no-any-return]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self._test(node.operand, kind, (raises[1], raises[0]))
            return self._rebuilt(node, operand=inner)  # type: ignore[no-any-return]
        if isinstance(node, ast.BoolOp):
            return self._parts(node, kind, raises)
        if isinstance(node, ast.IfExp):
            test = self._test(node.test, "expression", (False, False))
            ways = [self._test(item, kind, raises) for item in (node.body, node.orelse)]
            return self._rebuilt(node, test=test, body=ways[0], orelse=ways[1])  # type: ignore[no-any-return]
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            return self._compare(node, kind, raises)
        if isinstance(node, ast.Compare) and self._may_bind:
            return self._test(self._split(node), kind, raises)
        if isinstance(node, ast.Constant):
            return node
        number = self._site(kind, node, *raises)
        drawn = self._draws(node)
        return self._call("truth", number, self.visit(node), drawn, at=node)

    def _parts(self, node: ast.BoolOp, kind: str, raises: tuple[bool, bool]) -> ast.expr:
        either = isinstance(node.op, ast.Or)
        *first, last = node.values
        # ``a or b`` is true as soon as a is; that it is false, only b can say.
        early = (raises[0], False) if either else (False, raises[1])
        values = [self._test(item, kind, early) for item in first]
        return self._rebuilt(node, values=[*values, self._test(last, kind, raises)])  # type: ignore[no-any-return]

    def _split(self, node: ast.Compare) -> ast.BoolOp:
        """``a < b < c`` as ``a < (t := b) and t < c``."""
        parts: list[ast.expr] = []
        left: ast.expr = node.left
        for position, (operator, right) in enumerate(zip(node.ops, node.comparators, strict=True)):
            kept: ast.expr = right
            following: ast.expr = right
            if position < len(node.ops) - 1:
                kept, following = _bound(right, right)
                if _draws(right, self._drawn, self._drawing):
                    self._drawn.add(following.id)  # type: ignore[attr-defined]
            parts.append(ast.copy_location(ast.Compare(left, [operator], [kept]), node))
            left = following
        made = ast.copy_location(ast.BoolOp(ast.And(), parts), node)
        return ast.fix_missing_locations(made)

    def _compare(self, node: ast.Compare, kind: str, raises: tuple[bool, bool]) -> ast.expr:
        number = self._site(kind, node, *raises)
        operator = ast.Constant(_OPERATORS[type(node.ops[0])])
        operands = (node.left, node.comparators[0])
        drawn = self._draws(*operands)
        return self._call("compare", number, operator, *map(self.visit, operands), drawn, at=node)

    def _draws(self, *operands: ast.expr) -> ast.Constant:
        """Which operands the source draws from tensors: 1 for the first, 2 for the second, 3 for both."""
        return ast.Constant(
            sum(_draws(item, self._drawn, self._drawing) << i for i, item in enumerate(operands))
        )

    def _kept(self, node: ast.expr) -> tuple[ast.expr, ast.expr]:
        """A condition that keeps its value, and where. In ``a and b or c`` only that of b may be wanted."""
        before: list[ast.expr] = []
        last = node
        if isinstance(node, ast.BoolOp):
            *first, last = node.values
            before = [self._test(item, "expression", (False, False)) for item in first]
        drawn = self._draws(last)
        kept, again = _bound(self.visit(last), last)
        number = self._site("expression", last, False)
        test: ast.expr = self._call("truth", number, kept, drawn, at=last)
        if isinstance(node, ast.BoolOp):
            test = self._rebuilt(node, values=[*before, test])
        return test, again

    def _iterable(self, made: ast.expr, node: ast.expr) -> ast.expr:
        if not self._inside:
            return made
        return self._call("each", self._site("for", node, False), made, at=node)

    # -- nodes ---------------------------------------------------------------------------------------

    def _site(self, kind: str, node: Any, true: bool, false: bool = False) -> int:
        raises = {outcome for outcome, does in ((True, true), (False, false)) if does}
        first = int(node.lineno)
        line = self._lines[first - 1].strip() if first <= len(self._lines) else ""
        text = line if kind == "except" else self._text(node)
        number = next(_NUMBERS)
        self.sites[number] = Site(
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
        return number

    def _text(self, node: Any) -> str:
        """A node's source. Not ``ast.get_source_segment``, which takes the whole file apart each time."""
        lines = [line.encode() for line in self._lines[node.lineno - 1 : node.end_lineno]]
        if lines:
            lines[-1] = lines[-1][: node.end_col_offset]
            lines[0] = lines[0][node.col_offset :]
        return b"\n".join(lines).decode(errors="replace")

    def _call(self, method: str, number: int, *arguments: ast.expr, at: Any) -> ast.Call:
        recorder = ast.Attribute(ast.Constant(SENTINEL), method, ast.Load())
        given: list[ast.expr] = [ast.Constant(number), *arguments]
        if self._owner[-1] is not None:
            given.append(ast.Name(self._owner[-1], ast.Load()))
        return _located(ast.Call(recorder, given, []), at)  # type: ignore[no-any-return]

    def _mark(self, number: int, outcome: bool, at: Any) -> ast.stmt:
        call = self._call("mark", number, ast.Constant(outcome), at=at)
        return _located(ast.Expr(call), at)  # type: ignore[no-any-return]

    def _rebuilt(self, node: Any, **fields: Any) -> Any:
        for name, value in fields.items():
            setattr(node, name, value)
        return node


def _drawing(tree: ast.AST) -> frozenset[str]:
    """What gives a number or bool for a tensor: torch's and Python's own, and the file's functions that return
    such.
    """
    functions = [item for item in ast.walk(tree) if isinstance(item, ast.FunctionDef)]
    names = DRAWING
    for _ in range(2):  # also those that return what another returns
        names |= {
            function.name
            for function in functions
            for item in ast.walk(function)
            if isinstance(item, ast.Return)
            and item.value is not None
            and _draws(item.value, _drawn_names(function, names), names)
        }
    return names


def _draws(node: ast.AST, names: set[str], drawing: frozenset[str]) -> bool:
    """Whether an expression draws a number from a tensor, or has one that was. A property is read like an
    attribute: it has no call.
    """
    own = drawing - DRAWING
    return any(
        (isinstance(item, ast.Call) and _last_name(item.func) in drawing)
        or (isinstance(item, ast.Attribute) and item.attr in own)
        or (isinstance(item, ast.Name) and item.id in names)
        for item in ast.walk(node)
    )


def _drawn_names(function: _Function, drawing: frozenset[str]) -> set[str]:
    """Names that a function gives to what it draws from tensors."""
    names: set[str] = set()
    assigned = [
        (target.id, item.value)
        for item in ast.walk(function)
        if isinstance(item, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.NamedExpr))
        for target in getattr(item, "targets", [getattr(item, "target", None)])
        if isinstance(target, ast.Name) and item.value is not None
    ]
    for _ in range(2):  # also what is computed from them
        names |= {name for name, value in assigned if _draws(value, names, drawing)}
    return names


def _last_name(function: ast.expr) -> str:
    return str(getattr(function, "attr", "") or getattr(function, "id", ""))


def _located(node: Any, at: Any) -> Any:
    """The node at the place of another; what it already holds keeps its own."""
    return ast.fix_missing_locations(ast.copy_location(node, at))


def _own_name(node: _Function) -> str | None:
    """The name of a method's first argument, where it stays what it is throughout."""
    decorators = {getattr(item, "id", "") for item in getattr(node, "decorator_list", [])}
    arguments = [*node.args.posonlyargs, *node.args.args]
    if not arguments or decorators & {"staticmethod", "classmethod"}:
        return None
    name = arguments[0].arg
    return None if any(name in _binds(item) for item in ast.walk(node)) else name


def _binds(node: ast.AST) -> tuple[str | None, ...]:
    """The names that a node binds or deletes: as a target, or as text (``as name``, a pattern, a ``def``)."""
    if isinstance(node, ast.Name):
        return () if isinstance(node.ctx, ast.Load) else (node.id,)
    return tuple(getattr(node, field, None) for field in ("name", "asname", "rest"))


def _lists_names(function: _Function) -> bool:
    """Whether a function looks at its own names, among which there must be none of ours."""
    return any(isinstance(item, ast.Name) and item.id in _LISTING for item in ast.walk(function))


def _flat(node: ast.BoolOp) -> list[ast.expr]:
    """The operands, those of ``(a and b) and c`` like those of ``a and b and c``."""
    found: list[ast.expr] = []
    for item in node.values:
        same = isinstance(item, ast.BoolOp) and isinstance(item.op, type(node.op))
        found += _flat(item) if same else [item]  # type: ignore[arg-type]
    return found


def _bound(made: ast.expr, at: ast.expr) -> tuple[ast.expr, ast.expr]:
    """An expression that keeps its value under a name of ours, and that name."""
    name = _TEMPORARY.format(f"{at.lineno}_{at.col_offset}")
    kept = ast.NamedExpr(ast.Name(name, ast.Store()), made)
    return _located(kept, at), _located(ast.Name(name, ast.Load()), at)


def _takes_all(pattern: ast.pattern) -> bool:
    """Whether a pattern fits everything, so that no other case may follow."""
    if isinstance(pattern, ast.MatchOr):
        return _takes_all(pattern.patterns[-1])
    return isinstance(pattern, ast.MatchAs) and (
        pattern.pattern is None or _takes_all(pattern.pattern)
    )


def _only_raises(body: Sequence[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], ast.Raise)


def _asks_each(node: ast.Call) -> bool:
    """Whether a call asks a generator's elements for their truth: ``any(...)`` or ``all(...)``."""
    asks = isinstance(node.func, ast.Name) and node.func.id in ("any", "all")
    return asks and len(node.args) == 1 and isinstance(node.args[0], ast.GeneratorExp)


def _is_cond(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id == "cond"
    return isinstance(function, ast.Attribute) and function.attr == "cond"

"""Read from a file's text what it imports, and what it may read of the environment.

A name that only the running program knows has no digest: of an import, of a file that is run, of a
function that runs a text and was given another name. ``NoDigest`` says the line.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_torchexport.cache.digest import NoDigest

# The functions that import the module that a text names.
_IMPORT = frozenset({"import_module", "importorskip", "__import__", "run_module", "resolve_name"})
# What runs a file that no import names.
_RUN_FILE = frozenset(
    {
        *("spec_from_file_location", "spec_from_loader", "exec_module", "load_module"),
        *("SourceFileLoader", "SourcelessFileLoader", "ExtensionFileLoader", "FileFinder"),
        *("run_path", "walk_packages", "load_source", "meta_path", "path_hooks"),
    }
)
# Functions of Python whose code is a text: ``net.eval()`` is another.
_RUN_TEXT = frozenset({"exec", "eval", "compile"})
# The modules that have all these.
_IMPORTERS = frozenset({"importlib", "runpy", "pkgutil", "builtins", "__builtins__", "imp"})
# What gives torch a function that code calls by the name of an operator.
_REGISTER = frozenset(
    {
        *("Library", "custom_op", "triton_op", "impl", "register_kernel", "register_fake"),
        *("register_autograd", "register_custom_op_symbolic", "custom_translation_table"),
    }
)
_ENVIRONMENT = frozenset({"environ", "getenv"})
_ANY_VARIABLE = frozenset({"environb", "getenvb", "expandvars"})


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file: the digest of its text, what it imports, and what it reads of the environment.

    ``imports``: absolute names, also of what may be an attribute of a module. ``variables``: the
    names of environment variables; None if it may read any. ``registers``: it gives torch functions
    that code calls by the name of an operator.
    """

    digest: str
    imports: tuple[str, ...]
    variables: tuple[str, ...] | None
    registers: bool


@functools.lru_cache(maxsize=4096)
def parsed(data: bytes, file: str, name: str) -> Source:
    """Return what the text of a module says. Raises NoDigest, SyntaxError, ValueError."""
    package = name if file == "__init__.py" else name.rpartition(".")[0]
    text = _Text(ast.parse(data) if file.endswith(".py") else ast.Module([], []), package, file)
    return Source(
        digest=hashlib.sha256(data).hexdigest(),
        imports=tuple(dict.fromkeys(text.imports())),
        variables=text.variables(),
        registers=text.registers(),
    )


class _Text:
    def __init__(self, tree: ast.Module, package: str, file: str) -> None:
        self._package = package
        self._file = file
        self._nodes = list(_nodes(tree))
        self._calls = {id(node.func): node for node in self._nodes if isinstance(node, ast.Call)}
        self._owners = {id(node.value) for node in self._nodes if isinstance(node, ast.Attribute)}
        self._aliases: dict[str, str] = {}  # of functions, by the names that imports give them
        self._modules = {"__builtins__": "builtins"}
        self._own = set[str]()  # names of these functions that mean another one here
        for node in self._nodes:
            self._bind(node)

    def _bind(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for item in node.names:
                top = item.name.partition(".")[0]
                self._modules[item.asname or top] = top
        elif isinstance(node, ast.ImportFrom):
            followed = {*_IMPORTERS, "os", "pytest", "sys"}
            is_followed = (node.module or "").partition(".")[0] in followed
            for item in node.names:
                if is_followed and not node.level:
                    self._aliases[item.asname or item.name] = item.name
                else:
                    self._own.add(item.asname or item.name)
        elif isinstance(node, ast.FunctionDef):
            self._own.add(node.name)
        elif isinstance(node, ast.arg):
            self._own.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            self._own.add(node.id)

    def imports(self) -> Iterator[str]:
        """Yield the absolute names of what is imported. Raises NoDigest."""
        for node in self._nodes:
            if isinstance(node, ast.Import):
                yield from (item.name for item in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = _absolute(node, self._package)
                yield base
                yield from (f"{base}.{item.name}" for item in node.names)
            elif isinstance(node, ast.Name | ast.Attribute):
                yield from self._named(node)
            elif isinstance(node, ast.Subscript) and self._is_loaded(node.value):
                yield from self._taken(node, node.slice)
            elif (
                isinstance(node, ast.Call)
                and node.args
                and self._is_loaded(_owner_of(node.func, "get"))
            ):
                yield from self._taken(node, node.args[0])

    def _named(self, node: ast.Name | ast.Attribute) -> Iterator[str]:
        """Yield the module that a function of this name imports."""
        name = self._meant(node)
        given = self._text_given_to(node)
        if name in _IMPORT:
            if given is None:
                raise self._no_digest(node, f"imports by a computed name ({name})")
            yield self._imported(node, given)
        elif name in _RUN_FILE:
            raise self._no_digest(node, f"runs a file that no import names ({name})")
        elif name in _RUN_TEXT and self._is_builtin(node) and given is None:
            raise self._no_digest(node, f"runs a text ({name})")
        elif self._is_passed_on(node, _IMPORTERS):
            raise self._no_digest(node, f"may import by a computed name ({name})")

    def _is_loaded(self, node: ast.expr | None) -> bool:
        """Return True for ``sys.modules``."""
        if isinstance(node, ast.Name):
            return self._aliases.get(node.id) == "modules"
        owner = _owner_of(node, "modules")
        return owner is not None and self._modules.get(_name_of(owner), _name_of(owner)) == "sys"

    def _taken(self, node: ast.Subscript | ast.Call, key: ast.expr) -> Iterator[str]:
        """Yield the module that is taken from ``sys.modules``."""
        texts = _texts([key])
        is_written = isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load)
        if not texts and not is_written and _name_of(key) != "__name__":
            raise self._no_digest(node, "takes a module by a computed name (sys.modules)")
        yield from texts

    def _meant(self, node: ast.expr) -> str:
        """Return the name of a function; empty if it is one of this file's own."""
        name = _name_of(node)
        if isinstance(node, ast.Name):
            return "" if name in self._own else self._aliases.get(name, name)
        is_own = _name_of(node.value) == "self" if isinstance(node, ast.Attribute) else False
        return "" if is_own else name

    def _is_builtin(self, node: ast.Name | ast.Attribute) -> bool:
        if isinstance(node, ast.Name):
            return True
        return self._modules.get(_name_of(node.value)) == "builtins"

    def _is_passed_on(self, node: ast.expr, modules: frozenset[str]) -> bool:
        """Return True for the name of a module other than in front of an attribute's."""
        if isinstance(node, ast.Attribute):
            is_all = node.attr == "__dict__"
            return is_all and self._modules.get(_name_of(node.value)) in modules
        return self._modules.get(_name_of(node)) in modules and id(node) not in self._owners

    def _text_given_to(self, node: ast.expr) -> str | None:
        call = self._calls.get(id(node))
        return next(iter(_texts(call.args[:1])), None) if call is not None else None

    def _imported(self, node: ast.expr, text: str) -> str:
        if not text.startswith("."):
            return text.replace(":", ".")
        package = [_name_of(each) for each in self._calls[id(node)].args[1:]]
        if package != ["__package__"]:
            raise self._no_digest(node, "imports by a name that is relative to a computed one")
        return importlib.util.resolve_name(text, self._package)

    def _no_digest(self, node: ast.expr, reason: str) -> NoDigest:
        return NoDigest(f"{self._file}:{node.lineno}, which {reason}")

    def variables(self) -> tuple[str, ...] | None:
        """Return the names of environment variables that are read; None if one is computed."""
        found: list[str] = []
        mentioned = 0
        for node in self._nodes:
            if isinstance(node, (ast.Attribute, ast.Name)):
                name = self._meant(node)
                if name in _ANY_VARIABLE or self._is_passed_on(node, frozenset({"os"})):
                    return None
                mentioned += name in _ENVIRONMENT
            elif isinstance(node, ast.Subscript) and self._meant(node.value) == "environ":
                found += _texts([node.slice])
            elif isinstance(node, ast.Call) and self._is_of_environment(node.func):
                found += _texts(node.args[:1])
            elif isinstance(node, ast.Compare) and self._meant(node.comparators[0]) == "environ":
                found += _texts([node.left])
        return tuple(dict.fromkeys(found)) if len(found) == mentioned else None

    def registers(self) -> bool:
        """Return True if the file gives torch kernels or symbolic functions of operators."""
        return any(
            isinstance(node, ast.Name | ast.Attribute) and _name_of(node) in _REGISTER
            for node in self._nodes
        )

    def _is_of_environment(self, function: ast.expr) -> bool:
        owner = function.value if isinstance(function, ast.Attribute) else None
        return self._meant(function) == "getenv" or (
            owner is not None and self._meant(owner) == "environ"
        )


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree, and those of the texts in it that are run."""
    for node in ast.walk(tree):
        yield node
        if isinstance(node, ast.Call) and _name_of(node.func) in ("exec", "eval"):
            for text in _texts(node.args[:1]):
                yield from _nodes(ast.parse(text.strip()))


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    above = package.split(".")
    base = ".".join(above[: len(above) - node.level + 1])
    return f"{base}.{node.module}" if node.module else base


def _texts(nodes: Sequence[ast.expr]) -> list[str]:
    return [
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def _owner_of(node: ast.expr | None, name: str) -> ast.expr | None:
    """Return the expression whose attribute of this name a node is, or None."""
    return node.value if isinstance(node, ast.Attribute) and node.attr == name else None


def _name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""

"""Find the user's files that decide what a module does: those of its code, and what they import.

Files are parsed and not imported, so that an import inside a function counts before it has run.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_torchexport.cache.digest import NoDigest
from pytest_torchexport.results.source_line import is_users

# The functions that import a module whose name is a text.
_IMPORT_BY_TEXT = frozenset({"import_module", "importorskip", "__import__"})
# Functions of Python whose code is a text.
_RUN_TEXT = frozenset({"exec", "eval"})
_ENVIRONMENT = frozenset({"environ", "getenv"})


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file: the digest of its text, what it imports, and what it reads of the environment.

    ``imports``: absolute names, also of what may be an attribute of a module. ``variables``: the
    names of environment variables; None if it may read any.
    """

    digest: str
    imports: tuple[str, ...]
    variables: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class Closure:
    """The files that modules lead to, as digests by module, and the variables that they read."""

    files: tuple[tuple[str, str], ...]
    variables: tuple[tuple[str, str | None], ...]


def closure(modules: Iterable[str], files: Iterable[Path]) -> Closure:
    """Return the user's files among modules, files, and all that they import.

    Raises NoDigest if a file cannot be read, imports by a name that is computed, or runs a text.
    """
    found: dict[str, Source] = {}
    names = {getattr(each, "__file__", None): name for name, each in sys.modules.copy().items()}
    # The name of a conftest is given to the next one, which replaces its module.
    given = [(names.get(str(path), f"{at}/{path.name}"), path) for at, path in enumerate(files)]
    waiting: list[tuple[str, Path | None]] = [*given, *_not_read(modules)]
    while waiting:
        name, path = waiting.pop()
        path = path or _file_of(name)
        if path is None or name in found:
            continue
        found[name] = _read(path, name)
        waiting += _not_read(found[name].imports)
    return Closure(
        files=tuple(sorted((name, source.digest) for name, source in found.items())),
        variables=tuple(_variables(found.values())),
    )


def _not_read(modules: Iterable[str]) -> list[tuple[str, None]]:
    """Return modules, and the packages around them, whose files run too."""
    parts = (name.split(".") for name in modules)
    return [(".".join(each[: end + 1]), None) for each in parts for end in range(len(each))]


def _variables(sources: Iterable[Source]) -> Iterator[tuple[str, str | None]]:
    named = [source.variables for source in sources]
    if None in named:
        # pytest sets its own for each test.
        yield from sorted(
            (name, value) for name, value in os.environ.items() if not name.startswith("PYTEST_")
        )
        return
    for name in sorted({name for names in named for name in names or ()}):
        yield name, os.environ.get(name)


def _file_of(name: str) -> Path | None:
    """Return the user's file of a module; None if it is a library's, or no module."""
    module = sys.modules.get(name)
    file = (
        getattr(module, "__file__", None)
        if module is not None
        else _not_imported(name, tuple(sys.path))
    )
    return Path(file) if isinstance(file, str) and is_users(file) else None


@functools.lru_cache(maxsize=4096)
def _not_imported(name: str, _path: tuple[str, ...]) -> str | None:
    """Return the file that importing a module from a path would run; imports no package."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
        whole = top
        for part in rest:
            if spec is None or spec.submodule_search_locations is None:
                return None
            whole = f"{whole}.{part}"
            spec = importlib.machinery.PathFinder.find_spec(
                whole, list(spec.submodule_search_locations)
            )
    except (ImportError, ValueError, AttributeError):
        return None
    return spec.origin if spec is not None else None


def _read(path: Path, name: str) -> Source:
    try:
        return _parsed(path.read_bytes(), path.name, name)
    except (OSError, SyntaxError, ValueError) as error:
        raise NoDigest(f"{path.name}, which cannot be read ({error})") from None


@functools.lru_cache(maxsize=4096)
def _parsed(data: bytes, file: str, name: str) -> Source:
    tree = ast.parse(data) if file.endswith(".py") else ast.Module([], [])
    package = name if file == "__init__.py" else name.rpartition(".")[0]
    nodes = list(ast.walk(tree))
    return Source(
        digest=hashlib.sha256(data).hexdigest(),
        imports=tuple(dict.fromkeys(_imports(nodes, package, file))),
        variables=_variables_read(nodes),
    )


def _imports(nodes: Iterable[ast.AST], package: str, file: str) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            yield base
            yield from (f"{base}.{item.name}" for item in node.names)
        elif isinstance(node, ast.Call):
            yield from _imported_by_call(node, file)


def _imported_by_call(call: ast.Call, file: str) -> Iterator[str]:
    name = _name_of(call.func)
    if isinstance(call.func, ast.Name) and name in _RUN_TEXT:
        raise NoDigest(f"{file}:{call.lineno}, which runs a text ({name})")
    if name not in _IMPORT_BY_TEXT:
        return
    given = call.args[0] if call.args else None
    if not isinstance(given, ast.Constant) or not isinstance(given.value, str):
        raise NoDigest(f"{file}:{call.lineno}, which imports by a computed name ({name})")
    yield given.value


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    above = package.split(".")
    base = ".".join(above[: len(above) - node.level + 1])
    return f"{base}.{node.module}" if node.module else base


def _variables_read(nodes: Iterable[ast.AST]) -> tuple[str, ...] | None:
    """Return the names of environment variables that code reads; None if one is computed."""
    found: list[str] = []
    mentioned = 0
    for node in nodes:
        if isinstance(node, (ast.Attribute, ast.Name)):
            mentioned += _name_of(node) in _ENVIRONMENT
        elif isinstance(node, ast.Subscript) and _name_of(node.value) == "environ":
            found += _texts([node.slice])
        elif isinstance(node, ast.Call) and _is_of_environment(node.func):
            found += _texts(node.args[:1])
        elif isinstance(node, ast.Compare) and _name_of(node.comparators[0]) == "environ":
            found += _texts([node.left])
    return tuple(dict.fromkeys(found)) if len(found) == mentioned else None


def _is_of_environment(function: ast.expr) -> bool:
    owner = function.value if isinstance(function, ast.Attribute) else None
    return _name_of(function) == "getenv" or (owner is not None and _name_of(owner) == "environ")


def _texts(nodes: Iterable[ast.expr]) -> list[str]:
    return [
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def _name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""

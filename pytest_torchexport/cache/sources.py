"""The user's files behind some modules: these, and what they import, read as text.

Not imported, so that an import inside a function counts before it has run. What only the running
program could tell (an import by a computed name, a text that is executed) has no key.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.machinery
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_torchexport.results.source_line import is_users

# These import the module that a text names.
_IMPORT = frozenset({"import_module", "importorskip", "__import__", "run_module", "resolve_name"})
# These run what no import names.
_RUN_FILE = frozenset(
    {
        *("spec_from_file_location", "spec_from_loader", "exec_module", "load_module"),
        *("SourceFileLoader", "SourcelessFileLoader", "ExtensionFileLoader", "FileFinder"),
        *("run_path", "walk_packages", "load_source", "meta_path", "path_hooks"),
    }
)
# As bare names: ``net.eval()`` and ``re.compile`` are others.
_RUN_TEXT = frozenset({"exec", "eval", "compile", "builtins", "__builtins__"})
_ENVIRONMENT = frozenset({"environ", "environb", "getenv", "getenvb", "expandvars"})
# These give torch a function that code calls by the name of an operator.
_REGISTER = re.compile(
    rb"torch\.library|custom_op|triton_op|register_kernel|register_fake|custom_translation_table"
)


class NoKey(Exception):
    """Something that a verdict depends on cannot be compared with another run. The text says it."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file's text: its digest, and what it mentions.

    ``imports``: absolute names, of modules and of what may be one. ``variables``: the environment
    variables that it reads; None: any. ``registers``: it gives torch functions of operators.
    """

    digest: str
    imports: frozenset[str]
    variables: frozenset[str] | None
    registers: bool


def closure(modules: Iterable[str], files: Iterable[Path]) -> dict[str, Source]:
    """Return the user's files among modules, files, and all that they import, by module.

    Raises NoKey.
    """
    sources: dict[str, Source] = {}
    loaded = {getattr(each, "__file__", None): name for name, each in sys.modules.copy().items()}
    # The module of a conftest may have been replaced by the next one's, of the same name.
    waiting: list[tuple[str, Path | None]] = [
        (loaded.get(str(path), f"{at}/{path.name}"), path) for at, path in enumerate(files)
    ]
    waiting += _with_packages(modules)
    while waiting:
        name, file = waiting.pop()
        if name not in sources and (file := file or _file_of(name)) is not None:
            sources[name] = _read(file, name)
            waiting += _with_packages(sources[name].imports)
    return sources


def variables(sources: Iterable[Source]) -> list[tuple[str, str | None]]:
    """Return the environment variables that files read, with their values."""
    read: set[str] = set()
    for source in sources:
        if source.variables is None:  # any; pytest sets its own for each test
            return sorted(each for each in os.environ.items() if not each[0].startswith("PYTEST_"))
        read |= source.variables
    return [(name, os.environ.get(name)) for name in sorted(read)]


def _with_packages(modules: Iterable[str]) -> list[tuple[str, None]]:
    parts = (name.split(".") for name in modules)
    return [(".".join(each[: end + 1]), None) for each in parts for end in range(len(each))]


def _file_of(name: str) -> Path | None:
    """Return the user's file of a module; None if it is a library's, or no module."""
    module = sys.modules.get(name)
    if module is not None:
        file = getattr(module, "__file__", None)
    else:
        file = _not_imported(name, tuple(sys.path))
    return Path(file) if isinstance(file, str) and is_users(file) else None


@functools.lru_cache(maxsize=4096)
def _not_imported(name: str, _path: tuple[str, ...]) -> str | None:
    """Return the file that an import would run; imports none of the packages around it."""
    parts = name.split(".")
    try:
        spec = importlib.util.find_spec(parts[0])
        for end in range(2, len(parts) + 1):
            if spec is None or spec.submodule_search_locations is None:
                return None
            folders = list(spec.submodule_search_locations)
            spec = importlib.machinery.PathFinder.find_spec(".".join(parts[:end]), folders)
    except (ImportError, ValueError, AttributeError):
        return None
    return spec.origin if spec is not None else None


def _read(path: Path, name: str) -> Source:
    try:
        return _parsed(path.read_bytes(), path.name, name)
    except (OSError, SyntaxError, ValueError) as error:
        raise NoKey(f"{path.name}, which cannot be read ({error})") from None


@functools.lru_cache(maxsize=4096)
def _parsed(data: bytes, file: str, name: str) -> Source:
    tree = ast.parse(data) if file.endswith(".py") else ast.Module([], [])
    package = name if file == "__init__.py" else name.rpartition(".")[0]
    text = _Text(tree, package)
    try:
        imports = frozenset(text.imports())
    except _Unknown as unknown:
        raise NoKey(f"{file}:{unknown}") from None
    return Source(
        digest=hashlib.sha256(data).hexdigest(),
        imports=imports,
        variables=text.variables(),
        registers=_REGISTER.search(data) is not None,
    )


class _Unknown(Exception):
    def __init__(self, node: ast.expr | ast.stmt, what: str) -> None:
        super().__init__(f"{node.lineno}, which {what}")


class _Text:
    """The syntax of a file, in which each node knows the one around it."""

    def __init__(self, tree: ast.Module, package: str) -> None:
        self._package = package
        self._nodes = list(ast.walk(tree))
        self._around = {
            id(child): node for node in self._nodes for child in ast.iter_child_nodes(node)
        }

    def imports(self) -> Iterator[str]:
        """Yield the absolute names of what is imported. Raises _Unknown."""
        for node in self._nodes:
            if isinstance(node, ast.Import):
                yield from (each.name for each in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                yield base
                yield from (f"{base}.{each.name}" for each in node.names)
                for each in node.names:
                    hides = each.asname and each.name in _IMPORT | _RUN_FILE | _RUN_TEXT
                    if hides or (base, each.name) == ("sys", "modules"):
                        raise _Unknown(node, f"gives {base}.{each.name} another name")
            elif isinstance(node, ast.Name | ast.Attribute):
                yield from self._imported_by(node)

    def _imported_by(self, node: ast.Name | ast.Attribute) -> Iterator[str]:
        """Yield the module that code imports, or takes, by a text."""
        name = _name_of(node)
        if name in _RUN_FILE:
            raise _Unknown(node, f"runs a file that no import names ({name})")
        if name in _RUN_TEXT and isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            raise _Unknown(node, f"runs a text ({name})")
        if name not in _IMPORT and not _is_loaded_modules(node):
            return
        text = self._text_given_to(node)
        if text is not None:
            yield importlib.util.resolve_name(text.replace(":", "."), self._package)
        elif name in _IMPORT:
            raise _Unknown(node, f"imports by a computed name ({name})")
        elif not self._is_own_or_written(node):
            raise _Unknown(node, "takes a module by a computed name (sys.modules)")

    def variables(self) -> frozenset[str] | None:
        """Return the names of environment variables that are read; None if one is computed."""
        read = set()
        for node in self._nodes:
            if isinstance(node, ast.ImportFrom):
                if any(each.asname and each.name in _ENVIRONMENT for each in node.names):
                    return None
            elif isinstance(node, ast.Name | ast.Attribute) and _name_of(node) in _ENVIRONMENT:
                text = self._text_given_to(node)
                if text is None or _name_of(node) == "expandvars":
                    return None
                read.add(text)
        return frozenset(read)

    def _text_given_to(self, node: ast.expr) -> str | None:
        """Return ``X`` of ``node("X")``, ``node["X"]``, ``node.get("X")`` and ``"X" in node``."""
        around = self._around.get(id(node))
        if isinstance(around, ast.Attribute):
            around = self._around.get(id(around))
        match around:
            case (
                ast.Call(args=[ast.Constant(value=str(text)), *_])
                | ast.Subscript(slice=ast.Constant(value=str(text)))
                | ast.Compare(left=ast.Constant(value=str(text)))
            ):
                return text
        return None

    def _is_own_or_written(self, node: ast.expr) -> bool:
        """Return True for ``sys.modules[__name__]``, and where it is set or deleted."""
        match self._around.get(id(node)):
            case (
                ast.Subscript(slice=ast.Name(id="__name__"))
                | ast.Subscript(ctx=ast.Store() | ast.Del())
            ):
                return True
        return False

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        above = self._package.split(".")
        base = ".".join(above[: len(above) - node.level + 1])
        return f"{base}.{node.module}" if node.module else base


def _name_of(node: ast.Name | ast.Attribute) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id


def _is_loaded_modules(node: ast.expr) -> bool:
    """Return True for ``sys.modules``."""
    match node:
        case ast.Attribute(attr="modules", value=ast.Name(id="sys")):
            return True
    return False

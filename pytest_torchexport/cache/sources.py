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
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pytest_torchexport.results.source_line import is_users

# These import the module that a text names.
_IMPORT = frozenset(
    {"import_module", "importorskip", "__import__", "run_module", "resolve_name", "modules"}
)
# These run, or read of the environment, what no name tells.
_RUN_FILE = frozenset(
    {
        *("spec_from_file_location", "spec_from_loader", "exec_module", "load_module", "run_path"),
        *("SourceFileLoader", "SourcelessFileLoader", "ExtensionFileLoader", "FileFinder"),
        *("walk_packages", "load_source", "meta_path", "path_hooks", "expandvars"),
    }
)
_RUN_TEXT = frozenset({"exec", "eval", "compile", "builtins", "__builtins__"})
_ENVIRONMENT = frozenset({"environ", "environb", "getenv", "getenvb"})
_FOLLOWED = _IMPORT | _RUN_FILE | _RUN_TEXT | _ENVIRONMENT
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
    waiting: list[tuple[str, str | None]] = [
        (loaded.get(str(path), f"{at}/{path.name}"), str(path)) for at, path in enumerate(files)
    ]
    waiting += _with_packages(modules)
    while waiting:
        name, file = waiting.pop()
        if name in sources:
            continue
        if file is None and name in sys.modules:
            file = getattr(sys.modules[name], "__file__", None)
        elif file is None:
            file = _not_imported(name, tuple(sys.path))
        if not isinstance(file, str) or not is_users(file):
            continue
        path = Path(file)
        try:
            sources[name] = _parsed(path.read_bytes(), path.name, name)
        except (OSError, SyntaxError, ValueError, ImportError) as error:
            raise NoKey(f"{path.name}, which cannot be read ({error})") from None
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


@functools.lru_cache(maxsize=4096)
def _not_imported(name: str, _path: tuple[str, ...]) -> str | None:
    """Return the file that an import would run; imports none of the packages around it."""
    parts = name.split(".")
    try:
        spec = importlib.util.find_spec(parts[0])
        for end in range(2, len(parts) + 1):
            folders = spec.submodule_search_locations if spec is not None else None
            spec = importlib.machinery.PathFinder.find_spec(".".join(parts[:end]), folders or ())
    except (ImportError, ValueError, AttributeError):
        return None
    return spec.origin if spec is not None else None


@functools.lru_cache(maxsize=4096)
def _parsed(data: bytes, file: str, name: str) -> Source:
    tree = ast.parse(data) if file.endswith(".py") else ast.Module([], [])
    package = name if file == "__init__.py" else name.rpartition(".")[0]
    imports: set[str] = set()
    variables: set[str | None] = set()
    # By node, the text that it is called with, indexed by or compared with.
    texts: dict[ast.AST, str] = {}
    for node in ast.walk(tree):  # what a node is in comes before it
        unknown: set[str] = set()
        match node:
            case (
                ast.Call(func=user, args=[ast.Constant(value=str(text)), *_])
                | ast.Subscript(value=user, slice=ast.Constant(value=str(text)))
                | ast.Compare(left=ast.Constant(value=str(text)), comparators=[user])
            ):
                texts[user] = texts[getattr(user, "value", user)] = text  # also environ.get("X")
            case ast.Subscript(value=user, slice=ast.Name(id="__name__")):  # sys.modules[__name__]
                texts[user] = name
            case ast.Import():
                imports.update(each.name for each in node.names)
            case ast.ImportFrom():
                written = "." * node.level + (node.module or "")
                base = importlib.util.resolve_name(written, package)
                imports |= {base, *(f"{base}.{each.name}" for each in node.names)}
                unknown = {each.name for each in node.names if each.asname} & _FOLLOWED
            case ast.Name() | ast.Attribute() if used := _followed(node):
                given = texts.get(node)
                if used in _ENVIRONMENT:
                    variables.add(given)
                elif given is not None and used in _IMPORT:
                    imports.add(importlib.util.resolve_name(given.replace(":", "."), package))
                else:
                    unknown = {used}
        if unknown:
            raise NoKey(
                f"{file}:{getattr(node, 'lineno', 0)}, which runs or imports what only it knows "
                f"({', '.join(sorted(unknown))})"
            )
    return Source(
        digest=hashlib.sha256(data).hexdigest(),
        imports=frozenset(imports),
        variables=None if None in variables else frozenset(filter(None, variables)),
        registers=_REGISTER.search(data) is not None,
    )


def _followed(node: ast.Name | ast.Attribute) -> str:
    """Return the name of one of these functions, or of ``sys.modules``; empty for another."""
    if isinstance(node, ast.Name):
        stored = node.id in _RUN_TEXT and not isinstance(node.ctx, ast.Load)
        return node.id if node.id in _FOLLOWED and not stored else ""
    # ``net.eval()``, ``re.compile`` and ``net.modules()`` are others.
    is_other = node.attr in _RUN_TEXT or (
        node.attr == "modules" and getattr(node.value, "id", "") != "sys"
    )
    return node.attr if node.attr in _FOLLOWED and not is_other else ""

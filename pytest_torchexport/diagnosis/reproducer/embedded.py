"""Source of the user's classes and functions that stands alone, with all that it refers to."""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
import textwrap
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_torchexport.diagnosis.reproducer.importable import Importable
from pytest_torchexport.diagnosis.reproducer.values import Inexpressible, literal
from pytest_torchexport.results.source_line import is_users


@dataclass
class Embedded:
    """Sources by name, each after those that it refers to; what is installed is imported."""

    imports: Importable
    sources: dict[str, str] = field(default_factory=dict)
    _things: dict[str, Any] = field(default_factory=dict)

    def name(self, thing: Any) -> str:
        """Return the name of a class or function in the text. Raises Inexpressible."""
        file = getattr(sys.modules.get(getattr(thing, "__module__", "")), "__file__", None) or ""
        if not is_users(file):
            return self.imports.name(thing)
        name: str = thing.__name__
        if self._things.setdefault(name, thing) is not thing:
            raise Inexpressible(f"two things are called {name}")
        if name not in self.sources:
            self._embed(name, thing)
        return name

    def text(self) -> str:
        """Return all sources."""
        return "\n\n".join(filter(None, self.sources.values()))

    def _embed(self, name: str, thing: Any) -> None:
        try:
            source = textwrap.dedent(inspect.getsource(thing))
            tree = ast.parse(source)
        except (OSError, TypeError, SyntaxError):
            raise Inexpressible(f"{name} has no source") from None
        self.sources[name] = ""  # it may refer to itself
        known = _namespace(thing)
        for used in dict.fromkeys(_names(tree)):
            if used in known and used != name:
                self._refer(used, known[used])
        # Again at the end: behind what it refers to.
        del self.sources[name]
        self.sources[name] = source

    def _refer(self, used: str, value: Any) -> None:
        """Make a name that a source uses mean what it means there."""
        if used in self._things and self._things[used] is value:
            return
        if isinstance(value, types.ModuleType):
            if is_users(getattr(value, "__file__", None) or ""):
                raise Inexpressible(f"{used} is a module of the project")
            line = f"import {value.__name__} as {used}\n"
        elif isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
            name = self.name(value)
            line = f"{used} = {name}\n" if name != used else ""
        else:
            line = f"{used} = {literal(value, used)}\n"
        if self._things.setdefault(used, value) is not value:
            raise Inexpressible(f"two things are called {used}")
        if line:
            self.sources[used] = line


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not hasattr(builtins, node.id):
            yield node.id


def _namespace(thing: Any) -> Mapping[str, Any]:
    """Return the globals that a class or function sees, and what it encloses."""
    found = dict(vars(sys.modules[thing.__module__]))
    functions = [thing] if isinstance(thing, types.FunctionType) else list(vars(thing).values())
    for function in functions:
        if isinstance(function, types.FunctionType):
            names = function.__code__.co_freevars
            for name, cell in zip(names, function.__closure__ or (), strict=True):
                if name != "__class__":
                    found[name] = cell.cell_contents
    return found

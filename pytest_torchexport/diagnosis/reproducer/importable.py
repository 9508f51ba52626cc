"""Names of classes and functions for a script: where another process imports them from."""

from __future__ import annotations

import importlib
import operator
import os
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_torchexport.diagnosis.reproducer.values import Inexpressible
from pytest_torchexport.outcomes.subject import local_packages
from pytest_torchexport.results.source_line import is_users

# Modules that have the names of others, so that people use these.
_PUBLIC = ("torch.nn", "torch.nn.functional", "torch")

PROJECT = """\
# The folders of the project that have its code.
ROOT = next((path for path in HERE.parents if (path / {file}).is_file()), Path.cwd())
sys.path[:0] = [str(ROOT / name) for name in {folders}]
{imports}"""


@dataclass
class Importable:
    """The modules that a script imports: ``installed`` ones, and those of the user's project.

    ``root`` is the project's directory. ``folders`` are relative to it, and ``file`` is one of its
    files, by which a script finds it.
    """

    root: Path
    installed: set[str] = field(default_factory=set)
    own: set[str] = field(default_factory=set)
    folders: dict[str, None] = field(default_factory=dict)
    file: str = ""

    def name(self, thing: Any) -> str:
        """Return ``package.module.name`` of a class or function. Raises Inexpressible."""
        for public in _PUBLIC:
            short = getattr(thing, "__name__", "")
            if _is_same(getattr(sys.modules[public], short, None), thing):
                return f"{public}.{short}"
        module = getattr(thing, "__module__", None) or ""
        name = getattr(thing, "__qualname__", "")
        if "<locals>" in name:
            raise Inexpressible(
                f"{name.rpartition('.')[2]} is defined inside {name.partition('.<locals>')[0]}, "
                "where no other process can import it"
            )
        try:
            found = operator.attrgetter(name)(importlib.import_module(module))
        except (ImportError, AttributeError, ValueError):
            found = None
        if not _is_same(found, thing) or module == "__main__":
            raise Inexpressible(f"{name or thing!r} cannot be imported from {module or 'anywhere'}")
        if module == "builtins":
            return name
        self._add(module)
        return f"{module}.{name}"

    def project(self) -> str:
        """Return the source that imports the project's modules; empty if there are none."""
        if not self.own:
            return ""
        for package in local_packages(self.root):
            self._folder(package)
        imports = "".join(f"import {name}  # noqa: E402\n" for name in sorted(self.own))
        folders: Sequence[str] = list(self.folders)
        return PROJECT.format(file=repr(self.file), folders=repr(folders), imports=imports)

    def _add(self, module: str) -> None:
        file = getattr(sys.modules[module], "__file__", None) or ""
        if not is_users(file):
            self.installed.add(module)
            return
        if module not in self.own and not self._folder(module):
            raise Inexpressible(f"{module} cannot be imported under that name from {file}")
        self.own.add(module)

    def _folder(self, module: str) -> bool:
        """Add the folder that a module is imported from. Return False if there is none."""
        file = getattr(sys.modules[module], "__file__", None)
        if not file:
            return False
        parts = module.split(".")
        place = Path(file).resolve()
        inside = [*parts, "__init__.py"] if place.name == "__init__.py" else [*parts]
        if not inside[-1].endswith(".py"):
            inside[-1] += place.suffix
        folder = place.parents[len(inside) - 1]
        if place != folder.joinpath(*inside):
            return False
        relative = os.path.relpath(folder, self.root.resolve())
        if relative.startswith(".."):
            return True  # whoever runs the script has it importable
        self.folders.setdefault(Path(relative).as_posix())
        self.file = self.file or Path(os.path.relpath(place, self.root.resolve())).as_posix()
        return True


def _is_same(found: Any, thing: Any) -> bool:
    """Return True for one thing, and for copies of one function, which a check may have made."""
    functions = isinstance(found, types.FunctionType) and isinstance(thing, types.FunctionType)
    return found is thing or (
        functions and found.__code__ is thing.__code__ and thing.__closure__ is None
    )

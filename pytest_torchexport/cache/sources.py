"""Find the user's files that decide what a module does: those of its code, and what they import.

Files are parsed and not imported, so that an import inside a function counts before it has run.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_torchexport.cache.digest import NoDigest
from pytest_torchexport.cache.source_text import Source, parsed
from pytest_torchexport.results.source_line import is_users


@dataclass(frozen=True, kw_only=True)
class Closure:
    """The files that modules lead to, as digests by module, and the variables that they read.

    ``registering``: the modules that give torch functions of operators.
    """

    files: tuple[tuple[str, str], ...]
    variables: tuple[tuple[str, str | None], ...]
    registering: tuple[str, ...]


def closure(modules: Iterable[str], files: Iterable[Path]) -> Closure:
    """Return the user's files among modules, files, and all that they import.

    Raises NoDigest if a file cannot be read, or as ``parsed`` does.
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
        registering=tuple(sorted(name for name, source in found.items() if source.registers)),
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
        return parsed(path.read_bytes(), path.name, name)
    except (OSError, SyntaxError, ValueError) as error:
        raise NoDigest(f"{path.name}, which cannot be read ({error})") from None

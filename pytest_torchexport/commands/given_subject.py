"""Import what a command line names: ``package.module:Net`` or ``path/to/file.py:Net``."""

from __future__ import annotations

import ast
import importlib
import inspect
import operator
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_torchexport.commands.shell import CommandError
from pytest_torchexport.config.validate import nearest
from pytest_torchexport.results.source_line import is_users, source_line

FORMS = "legal: package.module:Net, or path/to/file.py:Net"


def loaded(text: str) -> tuple[Any, str, str]:
    """Return the object that a text names, its module's name, and its own name.

    Raises CommandError.
    """
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name:
        raise CommandError(f"{text!r} names no class; {FORMS}")
    module = _of_file(Path(place)) if place.endswith(".py") else _imported(place, place)
    try:
        return operator.attrgetter(name)(module), module.__name__, name
    except AttributeError:
        own = [each for each in vars(module) if not each.startswith("_")]
        raise CommandError(f"{place} has no {name!r}.{nearest(name, own)}") from None


def _of_file(path: Path) -> ModuleType:
    """Import a file under the name that it has in its package, so that its own imports work."""
    if not path.is_file():
        raise CommandError(f"{path}: no such file")
    path = path.resolve()
    folder, names = path.parent, [path.stem]
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    sys.path.insert(0, str(folder))
    module = _imported(".".join(names), str(path))
    found = getattr(module, "__file__", None) or "built in"
    if Path(found).resolve() != path:
        raise CommandError(
            f"{path}: Python already has another module {module.__name__} ({found}); "
            "rename the file"
        )
    return module


def _imported(name: str, shown: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise CommandError(
                f"there is no module {missing!r} here; {FORMS}. Python looks in the current "
                "directory and in PYTHONPATH"
            ) from None
        raise CommandError(
            f"{shown} needs the module {missing!r}, which is not installed{_at(error)}"
        ) from None
    except Exception as error:
        raise CommandError(f"{shown} cannot be imported: {_told(error)}") from None
    except SystemExit:
        raise CommandError(
            f"{shown} ends the process when it is imported; put what it runs below "
            "if __name__ == '__main__':"
        ) from None


def parse_init(text: str) -> dict[str, Any]:
    """Return the arguments in ``hidden=8, act='relu'``. Raises CommandError."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError
        return {str(each.arg): ast.literal_eval(each.value) for each in call.keywords if each.arg}
    except (ValueError, SyntaxError):
        raise CommandError(
            f"--init {text!r} is not a list of arguments with names and plain values; legal: "
            "\"hidden=8, act='relu'\". For other values name a function that makes the module"
        ) from None


def is_made(thing: Any, *, init: bool) -> bool:
    """Return True for a class and for a factory, which makes the subject; else it is the subject.

    A function is a factory if arguments are given for it, or if it takes none.
    """
    if isinstance(thing, type):
        return True
    if not inspect.isroutine(thing):
        return False
    return init or (_has_signature(thing) and not _lacking(thing, {}))


def made(make: Callable[..., Any], arguments: Mapping[str, Any], name: str) -> Any:
    """Return what a class or a factory makes. Raises CommandError."""
    unknown, lacking = _unknown(make, arguments), _lacking(make, arguments)
    if unknown or lacking:
        problem = (
            f"needs arguments: {', '.join(lacking)}"
            if lacking
            else f"takes no argument {unknown[0]!r}"
        )
        example = ", ".join(f"{each}=..." for each in lacking) or "hidden=8"
        raise CommandError(
            f"{name}{inspect.signature(make)} {problem}; give them with --init "
            f'"{example}", or name a function that makes the module'
        )
    try:
        subject = make(**arguments)
    except Exception as error:
        raise CommandError(f"{name}() raised {_told(error)}") from None
    if not callable(subject):
        raise CommandError(
            f"{name}() returned {type(subject).__name__}, which cannot be called; it has to "
            "return a module"
        )
    return subject


def _has_signature(make: Callable[..., Any]) -> bool:
    try:
        inspect.signature(make)
    except (TypeError, ValueError):  # written in C
        return False
    return True


def _parameters(make: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(make).parameters.values()) if _has_signature(make) else []


def _lacking(make: Callable[..., Any], arguments: Mapping[str, Any]) -> list[str]:
    return [
        each.name
        for each in _parameters(make)
        if each.default is each.empty
        and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        and each.name not in arguments
    ]


def _unknown(make: Callable[..., Any], arguments: Mapping[str, Any]) -> list[str]:
    parameters = _parameters(make)
    if not parameters or any(each.kind is each.VAR_KEYWORD for each in parameters):
        return []
    return [name for name in arguments if name not in {each.name for each in parameters}]


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}{_at(error)}"


def _at(error: BaseException) -> str:
    """Return `` (net.py:12  raise ValueError)``: the user's innermost line; or nothing."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [
        source_line(frame.filename, frame.lineno)
        for frame in frames
        if frame.lineno and is_users(frame.filename)
    ]
    return f" ({lines[-1]})" if lines else ""

"""Take names of the user's out of a text that others will read."""

from __future__ import annotations

import ast
import contextlib
import inspect
import keyword
import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from pytest_torchexport.outcomes.subject import Subject

# A line of source, as reports show it: the place, two blanks, the text.
_LINE = re.compile(r"(?<![\w./\\-])[\w./\\-]+\.py:(\d+)(  .*)?")
# Names that say nothing about whose they are.
_COMMON = frozenset(
    """args attention batch bias body call channels decoder dim dims dtype embedding encoder
    features forward head hidden input inputs kwargs layer layers length lengths linear logits loss
    mask model module net out output outputs path result self shape size state value values
    weight""".split()  # noqa: SIM905  # a list of so many words is no easier to read
)
_TORCH = frozenset(
    name
    for place in (torch, torch.nn, torch.nn.functional, torch.Tensor, torch.nn.Module)
    for name in dir(place)
)
_SHORTEST = 3


def anonymous(text: str, names: Iterable[str]) -> str:
    """Return the text without lines of source and file names, and with other names for ``names``.

    A name has the same other name everywhere.
    """
    text = _LINE.sub(r"model.py:\1", text)
    ordered = sorted(names, key=lambda name: (-len(name), name))
    others = {name: f"name{number}" for number, name in enumerate(ordered, start=1)}
    if not others:
        return text
    known = re.compile(rf"(?<![A-Za-z0-9])({'|'.join(map(re.escape, ordered))})(?![A-Za-z0-9])")
    return known.sub(lambda found: others[found.group()], text)


def names_of(subject: Subject) -> set[str]:
    """Return the names that the user gave: of classes, functions, attributes and variables."""
    found = {subject.name, *subject.packages()}
    if subject.module is not None:
        found |= {part for path, _ in subject.module.named_modules() for part in path.split(".")}
    for tree in _trees(subject):
        found.update(_defined(tree))
    plain = found - _COMMON - _TORCH - set(keyword.kwlist)
    return {name for name in plain if len(name) >= _SHORTEST and not name.startswith("__")}


def _trees(subject: Subject) -> Iterator[ast.AST]:
    """Yield the parsed source of each class and function of the subject that is not torch's."""
    modules = subject.module.modules() if subject.module is not None else ()
    things: list[Any] = [*map(type, modules), subject.function]
    for thing in dict.fromkeys(things):
        if not (getattr(thing, "__module__", None) or "").startswith("torch."):
            with contextlib.suppress(OSError, TypeError, SyntaxError):
                yield ast.parse(textwrap.dedent(inspect.getsource(thing)))


def _defined(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr

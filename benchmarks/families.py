"""Families of models for `lines.py` and `reach.py`: each is a ``forward``, and what it needs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from torch import nn
from zoo.row import has, seeded

Calls = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A forward, attributes of its module, its example, and options of its check.

    ``witnesses`` are rows of calls.
    """

    name: str
    family: str
    forward: Callable[..., Any]
    targets: tuple[str, ...]
    inputs: tuple[Any, ...]
    has: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    witnesses: tuple[Calls, ...] = ()

    def build(self) -> nn.Module:
        """Return the module in eval mode, with the same weights each time."""
        return seeded(has(**self.has)(self.forward))()


class Models(dict[str, Model]):
    """Models by name."""

    def family(self, name: str, **fields: Any) -> Callable[[type], type]:
        """Add each function of a class as the forward of a model."""

        def add(cls: type) -> type:
            for own, forward in vars(cls).items():
                if inspect.isfunction(forward):
                    words, needs = own.replace("_", " "), fields | getattr(forward, "given", {})
                    model = Model(name=words, family=name, forward=forward, **needs)
                    self[f"{name}: {words}"] = model
            return cls

        return add


def given(**fields: Any) -> Callable[[Any], Any]:
    """Give a forward other fields of Model than its family has."""

    def give(forward: Any) -> Any:
        forward.given = fields
        return forward

    return give

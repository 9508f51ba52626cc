"""The targets: one way out of eager per file, and the file's name is the target's name.

Names are known without importing torch: ids, markers and error messages need only them. A target is
imported when it is used. Others add theirs by an entry point in the group ``pytest_torchexport.targets``
or by ``register_target`` in a conftest.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from functools import lru_cache
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from pytest_torchexport.targets.base import Target

__all__ = ["entry_point", "get", "names", "register_target"]

ENTRY_POINT_GROUP = "pytest_torchexport.targets"
_NOT_TARGETS = frozenset(
    {
        "base",
        "branches",
        "described",
        "devices",
        "foreign",
        "missing",
        "onnx_file",
        "ort",
        "remedies",
        "sizes",
    }
)
_registered: dict[str, Target] = {}


def register_target(name: str, target: Target) -> None:
    """Add a target under ``name`` (from a conftest). Raises ValueError where the name is taken."""
    if not name.isidentifier():
        raise ValueError(f"a target's name is an identifier, not {name!r}")
    if name == "none":
        raise ValueError("'none' means no target on the command line")
    if name in names() and _registered.get(name) is not target:
        raise ValueError(f"there is already a target named {name!r}")
    _registered[name] = target


def names() -> tuple[str, ...]:
    """Every known target, ours first, without importing any."""
    return tuple(dict.fromkeys((*_built_in(), *_entry_points(), *_registered)))


def get(name: str) -> Target:
    """The target of that name. Raises KeyError for an unknown one."""
    if name in _registered:
        return _registered[name]
    if name in _built_in():
        module = importlib.import_module(f"{__name__}.{name}")
        return cast("Target", module.TARGET)
    return cast("Target", _entry_points()[name].load())


def entry_point(name: str) -> str | None:
    """``package.module:attribute`` under which another process can import the target, or None."""
    if name in _registered:
        return None
    if name in _built_in():
        return f"{__name__}.{name}:TARGET"
    return _entry_points()[name].value


@lru_cache(maxsize=1)
def _built_in() -> tuple[str, ...]:
    order = ("trace", "script", "export", "onnx", "onnx_legacy")
    found = {info.name for info in pkgutil.iter_modules(__path__)} - _NOT_TARGETS
    return tuple(sorted(found, key=lambda name: (order.index(name) if name in order else 99, name)))


@lru_cache(maxsize=1)
def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)}

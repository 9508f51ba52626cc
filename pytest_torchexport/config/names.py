"""The names of targets and checks. pytest collects with them, so they are known without torch.

Others add targets by an entry point in the group ``pytest_torchexport.targets``, or with
``register_target`` in a conftest.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "pytest_torchexport.targets"
# Our own targets in the order of reports, and where another process can import each.
BUILT_IN = {
    "trace": "pytest_torchexport.targets.trace:TARGET",
    "script": "pytest_torchexport.targets.script:TARGET",
    "export": "pytest_torchexport.targets.export:TARGET",
    "onnx": "pytest_torchexport.targets.onnx:TARGET",
    "onnx_legacy": "pytest_torchexport.targets.onnx_legacy:TARGET",
}
# Instances of targets.base.Target, of which this room knows nothing.
_registered: dict[str, Any] = {}


def register(name: str, target: Any) -> None:
    """Add a target under a name, as ``targets.register_target`` does."""
    if isinstance(target, type):
        raise ValueError(f"target {name!r} is a class; register an instance: {target.__name__}()")
    if not name.isidentifier():
        raise ValueError(f"a target's name is an identifier, not {name!r}")
    if name == "none":
        raise ValueError("'none' means no target on the command line")
    if name in targets() and _registered.get(name) is not target:
        raise ValueError(f"there is already a target named {name!r}")
    _registered[name] = target


def targets() -> tuple[str, ...]:
    return tuple(dict.fromkeys((*BUILT_IN, *entry_points(), *_registered)))


def checks() -> tuple[str, ...]:
    """Return the names of the checks: what a marker's ``checks=`` may name."""
    from pytest_torchexport.config import flow  # not at the top: pytest's start needs no checks

    return tuple(sorted({name for step in flow.FLOW for name in step.checks}))


def registered_target(name: str) -> Any:
    """Return the target that a conftest registered under the name, or None."""
    return _registered.get(name)


def entry_point(name: str) -> str | None:
    """Return ``package.module:attribute``, with which another process can import the target.

    None for a target that a conftest registered. Raises KeyError for an unknown name.
    """
    if name in _registered:
        return None
    return BUILT_IN[name] if name in BUILT_IN else entry_points()[name].value


@lru_cache(maxsize=1)
def entry_points() -> dict[str, EntryPoint]:
    """Return the targets that installed packages declare, by name."""
    from importlib.metadata import entry_points as installed  # not at the top: it is slow to load

    return {point.name: point for point in installed(group=ENTRY_POINT_GROUP)}

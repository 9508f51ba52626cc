"""One exporter per file. An exporter makes a program; what reads a program is in ``formats``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from pytest_torchexport.config import names

if TYPE_CHECKING:
    from pytest_torchexport.targets.base import Target


def get(name: str) -> Target:
    """Return the target of that name, imported when first used. Raises KeyError for an unknown name."""
    registered = names.registered_target(name)
    if registered is not None:
        return cast("Target", registered)
    if name in names.BUILT_IN:
        module, _, attribute = names.BUILT_IN[name].partition(":")
        return cast("Target", getattr(importlib.import_module(module), attribute))
    return cast("Target", names.entry_points()[name].load())

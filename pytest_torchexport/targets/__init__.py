"""One exporter per file, behind the protocols of ``base``. A folder ``formats`` reads programs.

The names that an author of a target needs resolve here when first used: pytest's start imports this
package, and it must not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, cast

from pytest_torchexport.config import names

if TYPE_CHECKING:
    from pytest_torchexport.targets.base import (
        Artifact,
        DirectArtifact,
        NotApplicable,
        Target,
        TargetTraits,
    )
    from pytest_torchexport.targets.formats.branches import Branches
    from pytest_torchexport.targets.formats.devices import BakedDevice
    from pytest_torchexport.targets.formats.facts import ProgramFacts
    from pytest_torchexport.targets.formats.sizes import Suspicion

__all__ = [
    "Artifact",
    "BakedDevice",
    "Branches",
    "DirectArtifact",
    "NotApplicable",
    "ProgramFacts",
    "Suspicion",
    "Target",
    "TargetTraits",
    "get",
]

_HOMES = {
    "Artifact": "base",
    "BakedDevice": "formats.devices",
    "Branches": "formats.branches",
    "DirectArtifact": "base",
    "NotApplicable": "base",
    "ProgramFacts": "formats.facts",
    "Suspicion": "formats.sizes",
    "Target": "base",
    "TargetTraits": "base",
}


def get(name: str) -> Target:
    """Return the target of that name, imported when first used. Raises KeyError if unknown."""
    registered = names.registered_target(name)
    if registered is not None:
        return registered
    if name in names.BUILT_IN:
        module, _, attribute = names.BUILT_IN[name].partition(":")
        return cast("Target", getattr(importlib.import_module(module), attribute))
    return cast("Target", names.entry_points()[name].load())


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value

"""One exporter per file, behind the protocols of ``base``. A folder ``formats`` reads programs.

The names that an author of a target needs resolve here when first used: pytest's start imports this
package, and it must not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, cast

from pytest_torchexport.config import names

if TYPE_CHECKING:
    from pytest_torchexport.inputs.dynamic_shapes import dynamic_shapes as dynamic_shapes
    from pytest_torchexport.inputs.pytrees import Call as Call
    from pytest_torchexport.inputs.spec import InputSpec as InputSpec
    from pytest_torchexport.targets.base import Artifact as Artifact
    from pytest_torchexport.targets.base import DirectArtifact as DirectArtifact
    from pytest_torchexport.targets.base import MadeOf as MadeOf
    from pytest_torchexport.targets.base import NotApplicable as NotApplicable
    from pytest_torchexport.targets.base import Target as Target
    from pytest_torchexport.targets.base import TargetTraits as TargetTraits
    from pytest_torchexport.targets.formats.facts import BakedDevice as BakedDevice
    from pytest_torchexport.targets.formats.facts import Branches as Branches
    from pytest_torchexport.targets.formats.facts import ProgramFacts as ProgramFacts
    from pytest_torchexport.targets.formats.sizes import Suspicion as Suspicion

_HOMES = {
    "Artifact": "targets.base",
    "BakedDevice": "targets.formats.facts",
    "Branches": "targets.formats.facts",
    "Call": "inputs.pytrees",
    "DirectArtifact": "targets.base",
    "InputSpec": "inputs.spec",
    "MadeOf": "targets.base",
    "NotApplicable": "targets.base",
    "ProgramFacts": "targets.formats.facts",
    "Suspicion": "targets.formats.sizes",
    "Target": "targets.base",
    "TargetTraits": "targets.base",
    "dynamic_shapes": "inputs.dynamic_shapes",
}

__all__ = sorted([*_HOMES, "get", "register_target"])  # noqa: PLE0605  # as in the package's own


def get(name: str) -> Target:
    """Return the target of that name, imported when first used. Raises KeyError if unknown."""
    registered: Target | None = names.registered_target(name)
    if registered is not None:
        return registered
    if name in names.BUILT_IN:
        module, _, attribute = names.BUILT_IN[name].partition(":")
        return cast("Target", getattr(importlib.import_module(module), attribute))
    return cast("Target", names.entry_points()[name].load())


def register_target(name: str, target: Target) -> None:
    """Add a Target under a name, from a conftest.

    Raises ValueError if the name is taken or no identifier, or if the target is a class.
    """
    names.register(name, target)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"pytest_torchexport.{_HOMES[name]}"), name)
    globals()[name] = value
    return value

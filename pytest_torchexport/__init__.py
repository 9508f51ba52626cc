"""pytest-torchexport: is the model you ship the model you trained?

Public names are resolved when they are first used, so that importing this package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pytest_torchexport.results import failures

if TYPE_CHECKING:
    from pytest_torchexport.config.names import register_target
    from pytest_torchexport.engine import check_export
    from pytest_torchexport.plugin.fixture import TorchExport
    from pytest_torchexport.results.failures import (
        ArtifactCrashed,
        ArtifactHung,
        ArtifactRaised,
        BranchFrozen,
        DimsNarrowed,
        ExportRefused,
        Failure,
        Ineffective,
        LoadFailed,
        NotRepeatable,
        OutputsDiffer,
        RoundTripDiffers,
        SpecError,
        StateDiffers,
        StructureDiffers,
        TrainingMode,
    )
    from pytest_torchexport.results.verdict import Difference, Verdict
    from pytest_torchexport.targets.base import Artifact, NotApplicable, Target

__version__ = "0.1.0"

_HOMES = {
    "check_export": "engine",
    "register_target": "config.names",
    "Artifact": "targets.base",
    "NotApplicable": "targets.base",
    "Target": "targets.base",
    "TorchExport": "plugin.fixture",
    "Difference": "results.verdict",
    "Verdict": "results.verdict",
}
_HOMES |= dict.fromkeys(set(failures.__all__) - {"by_name"}, "results.failures")

__all__ = [
    "Artifact",
    "ArtifactCrashed",
    "ArtifactHung",
    "ArtifactRaised",
    "BranchFrozen",
    "Difference",
    "DimsNarrowed",
    "ExportRefused",
    "Failure",
    "Ineffective",
    "LoadFailed",
    "NotApplicable",
    "NotRepeatable",
    "OutputsDiffer",
    "RoundTripDiffers",
    "SpecError",
    "StateDiffers",
    "StructureDiffers",
    "Target",
    "TorchExport",
    "TrainingMode",
    "Verdict",
    "check_export",
    "register_target",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

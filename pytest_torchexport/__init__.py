"""pytest-torchexport: is the model you ship the model you trained?

Public names are imported when they are first used: importing this package imports no torch. Type
checkers read the imports below, the interpreter reads ``_HOMES``; a test holds the two together.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pytest_torchexport.results import __version__ as __version__
from pytest_torchexport.results import failures

if TYPE_CHECKING:
    from pytest_torchexport.config.options import Padding as Padding
    from pytest_torchexport.engine import check_export as check_export
    from pytest_torchexport.engine import check_loop as check_loop
    from pytest_torchexport.plugin.fixture import TorchExport as TorchExport
    from pytest_torchexport.results.failures import *  # noqa: F403  # every class in it is public
    from pytest_torchexport.results.text import raise_for_failure as raise_for_failure
    from pytest_torchexport.results.verdict import Difference as Difference
    from pytest_torchexport.results.verdict import Verdict as Verdict
    from pytest_torchexport.targets import register_target as register_target
    from pytest_torchexport.targets.base import Artifact as Artifact
    from pytest_torchexport.targets.base import NotApplicable as NotApplicable
    from pytest_torchexport.targets.base import Target as Target

_HOMES = {
    "Artifact": "targets.base",
    "Difference": "results.verdict",
    "NotApplicable": "targets.base",
    "Padding": "config.options",
    "Target": "targets.base",
    "TorchExport": "plugin.fixture",
    "Verdict": "results.verdict",
    "check_export": "engine",
    "check_loop": "engine",
    "raise_for_failure": "results.text",
    "register_target": "targets",
    **dict.fromkeys(failures.__all__, "results.failures"),
}

__all__ = sorted(_HOMES)  # noqa: PLE0605  # type checkers read the imports above


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

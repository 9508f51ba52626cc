"""Name the failure of a file that does not load in the clean process."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pytest_torchexport.outcomes.observe import Crashed, Outcome, Raised, TimedOut
from pytest_torchexport.results.failures import ArtifactCrashed, ArtifactHung, LoadFailed
from pytest_torchexport.targets.formats.missing_dependencies import remedy_of


def raise_not_loaded(problem: Outcome, printed: str, blocked: Sequence[str]) -> None:
    """Raise the failure for a file that was not loaded.

    ``blocked`` are the packages that the process does not have.
    """
    if isinstance(problem, Crashed):
        raise ArtifactCrashed(f"while it was loaded: {problem.reason}", output=printed)
    if isinstance(problem, TimedOut):
        raise ArtifactHung(f"while it was loaded: {problem}", output=printed)
    if not isinstance(problem, Raised):
        raise LoadFailed(str(problem), output=printed)
    wanted = [name for name in blocked if _names(problem.message, name)]
    gone = (f"not importable there: {', '.join(wanted)}",) if wanted else ()
    remedy = remedy_of(problem.type, problem.message)
    raise LoadFailed(
        str(problem),
        details=(*remedy.lines, *gone),
        where=problem.where,
        output=printed,
        imports=remedy.imports,
    )


def _names(text: str, package: str) -> bool:
    """Return True if a text names a package, a part of it or its operators.

    Paths and files of that name do not count.
    """
    begins, ends = r"(?:(?<![\w./\\-])|(?<=ops\.))", r"(?![\w/\\-]|\.(?:pt2?|pth|onnx)\b)"
    return re.search(begins + re.escape(package) + ends, text) is not None


def raise_if_unsound(problems: Sequence[str]) -> None:
    """Raise LoadFailed if something is wrong with the file itself."""
    if problems:
        raise LoadFailed(problems[0], details=tuple(problems[1:]))

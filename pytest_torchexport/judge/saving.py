"""Save an artifact in a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.log import Activity
from pytest_torchexport.outcomes import errors
from pytest_torchexport.outcomes.errors import text_of
from pytest_torchexport.outcomes.limits import interrupted_after
from pytest_torchexport.outcomes.observe import raised
from pytest_torchexport.results.failures import LoadFailed
from pytest_torchexport.targets.formats.load_errors import remedy_of


def written(case: Case, directory: Path) -> Path:
    """Save the artifact in a directory. Raises LoadFailed if that cannot be."""
    case.log.trying = None
    with case.log.during(Activity.SAVING), interrupted_after(case.plan.settings.time_limit):
        try:
            path: Any = case.artifact.save(directory)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            errors.raise_fault(error)
            reason, left = raised(error), ", ".join(_below(directory))
            text = text_of(error)
            known = remedy_of(reason.type, text).lines
            lines = [*known[1:], str(reason)] if known else []
            raise LoadFailed(
                f"cannot be saved: {known[0] if known else reason}",
                details=(*lines, *([f"and leaves {left} behind, half-written"] if left else [])),
                where=reason.where or case.artifact.facts.line_of(text),
            ) from None
    if isinstance(path, Path) and path.parent == directory and path.exists():
        return path
    wrote = ", ".join(_below(directory)) or "nothing"
    raise LoadFailed(
        "cannot be saved: save is to return the path of a file in the directory that it is given, "
        f"and returned {path!r}; it wrote {wrote} there"
    )


def _below(directory: Path) -> list[str]:
    found = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return [path.relative_to(directory).as_posix() for path in found]

"""The ExportedProgram of a subject, whatever the target: what torch.export captured.

Separate because several examinations ask for it, and making one takes an export.
"""

from __future__ import annotations

import torch

from pytest_torchexport.judge.case import Case
from pytest_torchexport.targets.base import Artifact


def program_of(artifact: Artifact) -> torch.export.ExportedProgram | None:
    """Return the program that an artifact is or was made from; None if there is none."""
    for program in (artifact.program, getattr(artifact.program, "exported_program", None)):
        if isinstance(program, torch.export.ExportedProgram):
            return program
    return None


def exported_program(case: Case) -> torch.export.ExportedProgram | None:
    """Return the program that the artifact is or was made from, or one that is exported now.

    None if torch.export does not take the subject.
    """
    known = program_of(case.artifact)
    if known is not None or case.foreign:
        return known
    made = case.exported_or_refused(case.call_to_export(), target="export")
    return None if isinstance(made, str) else program_of(made)

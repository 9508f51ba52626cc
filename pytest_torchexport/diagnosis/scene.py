"""The scene of a failure: the case, the failing call, and ways to try another call or artifact.

Separate from the examinations, which do not know each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from pytest_torchexport.diagnosis.onnx_models import OnnxModels, onnx_models
from pytest_torchexport.inputs.recipes import Recipe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.judge import Judge
from pytest_torchexport.judge.log import ItemLog
from pytest_torchexport.outcomes.observe import Outcome, Returned
from pytest_torchexport.results.failures import Failure, SpecError
from pytest_torchexport.results.verdict import Difference
from pytest_torchexport.targets.base import Artifact

# What torch captures for each target.
CAPTURED = {
    "trace": "trace",
    "script": "script",
    "export": "export",
    "onnx": "export",
    "onnx_legacy": "trace",
}
# How many positions a line names.
SHOWN = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A failure of an artifact on a call: the shrunk one, if the check shrinks.

    What is run here leaves no trace in the item's log.
    """

    case: Case
    failure: Failure
    recipe: Recipe

    @cached_property
    def call(self) -> Call | None:
        """The call itself, on the CPU; None if it is not legal."""
        found = self.case.accepted.call(self.recipe)
        return found.call if found is not None else None

    @cached_property
    def captured(self) -> Artifact | None:
        """The artifact that torch runs in this process: of an ONNX model, the one before it.

        None if there is none, as for a file that was made elsewhere.
        """
        case = self.case
        target = CAPTURED.get(case.plan.target)
        if case.foreign or case.runner.isolated or target is None:
            return None
        if target == case.plan.target:
            return case.artifact
        made = case.exported_or_refused(case.call_to_export(), target=target)
        return None if isinstance(made, str) else made

    @cached_property
    def expected(self) -> Returned | None:
        """Eager's outcome of the failing call, on the item's device; None if that is not legal."""
        found = self.case.accepted.call(self.recipe)
        if found is None:
            return None
        outcome = self.case.reference.on_device(found.call, found.outcome)
        return outcome if isinstance(outcome, Returned) else None

    @cached_property
    def fails(self) -> bool:
        """True if the failing call fails when it alone is run again.

        If it does not, as with a state that the export changed, it is no evidence that another call
        or another setting agrees.
        """
        return not self.agrees()

    @cached_property
    def onnx(self) -> OnnxModels | None:
        """The models between eager and ONNX Runtime; None if the artifact is no ONNX model."""
        return onnx_models(self.case)

    @cached_property
    def _judge(self) -> Judge:
        return self.judge()

    def is_eagers(self, outcome: Outcome) -> bool:
        """Return True if another program's outcome of the failing call is eager's."""
        assert self.call is not None
        assert self.expected is not None
        return not self._judge.differences([self.call], self.expected, outcome)

    def judge(self) -> Judge:
        """Return a judge of the artifact as it was run."""
        case = self.case
        judge = case.judge_of(case.runner, ItemLog(), case.random_paths)
        # The case's judge knows eager's rounding on the failing call, which takes many runs.
        return judge.take_over(case.judge)

    def agrees(self, recipe: Recipe | None = None, judge: Judge | None = None) -> bool:
        """Return True if a call is legal and does not fail; without one, the failing call."""
        try:
            found = (judge or self.judge()).call(recipe or self.recipe, counted=False)
        except SpecError:
            return False
        return found is not None and found.failure is None

    def differences(self, call: Call, expected: Returned, actual: Outcome) -> Sequence[Difference]:
        """Return the differences of two outcomes of a call, eager's rules applied."""
        return self._judge.differences([call], expected, actual)


def places(chosen: torch.Tensor) -> str:
    """Return the first places of the True elements, and how many more there are."""
    found = chosen.nonzero().tolist()
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"at {', '.join(map(str, found[:SHOWN]))}{more}"


def program_of(artifact: Artifact) -> torch.export.ExportedProgram | None:
    """Return the program that an artifact is or was made from; None if there is none."""
    for program in (artifact.program, getattr(artifact.program, "exported_program", None)):
        if isinstance(program, torch.export.ExportedProgram):
            return program
    return None

"""The scene of a failure: the case, the failing call, and ways to try another call or artifact.

Separate from the examinations, which do not know each other.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

from torch import fx

from pytest_torchexport.checks.state import LENGTH
from pytest_torchexport.diagnosis.onnx_models import OnnxModels, onnx_models
from pytest_torchexport.inputs.recipes import Recipe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import DEADLY, Case
from pytest_torchexport.judge.judge import Judge, carried_differences
from pytest_torchexport.judge.log import ItemLog
from pytest_torchexport.outcomes.observe import (
    Outcome,
    Raised,
    Returned,
    Tensors,
    observe,
    tensors_of,
)
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.diagnosis import Place
from pytest_torchexport.results.failures import Failure, StateDiffers
from pytest_torchexport.results.verdict import Difference
from pytest_torchexport.targets.base import Artifact
from pytest_torchexport.targets.formats.facts import line_of_fx

# What torch captures for each target.
CAPTURED = {
    "trace": "trace",
    "script": "script",
    "export": "export",
    "onnx": "export",
    "onnx_legacy": "trace",
}

# What eager returns in a row of calls, each with the state after it.
Row: TypeAlias = Iterable[tuple[Outcome, Tensors]]


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
    def beside(self) -> Beside | None:
        """The artifact's failing call; None if eager as it is does the same.

        Then it takes more than this call to fail. None too if the call ends the process.
        """
        return self._beside(self.judge(), "the artifact does")

    @cached_property
    def beside_captured(self) -> Beside | None:
        """The failing call of what torch captured for an ONNX file.

        The file may choose otherwise among equal numbers, or return other containers.
        """
        captured, case = self.captured, self.case
        if captured is None or captured is case.artifact:
            return None
        judge = case.judge_of(case.runner_of(captured), ItemLog(), case.random_paths)
        return self._beside(judge, "torch captured")

    def _beside(self, judge: Judge, words: str) -> Beside | None:
        if self.call is None or isinstance(self.failure, DEADLY):
            return None
        beside = Beside(self, self.call, judge, words)
        return None if beside.does(beside.run(beside.subject())) else beside

    @cached_property
    def expected(self) -> Returned | None:
        """Eager's outcome of the failing call, on the item's device; None if that is not legal."""
        found = self.case.accepted.call(self.recipe)
        if found is None:
            return None
        outcome = self.case.reference.on_device(found.call, found.outcome)
        return outcome if isinstance(outcome, Returned) else None

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

    def differences(self, call: Call, expected: Returned, actual: Outcome) -> Sequence[Difference]:
        """Return the differences of two outcomes of a call, eager's rules applied."""
        return self._judge.differences([call], expected, actual)


class Beside:
    """The failing call of an artifact, with which eager is compared.

    ``words``: what that artifact does, for a sentence.
    """

    def __init__(self, scene: Scene, call: Call, judge: Judge, words: str) -> None:
        self.scene, self.call, self.words = scene, call, words
        self.plan = scene.case.plan
        # A state shows in a row of calls.
        self.times = LENGTH if isinstance(scene.failure, StateDiffers) else 1
        self._row = judge.in_a_row([call] * self.times)

    def subject(self) -> Subject:
        return self.scene.case.reference.pristine.copy().to(self.plan.device)

    def run(
        self,
        subject: Subject,
        call: Call | None = None,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> Row:
        """Yield what a subject returns, call after call."""
        given = self.call.to(self.plan.device)
        on_device = given if call is None else call.to(self.plan.device)
        for _ in range(self.times):
            with context():
                outcome = observe(
                    subject.function, on_device, seed=self.plan.seed, grad_mode=subject.grad_mode
                )
            if call is not None and isinstance(outcome, Returned):
                outcome = replace(outcome, inputs=given)  # the other call is no difference
            yield outcome, tensors_of(subject.module) if self.times > 1 else {}

    def does(self, row: Row) -> bool:
        """Return True if the artifact does the same in each call of a row."""
        return all(
            self._is_same(outcome, tensors, *theirs)
            for (outcome, tensors), theirs in zip(row, self._row, strict=False)
        )

    def _is_same(
        self, outcome: Outcome, tensors: Tensors, theirs: Outcome, carried: Tensors
    ) -> bool:
        if isinstance(outcome, Raised) and isinstance(theirs, Raised):
            # TorchScript puts the class of an exception into its text.
            return bool(outcome.message) and outcome.message.strip("'\"") in theirs.message
        if not isinstance(outcome, Returned) or self.scene.differences(self.call, outcome, theirs):
            return False
        tolerance = self.scene.case.judge.tolerance
        return self.times == 1 or not carried_differences(tensors, carried, tolerance)


def place_of(node: fx.Node) -> Place:
    """Return the place of a node of an ExportedProgram.

    Of an operator in a helper function torch keeps the line of ``forward`` that calls the helper.
    """
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    module = ""
    if len(stack) > 1:
        path, cls = stack[-1]
        name = cls if isinstance(cls, str) else cls.__name__
        module = f"{path} ({name.rpartition('.')[2]})"
    # Of one that takes a part of a result, what made it.
    made = node.all_input_nodes[0] if node.target is operator.getitem else node
    named = getattr(made.target, "overloadpacket", None) or getattr(made.target, "__name__", "")
    return Place(operator=str(named), module=module, where=line_of_fx(node))

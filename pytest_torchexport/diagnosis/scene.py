"""The scene of a failure: case and failing call, ways to try another call or artifact, and facts.

Separate from the examinations, which do not know each other.
"""

from __future__ import annotations

import operator
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import fx

from pytest_torchexport import targets
from pytest_torchexport.diagnosis.refusal import explained
from pytest_torchexport.diagnosis.remedies import words_of
from pytest_torchexport.eager.fingerprint import StateRef, changed, reach
from pytest_torchexport.eager.preflight import changed_at
from pytest_torchexport.explore.conditions import ConditionId, ConditionOutcome
from pytest_torchexport.inputs.recipes import Recipe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import DEADLY, Case, made_or_refused
from pytest_torchexport.judge.judge import LENGTH, Judge, carried_differences
from pytest_torchexport.judge.log import ItemLog
from pytest_torchexport.outcomes.compare import compare
from pytest_torchexport.outcomes.observe import (
    Outcome,
    Raised,
    Returned,
    Tensors,
    observe,
    raised,
    tensors_of,
)
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.outcomes.torch_state import GradMode
from pytest_torchexport.results.diagnosis import NOTHING, Diagnosis, Place
from pytest_torchexport.results.failures import (
    ArtifactRaised,
    BranchFrozen,
    Failure,
    OutputsDiffer,
    StateDiffers,
    StructureDiffers,
    ends_the_test,
)
from pytest_torchexport.results.source_line import SourceLine, source_line
from pytest_torchexport.results.verdict import Difference
from pytest_torchexport.targets.base import Artifact, NotApplicable
from pytest_torchexport.targets.formats.facts import frames_of_fx, users_place
from pytest_torchexport.targets.formats.onnx_model import FILENAME
from pytest_torchexport.targets.formats.onnx_runtime import (
    AS_SHIPPED,
    Inside,
    Optimizations,
    ReferenceFile,
    TensorFile,
    run_inside,
)
from pytest_torchexport.targets.onnx_artifact import OnnxArtifact

# What torch captures for each target.
CAPTURED = {
    "trace": "trace",
    "script": "script",
    "export": "export",
    "onnx": "export",
    "onnx_legacy": "trace",
    "openvino": "export",
    "openvino_trace": "trace",
    "aoti": "export",
    "executorch": "export",
}

# The artifact does something else on a call than eager; of BranchFrozen it is known why.
UNEXPLAINED = (ArtifactRaised, OutputsDiffer, StateDiffers, StructureDiffers)
DIFFERS = (*UNEXPLAINED, BranchFrozen)

# What eager returns in a row of calls, each with the state after it.
Row: TypeAlias = Iterable[tuple[Outcome, Tensors]]
Context: TypeAlias = Callable[[], AbstractContextManager[Any]]
# Conditions in the order in which they were decided, each with its outcome.
Decisions: TypeAlias = Sequence[tuple[ConditionId, ConditionOutcome]]
Compares: TypeAlias = Callable[[Call, Returned, Outcome], Sequence[Difference]]


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
    def decided(self) -> tuple[Decisions, Decisions] | None:
        """The decisions of forward in the call of the export: in eager, and while it is captured.

        None if what was captured agrees with eager on this call, or if this is not known.
        """
        case, call, captured = self.case, self.case.call_to_export(), self.captured
        observed, by = case.observed, CAPTURED.get(case.plan.target)
        if captured is None or observed is None:
            return None
        expected = case.reference.on_device(call, case.reference.on_cpu(call))
        made = case.runner_of(captured).run(call, case.plan.seed)
        if not isinstance(expected, Returned) or not compare(expected, made, case.judge.tolerance):
            return None
        with observed.installed():
            eager = observed.run(call)
        path = observed.path_of(lambda: case.exported_or_refused(call, target=by))
        own, there = (
            [(event.key[0], event.outcome) for event in each.events] if each is not None else []
            for each in (eager, path)
        )
        times = len(there) // len(own) if own else 0  # the capture may run forward several times
        return own, own if times and there == own * times else there

    @cached_property
    def refusal(self) -> Diagnosis:
        """The diagnosis of why torch captures nothing for an ONNX model where it captures alone."""
        case, target = self.case, CAPTURED.get(self.case.plan.target)
        if case.foreign or case.runner.isolated or target in (None, case.plan.target):
            return NOTHING
        try:
            case.exported(case.call_to_export(), target=target)
        except Exception as error:
            if ends_the_test(error):
                raise
            return explained(error, target)
        return NOTHING

    @cached_property
    def beside(self) -> Beside | None:
        """The artifact's failing call; None if eager as it is does the same.

        Then it takes more than this call to fail. None too if the call ends the process.
        """
        return self._beside(self.judge, "the artifact does", self.differences)

    @cached_property
    def beside_captured(self) -> Beside | None:
        """The failing call of what torch captured for an ONNX file.

        The file may choose otherwise among equal numbers, or return other containers. What torch
        runs on both sides is compared as it is: of equal numbers both choose the same.
        """
        captured, case = self.captured, self.case
        if captured is None or captured is case.artifact:
            return None
        judge = case.judge_of(case.runner_of(captured), ItemLog(), case.random_paths)

        def differences(call: Call, expected: Returned, actual: Outcome) -> Sequence[Difference]:
            found, random = compare(expected, actual, judge.tolerance), case.random_paths
            return [item for item in found if item.path not in random or item.kind != "values"]

        return self._beside(judge, "torch captured", differences)

    def _beside(self, judge: Judge, words: str, differences: Compares) -> Beside | None:
        if self.call is None or isinstance(self.failure, DEADLY):
            return None
        beside = Beside(self, self.call, judge, words, differences)
        return None if beside.agrees(self.subject()) else beside

    def agrees_if_exported(self, *, grad_mode: GradMode | None = None) -> bool:
        """Return True if an artifact that is exported on the CPU, in another mode perhaps, agrees
        with eager on the failing call.
        """
        case, call = self.case, self.call
        wanted = case.reference.on_cpu(call) if call is not None else None
        if call is None or not isinstance(wanted, Returned):
            return False
        example = case.call_to_export()
        artifact = case.exported_or_refused(example, device="cpu", grad_mode=grad_mode)
        if isinstance(artifact, str):
            return False
        found = observe(artifact, call, seed=case.plan.seed, grad_mode=case.reference.served)
        return not compare(wanted, found, case.judge.tolerance)

    @cached_property
    def expected(self) -> Returned | None:
        """Eager's outcome of the failing call, on the item's device; None if that is not legal."""
        found = self.case.accepted.call(self.recipe)
        outcome = found and self.case.reference.on_device(found.call, found.outcome)
        return outcome if isinstance(outcome, Returned) else None

    @cached_property
    def shipped(self) -> OnnxModel | None:
        """The model that ONNX Runtime ran; None if none runs in this process.

        Raises whatever saving raises.
        """
        artifact = self.case.artifact
        in_here = isinstance(artifact, OnnxArtifact) and not self.case.runner.isolated
        return self._saved(artifact) if in_here else None

    @cached_property
    def plain(self) -> OnnxModel | str:
        """The model without the exporter's optimizer, or why there is none."""
        case = self.case
        plain = dict(case.artifact.unoptimized)  # type: ignore[attr-defined]

        def made() -> OnnxModel | NotApplicable:
            # From the subject: an ExportedProgram that was translated once is not translated alike
            # again, as torch.onnx inserts its promotions of dtypes once more.
            artifact = case.exported(case.call_to_export(), options=plain)
            return artifact if isinstance(artifact, NotApplicable) else self._saved(artifact)

        return made_or_refused(made)

    def _saved(self, artifact: Any) -> OnnxModel:
        directory = tempfile.TemporaryDirectory(prefix="torchexport-")
        path = artifact.save(Path(self.case.resources.enter_context(directory)))
        return OnnxModel(case=self.case, artifact=artifact, path=path)

    @cached_property
    def judge(self) -> Judge:
        """The judge of the artifact as it was run, which knows eager's rounding there."""
        return self.case.judge.aside()

    def subject(self) -> Subject:
        return self.case.reference.pristine.copy().to(self.case.plan.device)

    def is_eagers(self, outcome: Outcome) -> bool:
        """Return True if another program's outcome of the failing call is eager's."""
        assert self.call is not None
        assert self.expected is not None
        return not self.differences(self.call, self.expected, outcome)

    def differences(self, call: Call, expected: Returned, actual: Outcome) -> Sequence[Difference]:
        """Return the differences of two outcomes of a call, eager's rules applied."""
        return self.judge.differences([call], expected, actual)


class Beside:
    """The failing call of an artifact, with which eager is compared by ``differences``.

    ``words``: what that artifact does, for a sentence.
    """

    def __init__(
        self, scene: Scene, call: Call, judge: Judge, words: str, differences: Compares
    ) -> None:
        self.scene, self.call, self.words = scene, call, words
        self._differences = differences
        self.plan = scene.case.plan
        # A state shows in a row of calls.
        self.times = LENGTH if isinstance(scene.failure, StateDiffers) else 1
        self._row = judge.in_a_row([call] * self.times)

    def agrees(
        self, subject: Subject, call: Call | None = None, context: Context = nullcontext
    ) -> bool:
        """Return True if the artifact does what a subject does, or does with another call."""
        return self.does(self._run(subject, call, context))

    def _run(self, subject: Subject, call: Call | None, context: Context) -> Row:
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
        tolerance = self.scene.case.judge.tolerance
        return all(
            self._is_same(outcome, theirs)
            and (self.times == 1 or not carried_differences(tensors, carried, tolerance))
            for (outcome, tensors), (theirs, carried) in zip(row, self._row, strict=False)
        )

    def _is_same(self, outcome: Outcome, theirs: Outcome) -> bool:
        if isinstance(outcome, Raised) and isinstance(theirs, Raised):
            # TorchScript puts the class of an exception into its text.
            said = bool(outcome.message) and outcome.message.strip("'\"") in theirs.message
            return said or (outcome.where is not None and outcome.where == theirs.where)
        if not isinstance(outcome, Returned):
            return False
        return not self._differences(self.call, outcome, theirs)


# -- facts for the rules about causes -------------------------------------------------------------


@dataclass(frozen=True)
class Changed:
    """A place that a call of eager changes, and the line that does.

    ``is_other``: another tensor is in the place. ``is_new``: the place was not there before.
    """

    ref: StateRef
    where: SourceLine | None
    is_other: bool
    is_new: bool


class Facts:
    """The facts that rules ask for; those that cost a run are found when one first asks."""

    def __init__(self, scene: Scene, known: Diagnosis) -> None:
        self.structural, self.place = known.structural, known.place
        self.scene = scene
        self.case = scene.case
        self.failure = scene.failure
        self.target = scene.case.plan.target
        self.artifact = words_of(self.target)
        # A file that takes arrays has no state, and no inputs but tensors.
        of_torch = targets.get(self.target).traits.library == "torch"
        self.of_arrays = self.target in CAPTURED and not of_torch

    @cached_property
    def arguments(self) -> Mapping[str, tuple[Any, Any]]:
        """The arguments that are no tensors and other than in the example: both values."""
        spec = self.case.spec
        call = self.scene.call or spec.example
        return {
            path: (before, after)
            for (path, before), after in zip(spec.flatten(spec.example), call.leaves(), strict=True)
            if isinstance(after, (bool, int, float, str)) and before != after
        }

    @cached_property
    def changes(self) -> Sequence[Changed]:
        return self.changed_by(self.scene.call or self.case.spec.example)

    def changed_by(self, call: Call) -> Sequence[Changed]:
        reference, seed = self.case.reference, self.case.plan.seed
        subject = reference.pristine.copy()
        before = reach(subject.root)
        observe(subject.function, call, seed=seed, grad_mode=subject.grad_mode)
        after = reach(subject.root)
        refs = [change.ref for change in changed(before.tokens, after.tokens)]
        lines = changed_at(reference.pristine, self.case.spec.example, seed, refs)
        return [
            Changed(
                ref,
                lines.get(ref) or reference.written_at.get(ref),
                is_other=after.tensors.get(ref) is not before.tensors.get(ref),
                is_new=ref not in before.tokens,
            )
            for ref in refs
        ]

    def in_inputs(self) -> list[Difference]:
        """Return the differences of what a call leaves in its inputs."""
        return [d for d in self.failure.differences if d.path.startswith(("inputs[", "input "))]

    def kept(self) -> str:
        """Return the constant in words: ``size of aten.view is 4 in the trace, 1 in eager: ``."""
        first = self.structural
        if first is None or first.kind not in ("constant", "stored"):
            return ""
        if first.kind == "constant" and first.eager == first.operator:
            return f"the result of {first.operator} is a constant of {self.artifact}: "
        what = f"{first.argument} of {first.operator}"
        if first.eager == first.artifact:
            return f"{what} is another constant in {self.artifact} than in eager: "
        return f"{what} is {first.artifact} in {self.artifact}, {first.eager} in eager: "


# -- ONNX ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxModel:
    """An ONNX file in a directory of its own. ``artifact``, an OnnxArtifact, translates calls."""

    case: Case
    path: Path
    artifact: Any

    @property
    def program(self) -> torch.export.ExportedProgram | None:
        """The program whose nodes are named like its values; None if there is none."""
        return getattr(self.artifact.program, "exported_program", None)

    def run(self, call: Call, optimizations: Optimizations | None = AS_SHIPPED) -> Outcome:
        """Return the outcome of a call by ONNX Runtime; without optimizations by onnx.reference."""
        try:
            if optimizations is None:
                session: Any = ReferenceFile(self.path)
            else:
                session = TensorFile(self.path, self.case.plan.device, optimizations)
        except Exception as error:
            return raised(error)
        artifact = replace(self.artifact, opened=session)
        return self.case.runner_of(artifact).run(call, self.case.plan.seed)

    def run_inside(self, call: Call) -> Inside:
        """Return every value of a call, by ONNX Runtime without its optimizations."""
        device = self.case.plan.device
        feeds = self.artifact.pack_inputs(call.to(device)).kwargs
        nodes = self.program.graph.nodes if self.program is not None else ()
        constants = {node.name for node in nodes if node.op == "call_function"}
        return run_inside(self.path, device, feeds, constants)

    def optimized(self) -> OnnxModel:
        """Return it as ONNX Runtime runs it, its own optimizations made.

        Raises whatever opening it raises.
        """
        path = self.path.with_name(f"optimized-{FILENAME}")
        TensorFile(self.path, self.case.plan.device, Optimizations(written=path))
        return replace(self, path=path)


def place_of(node: fx.Node) -> Place:
    """Return the place of a node of an ExportedProgram."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    module = ""
    if len(stack) > 1:
        path, cls = stack[-1]
        name = cls if isinstance(cls, str) else cls.__name__
        module = f"{path} ({name.rpartition('.')[2]})"
    # Of an operator in a helper function torch keeps the line of forward that calls the helper.
    at = users_place(frames_of_fx(node.meta.get("stack_trace")))
    # Of one that takes a part of a result, what made it.
    made = node.all_input_nodes[0] if node.target is operator.getitem else node
    named = getattr(made.target, "overloadpacket", None) or getattr(made.target, "__name__", "")
    where = source_line(*at) if at is not None else None
    return Place(operator=str(named), module=module, where=where)

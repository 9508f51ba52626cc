"""The facts on which rules decide: each is looked up when the first rule asks for it.

Separate from the rules, which are tested without running anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from pytest_torchexport.diagnosis.conversions import Conversion, conversions
from pytest_torchexport.diagnosis.numbers_tried import Numbers, frozen_numbers, read_numbers
from pytest_torchexport.diagnosis.scene import CAPTURED, Scene
from pytest_torchexport.eager.fingerprint import changed, fingerprint
from pytest_torchexport.eager.state_ref import StateRef
from pytest_torchexport.eager.watch import changed_at, draws_from, seeded_at, watch
from pytest_torchexport.explore.conditions import Condition
from pytest_torchexport.inputs.dynamic_shapes import EXPORTED_AT
from pytest_torchexport.inputs.recipes import LeafRecipe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.branch_results import NotExplored
from pytest_torchexport.judge.branch_table import DIVERGES
from pytest_torchexport.judge.state_differences import carried_differences
from pytest_torchexport.outcomes.compare import Tolerance
from pytest_torchexport.outcomes.observe import caches_of, observe, tensors_of
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.outcomes.tape import record
from pytest_torchexport.results.diagnosis import Structural
from pytest_torchexport.results.failures import Failure
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import Branch

ARTIFACTS = {
    "trace": "trace",
    "script": "script",
    "export": "program",
    "onnx": "ONNX file",
    "onnx_legacy": "ONNX file",
}


def words_of(target: str) -> str:
    """Return the product of a target, in words: ``the trace``."""
    return f"the {ARTIFACTS.get(target, 'artifact')}"


@dataclass(frozen=True)
class Given:
    """A size or an argument: its value in the example and in the failing call."""

    example: Any
    call: Any


@dataclass(frozen=True, kw_only=True)
class _Changes:
    """The changes that a call of eager makes to its module."""

    changed: Mapping[StateRef, SourceLine | None]
    replaced: frozenset[str]
    registered: frozenset[str]


class Evidence:
    """The facts about a failure. ``structural``: how the two sides differ; None if unknown."""

    def __init__(self, scene: Scene, structural: Structural | None) -> None:
        self.structural = structural
        self._scene = scene
        self._case = scene.case

    @property
    def target(self) -> str:
        """The target's name."""
        return self._case.plan.target

    @property
    def is_onnx(self) -> bool:
        """True if the artifact is an ONNX model: no state, and no inputs but tensors."""
        return self.target in ("onnx", "onnx_legacy")

    @property
    def artifact(self) -> str:
        """The product of the target, in words: ``the trace``."""
        return words_of(self.target)

    @property
    def failure(self) -> Failure:
        """The failure."""
        return self._scene.failure

    @cached_property
    def branch(self) -> Branch | None:
        """The condition that the failure is about."""
        where = self.failure.where
        wrong = (b for b in self._case.log.branches if DIVERGES in b.status.values())
        return next((b for b in wrong if where is not None and b.where.place == where.place), None)

    @cached_property
    def loops(self) -> Sequence[Condition]:
        """The loops that eager runs another number of times than on the example, in their order.

        Only those for which the artifact has no loop.
        """
        branches = self._case.branches
        if isinstance(branches, NotExplored):
            return ()
        there, here = branches.path(branches.example.recipe), branches.path(self._scene.recipe)
        if there is None or here is None:
            return ()
        return [
            branches.explored.conditions[key[0]]
            for key, rounds in there.loops.items()
            if here.loops.get(key, rounds) != rounds and branches.has_branch(key[0]) is False
        ]

    # -- numbers -----------------------------------------------------------------------------------

    @cached_property
    def sizes(self) -> Mapping[str, Given]:
        """The dims whose size is another than where the artifact was exported."""
        spec = self._case.spec
        sizes, at = spec.all_sizes(self._scene.recipe.sizes), spec.example_sizes
        if self._case.call_to_export() is not spec.example:
            at |= {dim.name: EXPORTED_AT for dim in self._case.frozen_sizes}
        return {name: Given(at[name], size) for name, size in sizes.items() if at[name] != size}

    @cached_property
    def arguments(self) -> Mapping[str, Given]:
        """The arguments that are no tensors and other than in the example."""
        call = self._scene.call
        if call is None:
            return {}
        pairs = zip(
            self._case.spec.flatten(self._case.spec.example),
            self._case.spec.flatten(call),
            strict=True,
        )
        return {
            path: Given(before, after)
            for (path, before), (_, after) in pairs
            if isinstance(after, (bool, int, float, str)) and before != after
        }

    @cached_property
    def agrees_with_the_examples_arguments(self) -> bool:
        """True if the call agrees once its arguments that are no tensors are the example's."""
        spec, recipe = self._case.spec, self._scene.recipe
        leaves = tuple(
            LeafRecipe(kind="example") if leaf.path in self.arguments else item
            for leaf, item in zip(spec.leaves, recipe.leaves, strict=True)
        )
        if not self.arguments or not self._scene.fails:
            return False
        return self._scene.agrees(replace(recipe, leaves=leaves))

    @cached_property
    def conversions(self) -> Sequence[Conversion]:
        """The lines at which the trace made constants; none if the target does not trace."""
        traced = CAPTURED.get(self.target) == "trace" and not self._case.foreign
        return conversions(self._case) if traced else ()

    @cached_property
    def read_in_the_call(self) -> Numbers:
        """The numbers that Python reads from tensors while the failing call is traced, by line."""
        return read_numbers(self._case, self._scene.call) if self._scene.call is not None else {}

    @cached_property
    def frozen_numbers(self) -> Numbers:
        """The lines to blame, and the numbers that Python reads there at the export.

        Empty if there are none, or if the artifact is no trace of this process.
        """
        if self.target != "trace" or self._case.foreign or self._case.runner.isolated:
            return {}
        constant = {item.where: item.decides for item in self.conversions if not item.strides}
        return frozen_numbers(self._scene, constant, self.read_in_the_call)

    @cached_property
    def read_by_eager(self) -> Mapping[SourceLine, frozenset[float]]:
        """The numbers that eager reads from tensors in the call, by line; sizes are none to it."""
        call = self._scene.call
        if call is None:
            return {}
        subject = self._subject()
        found = record(
            subject.function, call, seed=self._case.plan.seed, grad_mode=subject.grad_mode
        )
        numbers: dict[SourceLine, frozenset[float]] = {}
        for step in found.steps:
            if step.read and step.where is not None:
                numbers[step.where] = numbers.get(step.where, frozenset()).union(step.read)
        return numbers

    @cached_property
    def drawn_outside_torch(self) -> Mapping[SourceLine, str]:
        """The lines at which eager draws from a random stream outside torch, and the stream."""
        subject, example = self._case.reference.pristine, self._case.spec.example
        seed = self._case.plan.seed
        streams = watch(subject.copy(), example, seed, recorded="nothing").streams
        found = draws_from(subject, example, seed, streams) if streams else []
        return {draw.line: draw.what for draw in found}

    @cached_property
    def seeded_at(self) -> SourceLine | None:
        """The line at which forward seeds torch itself."""
        return seeded_at(
            self._case.reference.pristine, self._case.spec.example, self._case.plan.seed + 1
        )

    # -- state -------------------------------------------------------------------------------------

    @property
    def changed_by_eager(self) -> Mapping[StateRef, SourceLine | None]:
        """The places that a call of eager changes, with the line if it is known."""
        return self._after_a_call.changed

    @property
    def replaced_by_eager(self) -> frozenset[str]:
        """The paths of the buffers in whose place a call of eager puts another tensor."""
        return self._after_a_call.replaced

    @property
    def registered_by_eager(self) -> frozenset[str]:
        """The paths of the buffers that a call of eager adds to its module."""
        return self._after_a_call.registered

    @cached_property
    def changed_by_the_export(self) -> Mapping[StateRef, SourceLine | None]:
        """The places that eager changes in the call that was exported, with the line if known."""
        return self._after(self._case.call_to_export()).changed

    @cached_property
    def _after_a_call(self) -> _Changes:
        return self._after(self._scene.call or self._case.spec.example)

    def _after(self, call: Call) -> _Changes:
        subject = self._subject()
        root = subject.root
        before, held = fingerprint(root, values=True), _buffers(subject.module)
        observe(subject.function, call, seed=self._case.plan.seed, grad_mode=subject.grad_mode)
        changes, now = changed(before, fingerprint(root, values=True)), _buffers(subject.module)
        return _Changes(
            changed=self._lines_of([change.ref for change in changes]),
            replaced=frozenset(path for path in now if now[path] is not held.get(path)),
            registered=frozenset(now.keys() - held.keys()),
        )

    def _lines_of(self, refs: Sequence[StateRef]) -> Mapping[StateRef, SourceLine | None]:
        reference, example = self._case.reference, self._case.spec.example
        lines = changed_at(reference.pristine, example, self._case.plan.seed, refs)
        return {ref: lines.get(ref) or reference.written_at.get(ref) for ref in refs}

    @cached_property
    def starts_with(self) -> tuple[str, ...]:
        """The tensors of the module with which the artifact does not start, by name."""
        if self._case.foreign:
            return ()
        own = tensors_of(self._subject().module)
        differences = carried_differences(own, self._case.judge.tensors(), Tolerance(0.0, 0.0))
        return tuple(dict.fromkeys(item.path for item in differences))

    @cached_property
    def agrees_after_a_run(self) -> bool:
        """True if eager that has run the export's call before returns what the artifact does."""
        plan, subject = self._case.plan, self._subject().to(self._case.plan.device)
        example = self._case.call_to_export().to(plan.device)
        observe(subject.function, example, seed=plan.seed, grad_mode=subject.grad_mode)
        return self._returns_what_the_artifact_does(subject)

    @cached_property
    def agrees_in_eval_mode(self) -> bool:
        """True if a module in training mode returns in eval mode what the artifact does."""
        subject = self._subject().to(self._case.plan.device)
        if subject.module is None or not any(m.training for m in subject.module.modules()):
            return False
        subject.module.eval()
        return self._returns_what_the_artifact_does(subject)

    def _returns_what_the_artifact_does(self, subject: Subject) -> bool:
        call, plan = self._scene.call, self._case.plan
        if call is None:
            return False
        mode = subject.grad_mode
        return self._scene.is_the_artifacts(
            observe(subject.function, call.to(plan.device), seed=plan.seed, grad_mode=mode)
        )

    @cached_property
    def caches(self) -> frozenset[str]:
        """The names of the buffers that the state dict leaves out."""
        return caches_of(self._subject().module)

    def _subject(self) -> Subject:
        return self._case.reference.pristine.copy()


def _buffers(module: torch.nn.Module | None) -> dict[str, torch.Tensor]:
    return dict(module.named_buffers()) if module is not None else {}

"""The facts on which rules decide: each is looked up when the first rule asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from pytest_torchexport.diagnosis.interventions import Beside, beside_artifact, beside_captured
from pytest_torchexport.diagnosis.remedies import words_of
from pytest_torchexport.diagnosis.scene import CAPTURED, Scene
from pytest_torchexport.eager.fingerprint import StateRef, changed, fingerprint
from pytest_torchexport.eager.watch import changed_at, draws_from, seeded_at, watch
from pytest_torchexport.explore.conditions import Condition
from pytest_torchexport.inputs.dynamic_shapes import EXPORTED_AT
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.branch_table import DIVERGES, NotExplored
from pytest_torchexport.judge.judge import carried_differences
from pytest_torchexport.outcomes.compare import Tolerance
from pytest_torchexport.outcomes.observe import caches_of, observe, tensors_of
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.diagnosis import Structural
from pytest_torchexport.results.failures import Failure
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import Branch


@dataclass(frozen=True)
class Given:
    """A size or an argument: its value in the example and in the failing call."""

    example: Any
    call: Any


@dataclass(frozen=True, kw_only=True)
class Changes:
    """The changes that a call of eager makes to its module.

    ``changed``: the places, with the line if it is known. ``replaced`` and ``registered`` are the
    paths of buffers in whose place the call puts another tensor, and that it adds.
    """

    changed: Mapping[StateRef, SourceLine | None]
    replaced: frozenset[str]
    registered: frozenset[str]


class Facts:
    """The facts about a failure. ``structural``: how the two sides differ; None if unknown."""

    def __init__(self, scene: Scene, structural: Structural | None) -> None:
        self.structural = structural
        self.scene = scene
        self.case = scene.case
        self.target = scene.case.plan.target
        self.artifact = words_of(self.target)
        self.failure: Failure = scene.failure
        # An ONNX model has no state, and no inputs but tensors.
        self.is_onnx = self.target in ("onnx", "onnx_legacy")

    @cached_property
    def beside(self) -> Beside | None:
        """The failing call with which interventions on eager are compared."""
        return beside_artifact(self.scene)

    @cached_property
    def beside_trace(self) -> Beside | None:
        """The failing call of what torch traced, if the artifact is a trace or was made of one."""
        if CAPTURED.get(self.target) != "trace" or self.case.foreign:
            return None
        return beside_captured(self.scene) if self.is_onnx else self.beside

    @cached_property
    def branch(self) -> Branch | None:
        """The condition that the failure is about."""
        where = self.failure.where
        wrong = (b for b in self.case.log.branches if DIVERGES in b.status.values())
        return next((b for b in wrong if where is not None and b.where.place == where.place), None)

    @cached_property
    def loops(self) -> Sequence[Condition]:
        """The loops that eager runs another number of times than on the example, in their order.

        Only those for which the artifact has no loop.
        """
        branches = self.case.branches
        if isinstance(branches, NotExplored):
            return ()
        there, here = branches.path(branches.example.recipe), branches.path(self.scene.recipe)
        if there is None or here is None:
            return ()
        return [
            branches.explored.conditions[key[0]]
            for key, rounds in there.loops.items()
            if here.loops.get(key, rounds) != rounds and branches.has_branch(key[0]) is False
        ]

    @cached_property
    def sizes(self) -> Mapping[str, Given]:
        """The dims whose size is another than where the artifact was exported."""
        spec = self.case.spec
        sizes, at = spec.all_sizes(self.scene.recipe.sizes), spec.example_sizes
        if self.case.call_to_export() is not spec.example:
            at |= {dim.name: EXPORTED_AT for dim in self.case.frozen_sizes}
        return {name: Given(at[name], size) for name, size in sizes.items() if at[name] != size}

    @cached_property
    def arguments(self) -> Mapping[str, Given]:
        """The arguments that are no tensors and other than in the example."""
        spec, call = self.case.spec, self.scene.call
        if call is None:
            return {}
        pairs = zip(spec.flatten(spec.example), spec.flatten(call), strict=True)
        return {
            path: Given(before, after)
            for (path, before), (_, after) in pairs
            if isinstance(after, (bool, int, float, str)) and before != after
        }

    @cached_property
    def drawn_outside_torch(self) -> Mapping[SourceLine, str]:
        """The lines at which eager draws from a random stream outside torch, and the stream."""
        subject, example = self.case.reference.pristine, self.case.spec.example
        seed = self.case.plan.seed
        _, streams = watch(subject.copy(), example, seed, recorded="nothing")
        found = draws_from(subject, example, seed, streams) if streams else []
        return {draw.line: draw.what for draw in found}

    @cached_property
    def seeded_at(self) -> SourceLine | None:
        """The line at which forward seeds torch itself."""
        case = self.case
        return seeded_at(case.reference.pristine, case.spec.example, case.plan.seed + 1)

    @cached_property
    def changes(self) -> Changes:
        """The changes that the failing call makes."""
        return self._changed_by(self.scene.call or self.case.spec.example)

    @cached_property
    def changed_by_the_export(self) -> Mapping[StateRef, SourceLine | None]:
        """The places that eager changes in the call that was exported, with the line if known."""
        return self._changed_by(self.case.call_to_export()).changed

    def _changed_by(self, call: Call) -> Changes:
        subject = self._subject()
        root = subject.root
        before, held = fingerprint(root, values=True), _buffers(subject.module)
        observe(subject.function, call, seed=self.case.plan.seed, grad_mode=subject.grad_mode)
        changes, now = changed(before, fingerprint(root, values=True)), _buffers(subject.module)
        return Changes(
            changed=self._lines_of([change.ref for change in changes]),
            replaced=frozenset(path for path in now if now[path] is not held.get(path)),
            registered=frozenset(now.keys() - held.keys()),
        )

    def _lines_of(self, refs: Sequence[StateRef]) -> Mapping[StateRef, SourceLine | None]:
        reference, example = self.case.reference, self.case.spec.example
        lines = changed_at(reference.pristine, example, self.case.plan.seed, refs)
        return {ref: lines.get(ref) or reference.written_at.get(ref) for ref in refs}

    @cached_property
    def starts_with(self) -> tuple[str, ...]:
        """The tensors of the module with which the artifact does not start, by name."""
        if self.case.foreign:
            return ()
        own = tensors_of(self._subject().module)
        differences = carried_differences(own, self.case.judge.tensors(), Tolerance(0.0, 0.0))
        return tuple(dict.fromkeys(item.path for item in differences))

    @cached_property
    def caches(self) -> frozenset[str]:
        """The names of the buffers that the state dict leaves out."""
        return caches_of(self._subject().module)

    def _subject(self) -> Subject:
        return self.case.reference.pristine.copy()


def _buffers(module: torch.nn.Module | None) -> dict[str, torch.Tensor]:
    return dict(module.named_buffers()) if module is not None else {}

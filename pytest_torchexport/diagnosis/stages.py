"""Find the owner of a failure: the step between two stages, the second of which is not eager's.

The stages between eager and the artifact are tried on the failing call. The owner follows from the
first that differs unless a rule knows better: a cause in the model's own code is the model's,
though eager agrees with every stage but the last. If torch captured something else than eager and
nothing tells why, the owner is not known: Python's decisions and numbers, which torch cannot
capture, are the model's.

Of an ONNX model the operator is found too, and the user's line of it. The ExportedProgram has the
nodes of the model by the same names, and knows their lines. It is run on the values that ONNX
Runtime computed: the first node of which torch makes another value, of the same operands, and whose
value alone makes the program wrong, is the one.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import fx

from pytest_torchexport.diagnosis.first_difference import ROUNDING
from pytest_torchexport.diagnosis.scene import OnnxModel, Scene, place_of
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge import narrow
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.changed_file import ChangedFile
from pytest_torchexport.judge.runner import Runnable
from pytest_torchexport.outcomes.compare import gap, largest_error
from pytest_torchexport.outcomes.observe import Outcome, Raised, Returned, observe
from pytest_torchexport.outcomes.torch_state import plain_attention
from pytest_torchexport.results.diagnosis import Cause, CauseKind, Diagnosis, Owner, Stage
from pytest_torchexport.results.escaped import on_a_line
from pytest_torchexport.results.failures import (
    LoadFailed,
    OutputsDiffer,
    RoundTripDiffers,
    StateDiffers,
)
from pytest_torchexport.targets.base import DirectArtifact, HasSteps, MadeOf
from pytest_torchexport.targets.formats.exported_program import LoadedProgram
from pytest_torchexport.targets.formats.onnx_model import fx_name
from pytest_torchexport.targets.formats.onnx_runtime import PLAIN, Inside, Optimizations
from pytest_torchexport.targets.upstream import onnx_optimizers

# Causes in how the test, or the export, is run: no code is to blame.
OF_THE_RUN: tuple[CauseKind, ...] = ("attention fast path", "mode-dependent operator")

TRACED = "artifact"
EXPORTED = "ExportedProgram"
MADE = {"trace": TRACED, "script": TRACED, "export": EXPORTED}
REFERENCE = "ONNX without the exporter's optimizer, by onnx.reference"
TRANSLATED = "ONNX without the exporter's optimizer, by ONNX Runtime without optimizations"
OPTIMIZED = "ONNX by ONNX Runtime without optimizations"
SHIPPED = "ONNX by ONNX Runtime"
# Each stage of an ONNX model in its order, and who makes it of the one before.
STEPS: dict[str, Owner] = {
    TRACED: "capture",
    EXPORTED: "capture",
    REFERENCE: "translation",
    TRANSLATED: "runtime",
    OPTIMIZED: "exporter's optimizer",
    SHIPPED: "runtime's optimizer",
}
# So many nodes with another value are tried alone.
MOST = 12


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the stages of an artifact that torch runs, and the owner if these tell it."""
    made, artifact = MADE.get(scene.case.plan.target), scene.case.artifact
    if scene.case.foreign:
        return _arbitrated(scene, known)
    if isinstance(artifact, HasSteps):
        return _of_steps(scene, known, artifact.made_of())
    if made is None:  # the stages of an ONNX model are known
        named = known.owner if known.owner != "capture" else captured_by(scene, known)
        return replace(known, owner=named)
    if isinstance(scene.failure, LoadFailed | RoundTripDiffers):
        return _loaded(scene, known, made)
    owner: Owner | None = None
    if not any(cause.kind in OF_THE_RUN for cause in known.causes):
        # Exported and run on the CPU, it may agree with eager there.
        of_device = scene.case.plan.device != "cpu" and scene.agrees_if_exported()
        owner = "device" if of_device else captured_by(scene, known)
    here = (Stage(name="eager", agrees=True), Stage(name=made, agrees=False))
    return replace(known, stages=(*known.stages, *here), owner=known.owner or owner)


def _loaded(scene: Scene, known: Diagnosis, made: str) -> Diagnosis:
    """Add that what was ``made`` agrees with eager, and what is loaded from its file does not."""
    here = (Stage(name="eager", agrees=True), Stage(name=made, agrees=True))
    stages = (*known.stages, *here, Stage(name="loaded artifact", agrees=False))
    served = bool(scene.case.plan.settings.serve_on)
    owner: Owner | None = None if served else "saving and loading"
    return replace(known, stages=stages, owner=known.owner or owner)


def _arbitrated(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add whether onnx.reference agrees with eager on a file that somebody else made.

    Then ONNX Runtime is wrong; else the file itself is.
    """
    case, call = scene.case, scene.call
    if call is None or scene.expected is None or isinstance(scene.failure, LoadFailed):
        return known
    runner = case.by_reference()
    if runner is None:
        return known
    outcome = runner.run(call, case.plan.seed)
    why = "" if isinstance(outcome, Returned) else str(outcome)
    agrees = None if why else scene.is_eagers(outcome)
    stages = (
        Stage(name="eager", agrees=True),
        Stage(name="the file by onnx.reference", agrees=agrees, why=why),
        Stage(name=SHIPPED, agrees=False),
    )
    owner: Owner | None = known.owner
    if owner is None and agrees is not None:
        owner = "runtime" if agrees else "file"
    return replace(known, stages=(*known.stages, *stages), owner=owner)


def _of_steps(scene: Scene, known: Diagnosis, steps: Sequence[MadeOf]) -> Diagnosis:
    """Add the steps that an artifact names itself, up to the first that differs, and its owner."""
    case, call = scene.case, scene.call
    if isinstance(scene.failure, LoadFailed | RoundTripDiffers):
        return _loaded(scene, known, steps[-1].name)
    if case.runner.isolated:
        left = f"steps to {steps[-1].name}: the file may run in a clean process only"
        return replace(known, not_examined=(*known.not_examined, left))
    if call is None or scene.expected is None:
        return known
    stages, owner = [*known.stages, Stage(name="eager", agrees=True)], known.owner
    row = case.log.row if isinstance(scene.failure, StateDiffers) else None
    calls = row or [call]
    wanted, _ = case.reference.in_a_row(calls)[-1]
    if not isinstance(wanted, Returned):
        return known
    for step in steps:
        alone = DirectArtifact(
            program=step.run,
            module=step.run if isinstance(step.run, torch.nn.Module) else None,
            run=step.run,
            native_loops=case.artifact.native_loops,
        )
        runner = case.runner if step.run is case.artifact else case.runner_of(alone)
        outcome, _ = runner.in_a_row(calls, case.plan.seed)[-1]
        agrees = not scene.judge.differences(calls, wanted, outcome)
        stages.append(Stage(name=step.name, agrees=agrees))
        if not stages[-1].agrees:
            if not any(cause.kind in OF_THE_RUN for cause in known.causes):
                # Something of the capture shows, but not before this step.
                owner = step.owner if owner in (None, "capture") else owner
            break
    return replace(known, stages=tuple(stages), owner=owner)


def examine_changed(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add which function of ``after_export`` made the file wrong; none if the export is wrong."""
    artifact = scene.case.artifact
    assert isinstance(artifact, ChangedFile)
    found = artifact.changes.blamed(partial(_differs_in, scene))
    return replace(found, causes=(*found.causes, *known.causes))


def _differs_in(scene: Scene, case: Case) -> str:
    """Return how the file of another case differs from eager on the failing call, or nothing.

    By the rules of the numbers that it computes in.
    """
    if scene.call is None or scene.expected is None:
        return ""
    row = scene.case.log.row or [scene.call]
    wanted, _ = case.reference.in_a_row(row)[-1]
    outcome, _ = case.runner.in_a_row(row, case.plan.seed)[-1]
    if not isinstance(wanted, Returned):
        return ""
    differences = case.judge.differences(row, wanted, outcome)
    if differences and isinstance(outcome, Returned):
        error = largest_error(wanted.value, outcome.value)
        first = differences[0]
        return f"{error:.2g}" if error else f"{first.path} is {first.actual}, not {first.expected}"
    if differences:
        return on_a_line(str(outcome))
    try:
        narrow.judge(case)
    except OutputsDiffer as failure:
        return str(failure)
    return ""


def captured_by(scene: Scene, known: Diagnosis) -> Owner | None:
    """Return the owner if what torch captured already differs from eager; None if not known.

    torch.jit.script compiles the source, with its decisions. The others run it: if nothing that
    Python does while it is captured is other than in eager, what is recorded is wrong.
    """
    case, first = scene.case, known.structural
    if case.plan.target == "script" or known.causes or (first and first.kind == "same"):
        return "capture"
    eager = case.reference
    if first is None or eager.stateful or eager.random or eager.draws or case.questions:
        return None
    return "capture" if scene.decided and scene.decided[0] == scene.decided[1] else None


# -- ONNX ------------------------------------------------------------------------------------------


def examine_onnx(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the stages of an ONNX model that were tried, and the owner if they tell it."""
    shipped, call = scene.shipped, scene.call
    if scene.case.foreign:
        return known
    if shipped is None:
        left = "stages to ONNX Runtime: the file may run in a clean process only"
        return replace(known, not_examined=(*known.not_examined, left))
    if call is None or scene.expected is None:
        return known
    stages = sorted(_tried(scene, shipped, call), key=lambda stage: [*STEPS].index(stage.name))
    if not stages:
        return known
    owner = known.owner
    if not any(cause.kind in OF_THE_RUN for cause in known.causes):
        owner = owner or owner_of(stages)
    cause = _of_an_optimizer(scene, shipped, call, owner)
    causes = (*known.causes, cause) if cause is not None else known.causes
    return replace(known, stages=(*known.stages, *stages), owner=owner, causes=causes)


def owner_of(stages: Sequence[Stage]) -> Owner | None:
    """Return who made the first wrong stage of the last right one; None if it may be several."""
    suspects: set[Owner] = set()
    for stage in reversed(stages):
        if stage.agrees:
            break
        if stage.agrees is False:
            suspects.clear()
        suspects.add(STEPS[stage.name])
    return suspects.pop() if len(suspects) == 1 else None


def _tried(scene: Scene, shipped: OnnxModel, call: Call) -> list[Stage]:
    """Return the stages up to the first that tells the owner; none if the call does not fail.

    Those that cost an export come last.
    """

    def stage(name: str, outcome: Outcome) -> Stage:
        return Stage(name=name, agrees=scene.is_eagers(outcome))

    if scene.is_eagers(shipped.run(call)):
        return []
    stages = [Stage(name=SHIPPED, agrees=False), stage(OPTIMIZED, shipped.run(call, PLAIN))]
    if stages[-1].agrees:
        return stages
    stages.append(_captured(scene, shipped, call))
    if stages[-1].agrees is False:
        return stages
    plain = scene.plain
    if isinstance(plain, str):
        return [*stages, *(Stage(name=n, agrees=None, why=plain) for n in (TRANSLATED, REFERENCE))]
    translated = plain.run(call, PLAIN)
    stages.append(stage(TRANSLATED, translated))
    if stages[-1].agrees:
        return stages
    reference = plain.run(call, None)
    if isinstance(reference, Raised) and not isinstance(translated, Raised):
        # It lacks operators and types that ONNX Runtime has.
        return [*stages, Stage(name=REFERENCE, agrees=None, why=str(reference))]
    return [*stages, stage(REFERENCE, reference)]


def _captured(scene: Scene, shipped: OnnxModel, call: Call) -> Stage:
    """Return the stage of what torch captured before anything became ONNX."""
    case, seed, name = scene.case, scene.case.plan.seed, EXPORTED
    if shipped.program is not None:
        captured: Runnable | str = LoadedProgram(shipped.program)
    else:
        name = TRACED
        with plain_attention():
            captured = case.exported_or_refused(case.call_to_export(), target="trace")
    if isinstance(captured, str):
        return Stage(name=name, agrees=None, why=captured)
    runner = case.runner_of(captured)
    if not scene.is_eagers(runner.run(call, seed)):
        return Stage(name=name, agrees=False)
    # forward may seed torch itself, with this number: another one tells.
    other, device = runner.run(call, seed + 1), case.plan.device
    subject = scene.subject()
    own = observe(subject.function, call.to(device), seed=seed + 1, grad_mode=subject.grad_mode)
    agrees = not isinstance(own, Returned) or not scene.differences(call, own, other)
    return Stage(name=name, agrees=agrees)


def _of_an_optimizer(
    scene: Scene, shipped: OnnxModel, call: Call, owner: Owner | None
) -> Cause | None:
    """Return the optimization that is to blame, if an optimizer is, and what leaves it out."""
    if owner == "exporter's optimizer" and isinstance(scene.plain, OnnxModel):
        if not scene.is_eagers(scene.plain.run(call)):
            return None  # without it, ONNX Runtime's own optimizations are wrong
        return Cause(
            kind="exporter's optimizer",
            text="the exporter's optimizer: without it, eager and artifact agree",
            remedy="torch.onnx.export(..., optimize=False)",
        )
    if owner != "runtime's optimizer":
        return None

    def is_right(disabled: Sequence[str]) -> bool:
        optimizations = Optimizations(disabled=tuple(disabled))
        return scene.is_eagers(shipped.run(call, optimizations))

    name = guilty(is_right)
    what = "an optimization of ONNX Runtime: without any"
    remedy = "options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL"
    if name is not None:
        what = f"ONNX Runtime's {name}: without it"
        remedy = f'ort.InferenceSession(..., disabled_optimizers=["{name}"])'
    text = f"{what}, eager and artifact agree"
    return Cause(kind="runtime's optimizer", text=text, remedy=remedy)


def guilty(is_right: Callable[[Sequence[str]], bool]) -> str | None:
    """Return the optimizer without which alone the model is right; None if there is no such one.

    ``is_right`` tells it with these disabled. In their order, the first is searched with which the
    model becomes wrong: disabling an earlier one may only keep it from matching.
    """
    # Of an optimizer that is a list of rules, each rule.
    names = [one for name, rules in onnx_optimizers().items() for one in rules or (name,)]
    if not is_right(names):
        return None  # the table lacks it
    enabled = range(1, len(names))
    wrong = bisect_left(enabled, True, key=lambda number: not is_right(names[number:]))
    return names[wrong] if is_right([names[wrong]]) else None


# -- the node of an ONNX model ---------------------------------------------------------------------


def examine_nodes(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the place, if the owner is a step between the ExportedProgram and ONNX Runtime."""
    shipped = scene.shipped
    if shipped is None or scene.call is None or known.place is not None:
        return known
    model: OnnxModel | str | None = None  # the first that is wrong
    by_name = {stage.name: stage.agrees for stage in known.stages}
    unsure = known.owner is None and by_name.get(EXPORTED) and by_name.get(TRANSLATED) is False
    if unsure or known.owner in ("translation", "runtime"):
        model = scene.plain
    elif known.owner == "exporter's optimizer":
        model = shipped
    elif known.owner == "runtime's optimizer":
        model = shipped.optimized()
    if not isinstance(model, OnnxModel) or model.program is None:
        return known
    inside = model.run_inside(scene.call)
    node = _first_difference(scene, scene.call, model.program, inside)
    return replace(known, place=place_of(node)) if node is not None else known


def _first_difference(
    scene: Scene, call: Call, program: torch.export.ExportedProgram, inside: Inside
) -> fx.Node | None:
    """Return the node that brings the difference in, or at which ONNX Runtime raised."""
    module = program.module(check_guards=False)
    runner_of, seed = scene.case.runner_of, scene.case.plan.seed
    whole = _Replay(module, inside.values)
    runner_of(whole).run(call, seed)
    for node in whole.differing()[:MOST]:
        alone = _Replay(module, {node.name: inside.values[node.name]})
        if scene.is_eagers(runner_of(alone).run(call, seed)):
            continue
        for missing in whole.missing_before(node):
            for given in missing.all_input_nodes:
                without = _Replay(module, inside.values, {missing.name: given})
                runner_of(without).run(call, seed)
                if node not in without.differing():
                    return missing  # the other run left it out
        return node
    if inside.raised_at is not None:
        # As the metadata of an ONNX node says.
        name = fx_name(inside.raised_at)
        return next((node for node in module.graph.nodes if node.name == name), None)
    # If all values are right, the only one that the other run lacks was left out at the very end.
    (end,) = (node for node in module.graph.nodes if node.op == "output")
    ends = [node for node in end.all_input_nodes if whole.lacks(node)]
    return ends[0] if len(ends) == 1 else None


class _Replay(fx.Interpreter):
    """An ExportedProgram as an artifact, run on the values that another run has of its nodes.

    ``own`` are torch's values of these nodes, of operands of the other run. ``left_out`` are nodes
    that return one of their inputs, by name.
    """

    native_loops = False

    def __init__(
        self,
        module: fx.GraphModule,
        values: Mapping[str, Any],
        left_out: Mapping[str, fx.Node] = MappingProxyType({}),
    ) -> None:
        super().__init__(module)
        self._left_out = left_out
        self.values: dict[str, Any] = {}
        self.own: dict[str, Any] = {}
        for node in module.graph.nodes:
            known, value = node.meta.get("val"), values.get(node.name)
            if node.op != "call_function" or value is None:
                continue
            if isinstance(known, torch.Tensor):
                if known.is_complex() and not value.is_complex() and value.shape[-1:] == (2,):
                    value = torch.view_as_complex(value.contiguous())
                self.values[node.name] = value
            elif isinstance(known, (torch.SymInt, torch.SymFloat, int)):
                self.values[node.name] = value.item() if value.numel() == 1 else value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*Call(args, kwargs).leaves())

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self._left_out:
            return self.env[self._left_out[n.name]]
        if n.name not in self.values:
            return super().run_node(n)
        with contextlib.suppress(Exception):  # operands that torch does not take
            self.own[n.name] = super().run_node(n)
        return self.values[n.name]

    def differing(self) -> list[fx.Node]:
        """Return the nodes with another tensor, those first that differ by more than rounding."""
        gaps = {
            node: gap(own, theirs)
            for node in self.graph.nodes
            for own, theirs in [(self.own.get(node.name), self.values.get(node.name))]
            if isinstance(own, torch.Tensor) and isinstance(theirs, torch.Tensor)
        }
        apart = [node for node in gaps if gaps[node]]
        return sorted(apart, key=lambda node: gaps[node] <= ROUNDING)

    def missing_before(self, node: fx.Node) -> list[fx.Node]:
        """Return the nodes that lead to one and of which the other run has no value."""
        missing: dict[fx.Node, None] = {}
        waiting = list(node.all_input_nodes)
        while waiting:
            one = waiting.pop()
            if self.lacks(one) and one not in missing:
                missing[one] = None
                waiting += one.all_input_nodes
        return list(missing)

    def lacks(self, node: fx.Node) -> bool:
        return node.op == "call_function" and node.name not in self.values

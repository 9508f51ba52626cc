"""Find the operator of an ONNX model that brings in the difference, and the user's line of it.

The values of all nodes come from one run of ONNX Runtime; the ExportedProgram has the same nodes by
the same names, and knows their lines.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from pytest_torchexport.diagnosis.helper_lines import with_innermost_line
from pytest_torchexport.diagnosis.mixed_program import CLOSE, MixedProgram, is_close
from pytest_torchexport.diagnosis.onnx_models import OnnxModel, OnnxModels
from pytest_torchexport.diagnosis.onnx_stages import CAPTURED, TRANSLATED
from pytest_torchexport.diagnosis.scene import Scene
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.compare import Tolerance, compare
from pytest_torchexport.outcomes.observe import Outcome, Returned
from pytest_torchexport.results.diagnosis import Diagnosis, Owner, Place
from pytest_torchexport.targets.formats import onnx_model
from pytest_torchexport.targets.formats.branches import line_of_fx
from pytest_torchexport.targets.formats.onnx_inside import Inside
from pytest_torchexport.targets.formats.onnx_model import fx_name

# Two runs that are this close have the same fault.
LIKE = Tolerance(*CLOSE)


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the place, if the owner is a step between the ExportedProgram and ONNX Runtime."""
    models = scene.onnx
    if models is None or scene.call is None or known.place is not None:
        return known
    if models.sandboxed:
        left = "operator: the file may run in a clean process only, which shows no values inside"
        return dataclasses.replace(known, not_examined=(*known.not_examined, left))
    model = _model(models, known)
    if model is None or model.program is None:
        return known
    return _examined(scene, scene.call, known, models.run_inside(model, scene.call), model.program)


def _examined(
    scene: Scene,
    call: Call,
    known: Diagnosis,
    inside: Inside,
    program: torch.export.ExportedProgram,
) -> Diagnosis:
    mixed = MixedProgram(program, inside.values)
    runner, seed = scene.case.runner_of(mixed), scene.case.plan.seed

    def run() -> Outcome:
        return runner.run(call, seed)

    node = mixed.first_wrong(_IsRight(scene, run))
    if node is None:
        node = translated_by(inside.raised_at, mixed.module) or mixed.missing_output()
        place = _place(scene, call, node) if node is not None else None
        return dataclasses.replace(known, place=place)
    right = mixed.right_value(node, run)
    left_out = mixed.left_out_before(node, run) or mixed.given_by(node, run, _parts(inside))
    place = _place(scene, call, left_out or node)
    owner = known.owner
    if owner in ("runtime", None):
        owner, onnx_operator = _local(inside, node, mixed.values[node.name], right, owner)
        place = dataclasses.replace(place, operator=onnx_operator or place.operator)
    return dataclasses.replace(known, owner=owner, place=place)


def _place(scene: Scene, call: Call, node: fx.Node) -> Place:
    return with_innermost_line(place_of(node), node, scene.case, call)


def _parts(inside: Inside) -> dict[str, Any]:
    """Return the last value that is computed for each node of torch's program, by its name."""
    return {
        onnx_model.fx_name(node): inside.values[name]
        for node in inside.model.graph.node
        for name in node.output
        if name in inside.values
    }


@dataclass
class _IsRight:
    """Tells if a run agrees with eager. To judge one is slow: not one that is like a wrong one."""

    scene: Scene
    run: Callable[[], Outcome]
    _wrong: Outcome | None = None

    def __call__(self) -> bool:
        outcome = self.run()
        if self._wrong is not None and not compare(self._wrong, outcome, LIKE):
            return False
        if self.scene.is_eagers(outcome):
            return True
        expected = self.scene.expected
        if isinstance(outcome, Returned) and expected is not None:
            apart = compare(expected, outcome, LIKE)
            self._wrong = outcome if apart else None
        return False


def _local(
    inside: Inside, node: fx.Node, wrong: Any, right: Any, owner: Owner | None
) -> tuple[Owner | None, str]:
    """Return who computes a node wrongly, and the ONNX operator if it is ONNX Runtime.

    ONNX Runtime if onnx.reference does with the same values what torch does; the translation if it
    does what ONNX Runtime does. ``owner`` if it does neither, or cannot be asked.
    """
    nodes = inside.nodes_of(node.name)
    try:
        whole = inside.recomputed(nodes)[node.name]
        if is_close(whole, wrong):
            return owner or "translation", ""
        if not is_close(whole, right):
            return owner, ""
        for part in nodes:
            values = inside.recomputed([part])
            if not all(is_close(value, inside.values[name]) for name, value in values.items()):
                return "runtime", part.op_type
    except Exception:  # onnx.reference lacks operators and types
        return owner, ""
    return "runtime", ""


def translated_by(onnx_node: Any | None, module: fx.GraphModule) -> fx.Node | None:
    """Return the node of the program that an ONNX node is a part of, as its metadata says."""
    name = fx_name(onnx_node) if onnx_node is not None else None
    return next((node for node in module.graph.nodes if node.name == name), None)


def _model(models: OnnxModels, known: Diagnosis) -> OnnxModel | None:
    """Return the first model that is wrong."""
    by_name = {stage.name: stage.agrees for stage in known.stages}
    unsure = known.owner is None and by_name.get(CAPTURED) and by_name.get(TRANSLATED) is False
    if unsure or known.owner in ("translation", "runtime"):
        return models.plain if isinstance(models.plain, OnnxModel) else None
    if known.owner in models.rewritten:
        return models.rewritten[known.owner]
    if known.owner == "exporter's optimizer":
        return models.shipped
    return models.optimized() if known.owner == "runtime's optimizer" else None


def place_of(node: fx.Node) -> Place:
    """Return the place of a node of an ExportedProgram."""
    return Place(operator=operator_of(node), module=_module_of(node), where=line_of_fx(node))


def operator_of(node: fx.Node) -> str:
    """Return ``aten.view`` of a node; of one that takes a part of a result, what made it."""
    if node.target is operator.getitem:
        return operator_of(node.all_input_nodes[0])
    return str(getattr(node.target, "overloadpacket", None) or getattr(node.target, "__name__", ""))


def _module_of(node: fx.Node) -> str:
    """Return the path and class of the submodule that a node is in, empty for the module itself."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if len(stack) < 2:
        return ""
    path, cls = stack[-1]
    name = cls if isinstance(cls, str) else cls.__name__
    return f"{path} ({name.rpartition('.')[2]})"

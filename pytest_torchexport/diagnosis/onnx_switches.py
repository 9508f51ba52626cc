"""Find the optimization that makes an ONNX model wrong, and the switch that leaves it out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_torchexport.diagnosis.onnx_models import OnnxModel, OnnxModels
from pytest_torchexport.diagnosis.scene import Scene
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.results.diagnosis import Cause, Diagnosis
from pytest_torchexport.targets.formats.onnx_inside import PLAIN
from pytest_torchexport.targets.formats.onnx_optimizers import OPTIMIZERS, RULES
from pytest_torchexport.targets.formats.onnx_runtime import Optimizations

# More optimizers than these that are wrong each by itself are not named.
MOST = 4
LEVEL = "options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL"
SAVED = "rewritten.onnx"

IsRight = Callable[[tuple[str, ...]], bool]


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the optimization that is to blame, if an optimizer is."""
    models, call = scene.onnx, scene.call
    if models is None or call is None:
        return known
    cause = None
    if known.owner == "runtime's optimizer":
        cause = _of_the_runtime(scene, models, call)
    elif known.owner == "exporter's optimizer" and not isinstance(models.plain, str):
        cause = _of_the_exporter(scene, models, models.plain, call)
    return known if cause is None else dataclasses.replace(known, causes=(*known.causes, cause))


# -- ONNX Runtime's --------------------------------------------------------------------------------


def _of_the_runtime(scene: Scene, models: OnnxModels, call: Call) -> Cause:
    def is_right(disabled: tuple[str, ...]) -> bool:
        optimizations = Optimizations(disabled=disabled)
        return scene.is_eagers(models.run(models.shipped, call, optimizations))

    found = guilty(is_right)
    if not found:
        text = "an optimization of ONNX Runtime: without any, eager and artifact agree"
        return Cause(kind="runtime's optimizer", text=text, remedy=LEVEL)
    if not models.sandboxed:
        models.rewritten["runtime's optimizer"] = models.optimized(found[0].later)
    names = [each.name for each in found]
    listed = ", ".join(f'"{name}"' for name in names)
    return Cause(
        kind="runtime's optimizer",
        text=f"ONNX Runtime's {' and '.join(names)}: without it, eager and artifact agree",
        remedy=f"ort.InferenceSession(..., disabled_optimizers=[{listed}])",
    )


@dataclass(frozen=True, kw_only=True)
class Guilty:
    """An optimizer that makes the model wrong, and those that run after it."""

    name: str
    later: tuple[str, ...]


def guilty(is_right: IsRight) -> tuple[Guilty, ...]:
    """Return the optimizers without which the model is right; none if they are not found.

    ``is_right`` tells it with these disabled. In their order, the first is searched with which the
    model becomes wrong: disabling an earlier one may only keep it from matching.
    """
    found: tuple[Guilty, ...] = ()
    while True:
        disabled = tuple(each.name for each in found)
        if found and is_right(disabled):
            return found
        others = [name for name in OPTIMIZERS if name not in disabled]
        if len(found) == MOST or not is_right((*disabled, *others)):
            return ()
        first = _first_wrong(others, disabled, is_right)
        later = (*disabled, *others[others.index(first) + 1 :])
        rules = RULES.get(first, ())
        if rules and is_right((*rules, *later)):
            first = _first_wrong(rules, later, is_right)
            later = (*rules[rules.index(first) + 1 :], *later)
        found = (*found, Guilty(name=first, later=later))


def _first_wrong(names: Sequence[str], always: tuple[str, ...], is_right: IsRight) -> str:
    """Return the first name that must be enabled, with those before it, for a wrong result."""
    right, wrong = 0, len(names)
    while wrong - right > 1:
        enabled = (right + wrong) // 2
        if is_right((*always, *names[enabled:])):
            right = enabled
        else:
            wrong = enabled
    return names[wrong - 1]


# -- the exporter's --------------------------------------------------------------------------------


def _of_the_exporter(
    scene: Scene, models: OnnxModels, plain: OnnxModel, call: Call
) -> Cause | None:
    if not scene.is_eagers(models.run(plain, call)):
        return None  # without it, ONNX Runtime's own optimizations are wrong
    name = None
    for step in rewritten(plain):
        model = dataclasses.replace(plain, path=step.path)
        if not scene.is_eagers(models.run(model, call, PLAIN)):
            name = step.name
            models.rewritten["exporter's optimizer"] = model
            break
    what = f"the exporter's optimizer, {name}" if name else "the exporter's optimizer"
    return Cause(
        kind="exporter's optimizer",
        text=f"{what}: without it, eager and artifact agree",
        remedy="torch.onnx.export(..., optimize=False)",
    )


@dataclass(frozen=True)
class Rewritten:
    """A model after one more step of the exporter's optimizer."""

    name: str
    path: Path


def rewritten(plain: OnnxModel) -> Iterator[Rewritten]:
    """Yield the model after each step that changes it, as far as onnxscript can make them."""
    from onnxscript import ir

    model = ir.load(plain.path)
    for name, apply in _steps():
        if apply(model):
            path = plain.path.with_name(SAVED)
            ir.save(model, path)
            yield Rewritten(name, path)


def _steps() -> Iterator[tuple[str, Callable[[Any], bool]]]:
    """Yield the steps of onnxscript's optimizer; each returns True if it changes the model."""
    from onnxscript import optimizer

    def folded(model: Any) -> bool:
        return bool(optimizer.fold_constants(model).modified)

    def inlined(model: Any) -> bool:
        had = bool(model.functions)
        optimizer.inline(model)
        return had

    yield "inlining functions", inlined
    for _ in range(2):
        yield "folding constants", folded
        yield from _rules()


def _rules() -> Iterator[tuple[str, Callable[[Any], bool]]]:
    try:
        from onnxscript.rewriter import RewriteRule, RewriteRuleSet
        from onnxscript.rewriter.rules import common
    except ImportError:
        return

    def rewriting(rules: list[Any]) -> Callable[[Any], bool]:
        return lambda model: bool(RewriteRuleSet(rules).apply_to_model(model))

    for name in common.__all__:
        rule = getattr(common, name)
        if isinstance(rule, RewriteRule | RewriteRuleSet):
            yield f"onnxscript's {name}", rewriting(list(getattr(rule, "rules", [rule])))

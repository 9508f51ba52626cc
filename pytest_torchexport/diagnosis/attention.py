"""Examine attention: does the call fail only with torch.nn's fast path?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import nn

from pytest_torchexport.diagnosis.scene import SHOWN, Scene, places
from pytest_torchexport.inputs.pytrees import is_plain
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.other_runs import leaves_after
from pytest_torchexport.outcomes.compare import unequal
from pytest_torchexport.outcomes.observe import Returned, observe
from pytest_torchexport.outcomes.torch_state import plain_attention
from pytest_torchexport.results.diagnosis import Cause, Diagnosis
from pytest_torchexport.results.verdict import Difference

# In eval mode and without gradients, their forward runs a fused kernel if the arguments allow it.
WITH_FAST_PATH = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
SWITCH = "torch.backends.mha.set_fastpath_enabled(False)"
NESTED = "enable_nested_tensor=False"


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add that attention's fast path is the cause, and what it changes in eager alone."""
    return dataclasses.replace(known, causes=(*known.causes, *_causes(scene)))


def _causes(scene: Scene) -> Iterator[Cause]:
    case = scene.case
    parts = _with_fast_path(case.reference.pristine.module)
    found = case.accepted.call(scene.recipe) if parts else None
    if found is None or not scene.fails:
        return
    with plain_attention():
        if scene.agrees():
            result = "eager returns what the artifact does"
        elif scene.agrees_exported_again():
            result = "set before the export too, eager and artifact agree"
        else:
            return
        plain = case.reference.on_device(found.call, case.reference.on_cpu(found.call))
    fused = case.reference.on_device(found.call, found.outcome)
    remedy, lines = SWITCH, tuple[str, ...]()
    if isinstance(fused, Returned) and isinstance(plain, Returned):
        changed = scene.differences(found.call, fused, plain)
        lines = tuple(_changed_in_eager(scene, item, fused, plain) for item in changed)
        if changed and _is_by_nested_tensors(scene, found.call, plain):
            remedy += f" or {NESTED}"
    yield Cause(
        kind="attention fast path",
        text=f"the fast path of {', '.join(parts[:SHOWN])}: with {remedy}, {result}",
        remedy=remedy,
        details=lines,
    )


def _with_fast_path(module: nn.Module | None) -> list[str]:
    """Return the outermost modules that have a fast path, by path and class."""
    found: dict[str, str] = {}
    for path, part in module.named_modules() if module is not None else ():
        inside = any(f"{path}.".startswith(f"{outer}." if outer else "") for outer in found)
        if isinstance(part, WITH_FAST_PATH) and not part.training and not inside:
            found[path] = f"{path} ({type(part).__name__})".strip()
    return list(found.values())


def _is_by_nested_tensors(scene: Scene, call: Call, plain: Returned) -> bool:
    """Return True if eager without nested tensors returns what it does without the fast path."""
    plan = scene.case.plan
    subject = scene.case.reference.pristine.copy().to(plan.device)
    modules = subject.module.modules() if subject.module is not None else ()
    for part in modules:
        if isinstance(part, nn.TransformerEncoder):
            part.use_nested_tensor = False
    outcome = observe(
        subject.function, call.to(plan.device), seed=plan.seed, grad_mode=subject.grad_mode
    )
    return not scene.differences(call, plain, outcome)


def _changed_in_eager(scene: Scene, item: Difference, fused: Returned, plain: Returned) -> str:
    """Return what eager alone returns with and without the fast path."""
    before, after = (leaves_after(outcome, {}).get(item.path) for outcome in (fused, plain))
    if item.kind != "values" or not is_plain(before) or not is_plain(after):
        return f"eager alone: {item.path} is {item.expected} with it, {item.actual} without it"
    differing = unequal(before, after, scene.case.judge.tolerance)
    at = places(differing.any(-1) if differing.dim() > 1 else differing)
    fast, slow = _all_are(before[differing]), _all_are(after[differing])
    return f"eager alone: {item.path} {at} is {fast} with it, {slow} without it"


def _all_are(values: torch.Tensor) -> str:
    if values.isnan().all():
        return "nan"
    return "0" if not values.any() else "other numbers"

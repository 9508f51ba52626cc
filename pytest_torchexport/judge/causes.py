"""Find the cause of a failing call: something without which eager and the artifact agree on it.

This runs after a failure and never changes its class. A cause is named only if the call was made
without it and did not fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from pytest_torchexport.inputs.pytrees import is_plain
from pytest_torchexport.inputs.recipes import Recipe, build_leaves, with_leaves
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.calibrate import leaves_after
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.explain import DEADLY
from pytest_torchexport.judge.judge import Judge
from pytest_torchexport.judge.log import ItemLog
from pytest_torchexport.outcomes.compare import unequal
from pytest_torchexport.outcomes.observe import Returned, observe
from pytest_torchexport.outcomes.torch_state import plain_attention, without_warnings
from pytest_torchexport.results.failures import Failure, SpecError
from pytest_torchexport.results.verdict import Difference
from pytest_torchexport.targets.base import NotApplicable

# In eval mode and without gradients, their forward runs a fused kernel if the arguments allow it.
WITH_FAST_PATH = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
SWITCH = "torch.backends.mha.set_fastpath_enabled(False)"
# What masks an element, and what does not. Models disagree on what True means.
BOOL_MASKS = ((False, True), (True, False))
FLOAT_MASKS = ((-torch.inf, 0.0),)
# How many modules and positions a line names.
SHOWN = 4


def causes(case: Case, recipe: Recipe, failure: Failure) -> tuple[str, ...]:
    """Return lines for the report on a failing call, none if no cause was found."""
    if isinstance(failure, DEADLY):
        return ()
    case.plan.progress("causes")
    # Those of a further export are not about the artifact.
    with case.log.timed("shrinking"), without_warnings():
        return (*_fast_path(case, recipe), *_masked_rows(case, recipe))


def _unlogged(case: Case) -> Judge:
    return case.judge_of(case.runner, ItemLog(), case.random_paths)


def _agrees(judge: Judge, recipe: Recipe) -> bool:
    """Return True if the call is legal and does not fail."""
    try:
        judgment = judge.call(recipe, counted=False)
    except SpecError:
        return False
    return judgment is not None and judgment.failure is None


# -- attention's fast path -------------------------------------------------------------------------


def _fast_path(case: Case, recipe: Recipe) -> Iterator[str]:
    """Yield that attention's fast path is the cause, and what it changes in eager alone."""
    parts = _with_fast_path(case.reference.pristine.module)
    found = case.accepted.call(recipe) if parts else None
    if found is None:
        return
    with plain_attention():
        if _agrees(_unlogged(case), recipe):
            result = "eager returns what the artifact does"
        elif _agrees_exported_again(case, recipe):
            result = "set before the export too, eager and artifact agree"
        else:
            return
        plain = case.reference.on_device(found.call, case.reference.on_cpu(found.call))
    fused = case.reference.on_device(found.call, found.outcome)
    switch, lines = SWITCH, tuple[str, ...]()
    if isinstance(fused, Returned) and isinstance(plain, Returned):
        changed = _unlogged(case).differences([found.call], fused, plain)
        lines = tuple(_changed_in_eager(item, fused, plain, case) for item in changed)
        if changed and _is_by_nested_tensors(case, found.call, plain):
            switch += " or enable_nested_tensor=False"
    yield f"cause: the fast path of {', '.join(parts[:SHOWN])}: with {switch}, {result}"
    yield from lines


def _with_fast_path(module: nn.Module | None) -> list[str]:
    """Return the outermost modules that have a fast path, by path and class."""
    found: dict[str, str] = {}
    for path, part in module.named_modules() if module is not None else ():
        inside = any(f"{path}.".startswith(f"{outer}." if outer else "") for outer in found)
        if isinstance(part, WITH_FAST_PATH) and not part.training and not inside:
            found[path] = f"{path} ({type(part).__name__})".strip()
    return list(found.values())


def _agrees_exported_again(case: Case, recipe: Recipe) -> bool:
    """Return True if an artifact that is exported now does not fail on the call."""
    if case.foreign or case.runner.isolated or case.artifact.native_loops:
        return False
    artifact = case.exported_or_refused(case.call_to_export())
    if isinstance(artifact, NotApplicable | str):
        return False
    judge = case.judge_of(case.runner_of(artifact), ItemLog(), case.random_paths)
    return _agrees(judge, recipe)


def _is_by_nested_tensors(case: Case, call: Call, plain: Returned) -> bool:
    """Return True if eager without nested tensors returns what it does without the fast path."""
    subject = case.reference.pristine.copy().to(case.plan.device)
    modules = subject.module.modules() if subject.module is not None else ()
    for part in modules:
        if isinstance(part, nn.TransformerEncoder):
            part.use_nested_tensor = False
    outcome = observe(subject.function, call.to(case.plan.device), seed=case.plan.seed)
    return not _unlogged(case).differences([call], plain, outcome)


def _changed_in_eager(item: Difference, fused: Returned, plain: Returned, case: Case) -> str:
    """Return what eager alone returns with and without the fast path."""
    before, after = (leaves_after(outcome, {}).get(item.path) for outcome in (fused, plain))
    if item.kind != "values" or not is_plain(before) or not is_plain(after):
        return f"eager alone: {item.path} is {item.expected} with it, {item.actual} without it"
    differing = unequal(before, after, case.judge.tolerance)
    places = _places(differing.any(-1) if differing.dim() > 1 else differing)
    fast, slow = _all_are(before[differing]), _all_are(after[differing])
    return f"eager alone: {item.path} {places} is {fast} with it, {slow} without it"


def _all_are(values: torch.Tensor) -> str:
    if values.isnan().all():
        return "nan"
    return "0" if not values.any() else "other numbers"


def _places(chosen: torch.Tensor) -> str:
    """Return the first places of the True elements, and how many more there are."""
    places: Sequence[Any] = chosen.nonzero().tolist()
    more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    return f"at {', '.join(map(str, places[:SHOWN]))}{more}"


# -- rows of a mask --------------------------------------------------------------------------------


def _masked_rows(case: Case, recipe: Recipe) -> Iterator[str]:
    """Yield the masks of which the call fails only with rows that mask every element."""
    values = build_leaves(case.spec, recipe)
    if values is None:
        return
    for index, (leaf, value) in enumerate(zip(case.spec.leaves, values, strict=True)):
        for masked, kept in _masks(value):
            rows = (value == masked).all(-1)
            if not rows.any():
                continue
            opened = value.detach().clone()
            opened[..., 0].masked_fill_(rows, kept)
            if _agrees(_unlogged(case), with_leaves(recipe, {index: opened})):
                yield (
                    f"cause: {leaf.path} is all {masked} {_places(rows)}: with one {kept} there, "
                    "eager and artifact agree"
                )


def _masks(value: Any) -> Sequence[tuple[Any, Any]]:
    """Return the values of a mask; none for a tensor that cannot be one."""
    if not is_plain(value) or value.dim() < 2 or not value.numel():
        return ()
    if value.dtype == torch.bool:
        return BOOL_MASKS
    return FLOAT_MASKS if value.is_floating_point() else ()
